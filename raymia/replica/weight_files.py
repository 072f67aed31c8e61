"""The safetensors files of a part of a pipeline folder: which of them are loaded, and what their headers say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from raymia.errors import ConfigError, first_line
from raymia.replica.documents import read_json

VARIANTS = (None, "fp16")
"""Of weight files, the preferred one first: each part of a pipeline is loaded from the first that it has."""
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
ELSEWHERE = {
    r"adapter_config\.json": "an adapter",
    r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors": "a distributed checkpoint",
}
"""Files of a part, as patterns, for which the libraries load something else than the part's own weights."""
POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class WeightFiles:
    """Where a part's tensors are.

    Attributes:
        variant: none, or ``fp16``.
        files: the safetensors, one or all shards.
        index: says which tensor is in which shard; none of a single file.
    """

    variant: str | None
    files: tuple[Path, ...]
    index: Path | None = None


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of a tensor before any is read: its shape, and its dtype by safetensors' name."""

    shape: tuple[int, ...]
    dtype: str


def file_names(stem: str, variant: str | None) -> tuple[str, str]:
    """The single file, and the index of shards, that hold a part's weights in a variant."""
    infix = f".{variant}" if variant else ""
    return f"{stem}{infix}.safetensors", f"{stem}.safetensors.index{infix}.json"


def weight_files(part: Path, stem: str) -> WeightFiles:
    """The files that a part is loaded from.

    Args:
        part: its folder.
        stem: of its weight files.

    Raises:
        ConfigError: there are none, more than one set of them, or not all shards; says what is there.
    """
    names = sorted(file.name for file in part.iterdir() if file.is_file()) if part.is_dir() else []
    variant, name = choose(names, stem, part)
    if not name.endswith(".json"):
        return WeightFiles(variant, (part / name,))
    index = part / name
    shards = sorted(set(placed(read_json(index), index).values()))
    missing = [shard for shard in shards if shard not in names]
    if missing:
        raise ConfigError(f"{index}: names {missing[0]}, which is not there; download it")
    return WeightFiles(variant, tuple(part / shard for shard in shards), index)


def choose(names: Sequence[str], stem: str, part: object) -> tuple[str | None, str]:
    """The variant that a part is loaded in, and its file or the index of its shards.

    Args:
        names: of the files in the part's folder.
        stem: of its weight files.
        part: the folder, named in errors.

    Raises:
        ConfigError: there are none, or more than one set of them; says what is there.
    """
    for pattern, what in ELSEWHERE.items():
        found = [name for name in names if re.fullmatch(pattern, name)]
        if found:
            raise ConfigError(f"{part}/{found[0]}: {what}, which is not supported; save the part's whole weights in one form")
    for variant in VARIANTS:
        there = [name for name in file_names(stem, variant) if name in names]
        if len(there) > 1:
            raise ConfigError(f"{part}: has both {' and '.join(there)}; remove the one that is not the model")
        if there:
            return variant, there[0]
    raise ConfigError(f"{part}: {_what_is_there(names, stem)}")


def _what_is_there(names: Sequence[str], stem: str) -> str:
    expected = " or ".join(file_names(stem, variant)[0] for variant in VARIANTS)
    found = [name for name in names if ".safetensors" in name]
    if found:
        shards = any("-of-" in name for name in found)
        lacking = f", and no {file_names(stem, None)[1]} that puts them together" if shards else ""
        return (
            f"has only {', '.join(found[:4])}{lacking}; expected {expected}: rename the weights that are meant, or remove these"
        )
    pickled = [name for name in names if name.endswith(PICKLED)]
    if pickled:
        return (
            f"no safetensors weights, only {pickled[0]}: pickled weights are never loaded; "
            "save the pipeline again with save_pretrained(..., safe_serialization=True)"
        )
    return f"no safetensors weights; expected {expected}"


