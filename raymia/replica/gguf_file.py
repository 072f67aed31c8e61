"""GGUF files: what their headers say, and their tensors as the numbers that they stand for.

The header is read here within bounds, as it comes from anywhere; the blocks of rounded numbers are read by the `gguf` package.
Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raymia.errors import ConfigError, first_line
from raymia.replica.weight_files import Header

ENDING = ".gguf"
MAX_HEADER_BYTES = 2**24
MOST = 100_000
"""Tensors, fields, and values of an array."""
MAX_DIMENSIONS = 8
PLAIN = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Kinds of tensors that are not rounded, by GGUF's and safetensors' name."""
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Before a tensor's name: a field with its shape, where the tensor is stored in another."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class _Stored:
    """Where a tensor is.

    Attributes:
        kind: of its numbers, by GGUF's name, such as ``Q8_0``.
        start, size: of its bytes in the file.
    """

    shape: tuple[int, ...]
    kind: str
    start: int
    size: int


class _Reader:
    """The beginning of a file, read from front to back."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        if not 0 <= count <= MOST:
            raise ValueError(f"{count} values; expected at most {MOST}")
        found = struct.unpack_from(f"<{count}{code}", self.content, self.at)
        self.at += struct.calcsize(f"<{count}{code}")
        return found

    def one(self, code: str) -> Any:
        return self.numbers(code)[0]

    def text(self) -> str:
        size = self.one("Q")
        if size > len(self.content) - self.at:
            raise ValueError(f"a text of {size} bytes; the header is cut")
        found = self.content[self.at : self.at + size]
        self.at += size
        return found.decode()

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.one(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a field of the unknown type {kind}")
        of, count = self.one("I"), self.one("Q")
        if of in _SCALARS:
            return self.numbers(_SCALARS[of], count)
        if of != _STRING or count > MOST:
            raise ValueError(f"an array of {count} values of the type {of}")
        return tuple(self.text() for _ in range(count))


def gguf_headers(file: Path) -> dict[str, Header]:
    """Shape of every tensor by name, and the dtype, by safetensors' name, that it has when it is read.

    Raises:
        ConfigError: the file cannot be read, or is no GGUF or a damaged one; or the `gguf` package is missing.
    """
    return {
        name: Header(stored.shape, stored.kind if stored.kind in PLAIN else "BF16") for name, stored in _stored(file).items()
    }


def gguf_tensors(file: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Some tensors: plain ones as they are stored, rounded ones as the numbers that they stand for, in bfloat16.

    Raises:
        ConfigError: see `gguf_headers`; or a tensor is of a kind that the `gguf` package does not read.
    """
    stored = _stored(file)
    try:
        # numpy's map of a file keeps what is not asked for on the disk.
        content = np.memmap(file, np.uint8, "r")
        return {name: _tensor(content, stored[name]) for name in names}
    except (OSError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"{file}: a tensor cannot be read ({first_line(error)})") from error


def _tensor(content: np.ndarray, stored: _Stored) -> Tensor:
    raw = np.array(content[stored.start : stored.start + stored.size])
    if stored.kind in PLAIN:
        return torch.from_numpy(raw).view(PLAIN[stored.kind]).reshape(stored.shape)
    import gguf

    # What is not finite is refused by its name when the model is loaded.
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[stored.kind])
    return torch.from_numpy(numbers).to(torch.bfloat16).reshape(stored.shape)


def _stored(file: Path) -> dict[str, _Stored]:
    """Every tensor's place, by its name."""
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(f"{file}: GGUF is read by the package gguf; install raymia[quantised]") from error
    try:
        with file.open("rb") as stream:
            reader = _Reader(stream.read(MAX_HEADER_BYTES))
        return _read(reader, file.stat().st_size, gguf)
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise ConfigError(f"{file}: not readable as GGUF ({first_line(error)}); download it again") from error


def _read(reader: _Reader, size: int, gguf: Any) -> dict[str, _Stored]:
    if reader.content[:4] != b"GGUF":
        raise ValueError("it does not begin like one")
    reader.at = 4
    version, tensors, fields = reader.one("I"), reader.one("Q"), reader.one("Q")
    if version not in (2, 3):
        raise ValueError(f"version {version}; expected 2 or 3, little-endian")
    if tensors > MOST or fields > MOST:
        raise ValueError(f"{tensors} tensors and {fields} fields; expected at most {MOST}")
    said: dict[str, Any] = {}
    for _ in range(fields):
        name, kind = reader.text(), reader.one("I")
        said[name] = reader.value(kind)
    found: dict[str, _Stored] = {}
    for _ in range(tensors):
        name = reader.text()
        if name in found:
            raise ValueError(f"the tensor {name} stands twice")
        dimensions = reader.one("I")
        if dimensions > MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name} has {dimensions} dimensions")
        # The last dimension stands first.
        shape = tuple(reversed(reader.numbers("Q", dimensions)))
        kind = gguf.GGMLQuantizationType(reader.one("I"))
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        count = math.prod(shape)
        if not shape or not count or shape[-1] % block:
            raise ValueError(f"the tensor {name} has the shape {shape}, in blocks of {block}")
        meant = said.get(f"{ORIGINAL_SHAPE}{name}", shape)
        if not isinstance(meant, tuple) or math.prod(meant) != count or min(meant) < 1:
            raise ValueError(f"the tensor {name} is stored as {shape}, and its shape is said to be {meant}")
        found[name] = _Stored(meant, kind.name, reader.one("Q"), count // block * block_bytes)
    return _placed(found, reader.at, said.get("general.alignment", 32), size)


def _placed(found: dict[str, _Stored], header: int, alignment: object, size: int) -> dict[str, _Stored]:
    """The tensors with their places counted from the file's beginning, all of them within it and apart."""
    if not isinstance(alignment, int) or not 0 < alignment <= 2**20:
        raise ValueError(f"general.alignment is {alignment!r}")
    begin = -(-header // alignment) * alignment
    placed = {name: _Stored(one.shape, one.kind, begin + one.start, one.size) for name, one in found.items()}
    end = begin
    for name, one in sorted(placed.items(), key=lambda item: item[1].start):
        if one.start < end or one.start + one.size > size:
            raise ValueError(f"the tensor {name} stands at {one.start}, {one.size} bytes long: upon another, or cut")
        end = one.start + one.size
    return placed
