"""YAML and JSON that somebody else wrote: read within bounds, and every way in which that may fail is one error."""

from __future__ import annotations

import json
from typing import Any

import yaml

from raymia.errors import first_line


class DocumentError(ValueError):
    """A text is not what it should be; says what is wrong and where."""


def parse_yaml(text: str | bytes) -> Any:
    """The contents of a YAML text.

    Raises:
        DocumentError: it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, MemoryError) as error:
        raise DocumentError(f"not YAML: {' '.join(str(error).split())}") from error


def parse_json(text: str | bytes) -> Any:
    """The contents of a JSON text.

    Raises:
        DocumentError: it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise DocumentError(f"not JSON: {first_line(error)}") from error