def placed(content: Mapping[str, Any], index: object) -> dict[str, str]:
    """Which tensor is in which file, by an index of shards.

    Args:
        content: of the index.
        index: named in errors.

    Raises:
        ConfigError: it does not say so, or names a file that is elsewhere.
    """
    found = content.get("weight_map")
    if not isinstance(found, dict) or not found or not isinstance(content.get("metadata", {}), dict):
        raise ConfigError(f"{index}: expected a weight_map from tensors to files; download it again")
    for name in found.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigError(f"{index}: names the file {name!r}; expected the name of a safetensors file beside it")
    return found


def read_headers(weights: WeightFiles) -> dict[str, Header]:
    """Shape and dtype of every tensor by name; no tensor is read.

    Raises:
        ConfigError: a file that is no safetensors or is cut, a tensor that stands twice, or an index that says otherwise.
    """
    announced = None if weights.index is None else placed(read_json(weights.index), weights.index)
    return join({file.name: _header(file) for file in weights.files}, announced, weights.files[0].parent)


def read_metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says of itself, beside its tensors.

    Raises:
        ConfigError: see `read_headers`.
    """
    try:
        with safe_open(file, "pt") as tensors:
            return dict(tensors.metadata() or {})
    except Exception as error:
        # Whatever the library makes of somebody else's file.
        raise ConfigError(f"{file}: {unreadable(file, error)}") from error


def join(files: Mapping[str, Mapping[str, Header]], announced: Mapping[str, str] | None, part: object) -> dict[str, Header]:
    """The headers of all files as those of one model.

    Args:
        files: headers by tensor, by file.
        announced: which tensor is in which file, by the index; none of a single file.
        part: their folder, named in errors.

    Raises:
        ConfigError: a tensor that stands twice, or elsewhere than the index says.
    """
    found: dict[str, Header] = {}
    places: dict[str, str] = {}
    for file, headers in files.items():
        for name, header in headers.items():
            if name in found:
                raise ConfigError(
                    f"{part}/{file}: has the tensor {name}, which {places[name]} has too; remove one of the files"
                )
            found[name], places[name] = header, file
    wrong = [] if announced is None else [n for n in announced.keys() | places.keys() if announced.get(n) != places.get(n)]
    if announced is not None and wrong:
        name = min(wrong)
        raise ConfigError(
            f"{part}: by the index the tensor {name} is in {announced.get(name, 'no file')}, but it is in "
            f"{places.get(name, 'none')}; download the part again"
        )
    return found


def _header(file: Path) -> dict[str, Header]:
    try:
        # The library bounds the header's length by the file's and by 100 MB before it reads it.
        with safe_open(file, "pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - it is no dictionary
            return {name: Header(tuple(one.get_shape()), str(one.get_dtype())) for name, one in slices.items()}
    except Exception as error:
        # Whatever the library makes of somebody else's file.
        raise ConfigError(f"{file}: {unreadable(file, error)}") from error


def unreadable(file: Path, error: BaseException) -> str:
    """Why a weight file cannot be read, and what to do."""
    try:
        with file.open("rb") as stream:
            pointer = stream.read(len(POINTER)) == POINTER
    except OSError as problem:
        return f"cannot be read ({first_line(problem)})"
    if pointer:
        return "a pointer of git-lfs and no weights; run `git lfs pull`"
    return f"not readable as safetensors ({first_line(error)}); download it again"


def check_dtypes(headers: dict[str, Header], names: Sequence[str], part: Path) -> None:
    """Refuse tensors that are to be floating-point numbers and are stored as something else.

    Args:
        headers: of the part.
        names: of the tensors that are to be floating-point numbers.
        part: its folder, for errors.

    Raises:
        ConfigError: names the tensor and its dtype.
    """
    for name in names:
        if headers[name].dtype not in ("F64", "F32", "F16", "BF16"):
            raise ConfigError(
                f"{part}: the tensor {name} is stored as {headers[name].dtype}; quantised weights are not supported, "
                "save them as float16, bfloat16 or float32"
            )
