"""Whether a part's weights are those of its config, by the headers of their files: no tensor is read, nothing is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from raymia.errors import ConfigError, first_line
from raymia.replica.parts import Parts, class_of, library_of, name_of, require_complete
from raymia.replica.weight_files import Header, check_dtypes, read_headers

SLACK = 4
"""A config may describe that many times the values that the weights hold; more is refused before anything is made of it."""
COUNTED = ("num_batches_tracked", "position_ids")
"""Ends of the names of tensors that hold whole numbers."""


def check_tensors(parts: Parts, part: str, headers: dict[str, Header] | None = None, sharded: bool = False) -> None:
    """Refuse a part whose weight files lack a tensor of its class, have one too many, or one of another shape or kind.

    The class is built from its config on torch's meta device, and the files' names are turned into its own as its library
    does when it loads them. Classes of other libraries than diffusers and transformers are checked when they are loaded.

    Args:
        parts: of the pipeline.
        part: its folder's name.
        headers: of its weights, where they are not in its folder.
        sharded: whether those are of several files.

    Raises:
        ConfigError: names the tensor; or nothing can be built from the config.
    """
    place, path = parts.folder / part, parts.declared[part]
    if headers is None:
        weights = parts.weights(part)
        headers, sharded = read_headers(weights), weights.index is not None
    compare = {"diffusers": _as_diffusers, "transformers": _as_transformers}.get(library_of(path).partition(".")[0])
    if compare is not None:
        require_complete(name_of(path), place, *compare(class_of(path), place, headers, sharded))


@contextmanager
def _building(kind: Any, place: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Whatever a library makes of a config that somebody else wrote.
        raise ConfigError(
            f"{place}/config.json: no {kind.__name__} can be built from it ({type(error).__name__}: {first_line(error)})"
        ) from error


def check_built(parts: Parts, part: str) -> None:
    """Refuse a config from which its class, of diffusers or transformers, cannot be built; nothing is allocated.

    Raises:
        ConfigError: names the config, and what the library says.
    """
    if library_of(parts.declared[part]) in ("diffusers", "transformers"):
        with torch.device("meta"):
            new_part(parts, part)


def new_part(parts: Parts, part: str) -> torch.nn.Module:
    """A part of a class of diffusers or transformers, by its config, with weights of no meaning, on the default device.

    Raises:
        ConfigError: names the config, and what the library says.
    """
    kind = class_of(parts.declared[part])
    with _building(kind, parts.folder / part):
        return _built(kind, parts.folder / part)


def _built(kind: Any, place: Path) -> torch.nn.Module:
    """An instance of a class of diffusers or transformers, by its config."""
    if hasattr(kind, "from_config"):
        return kind.from_config(kind.load_config(place, local_files_only=True))  # type: ignore[no-any-return]
    return kind(kind.config_class.from_pretrained(place, local_files_only=True))  # type: ignore[no-any-return]


Compared = tuple[set[str], set[str], list[tuple[str, tuple[int, ...], tuple[int, ...]]]]
"""Names that are missing, names that are left over, and names with the files' shape and the config's."""


def _as_diffusers(kind: Any, place: Path, headers: dict[str, Header], sharded: bool) -> Compared:
    with _building(kind, place), torch.device("meta"):
        model: Any = _built(kind, place)
    expected = dict(model.state_dict())
    # Attention blocks of before 2023 have other names, which the library turns into today's in weights of one file.
    named = headers if sharded else model._fix_state_dict_keys_on_load(dict(headers))
    both = expected.keys() & named.keys()
    check_dtypes(named, [name for name in sorted(both) if expected[name].is_floating_point()], place)
    mismatched = [
        (name, named[name].shape, tuple(expected[name].shape))
        for name in sorted(both)
        if named[name].shape != tuple(expected[name].shape)
    ]
    return expected.keys() - both, named.keys() - both, mismatched


def _as_transformers(kind: Any, place: Path, headers: dict[str, Header], sharded: bool) -> Compared:
    check_dtypes(headers, [name for name in sorted(headers) if not name.endswith(COUNTED)], place)
    with _building(kind, place), torch.device("meta"):
        config = kind.config_class.from_pretrained(place, local_files_only=True)
        described = sum(tensor.numel() for tensor in kind(config).state_dict().values())
    held = sum(torch.Size(header.shape).numel() for header in headers.values())
    if described > SLACK * held:
        raise ConfigError(
            f"{place}: the config describes {described} values and the weights hold {held}; one of them is of another model"
        )
    # The library's own loading, of tensors that take no memory: one number, seen in every place.
    placeholders = {name: torch.zeros(()).expand(header.shape) for name, header in headers.items()}
    options = {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True}
    with _building(kind, place):
        _, info = kind.from_pretrained(None, config=config, state_dict=placeholders, **options)
    return info["missing_keys"], info["unexpected_keys"], [(n, tuple(a), tuple(b)) for n, a, b in info["mismatched_keys"]]
