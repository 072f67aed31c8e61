"""JSON documents of a pipeline folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from raymia.documents import DocumentError, parse_json, read_document
from raymia.errors import ConfigError

MAX_BYTES = 16 * 2**20
"""Of one document; the largest in use are indices of weights, of less than one MiB."""


def read_json(path: Path, unbounded: Collection[str] = ()) -> dict[str, Any]:
    """A JSON object of a pipeline folder.

    Args:
        path: of the file.
        unbounded: its fields that may be infinite.

    Raises:
        ConfigError: it is missing, too large, or no JSON object.
    """
    try:
        content = parse_json(read_document(path, MAX_BYTES), unbounded=unbounded)
    except OSError as error:
        raise ConfigError(f"{path}: missing or unreadable; expected a pipeline folder in diffusers' layout") from error
    except DocumentError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object")
    return content


def present(index: Mapping[str, object], part: str) -> bool:
    """Whether a ``model_index.json`` says that the pipeline has a part."""
    value = index.get(part)
    return isinstance(value, list) and bool(value) and value[0] is not None
