"""Image files made by hand, for what no encoder writes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed: int = 0, size: tuple[int, int] = (40, 32)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def chunk(name: bytes, data: bytes, wrong: bool = False) -> bytes:
    checksum = zlib.crc32(name + data) ^ (1 if wrong else 0)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *before: bytes) -> bytes:
    """A PNG file of rows without filters, and chunks that stand before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *before, chunk(b"IDAT", zlib.compress(filtered)), chunk(b"IEND", b"")])


def with_chunk(content: bytes, *chunks: bytes) -> bytes:
    """A PNG file with chunks behind its header."""
    return content[:33] + b"".join(chunks) + content[33:]


def with_segment(content: bytes, marker: int, data: bytes) -> bytes:
    """A JPEG file with a segment behind its first two bytes."""
    return content[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + content[2:]


def exif(orientation: int, *more: bytes) -> bytes:
    """An EXIF block with an orientation and other entries of 12 bytes each; values stand at byte 200 and on."""
    entries = [struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0), *more]
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"Exif\0\0" + block.ljust(200, b"\0") + struct.pack("<ii", -1, 0)


BROKEN_RATIONAL = struct.pack("<HHII", 0x011A, 10, 1, 200)
"""XResolution of -1/0, in an EXIF block of `exif`."""


def tiff(pixels: bytes, tags: Iterable[tuple[int, int, tuple[int, ...]]], order: str = "<") -> bytes:
    """A TIFF file of one uncompressed strip; each tag is number, type (3 or 4) and values."""
    kinds = {3: "H", 4: "I"}
    rows = sorted([*tags, (273, 4, (8,)), (279, 4, (len(pixels),))])
    directory = 8 + len(pixels)
    beyond = directory + 2 + 12 * len(rows) + 4
    entries, values = b"", b""
    for tag, kind, numbers in rows:
        packed = struct.pack(f"{order}{len(numbers)}{kinds[kind]}", *numbers)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(order + "I", beyond + len(values))
        values += packed if len(packed) > 4 else b""
        entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory)
    return head + pixels + struct.pack(order + "H", len(rows)) + entries + bytes(4) + values


def tiff_tags(width: int, height: int, photometric: int, *bits: int) -> list[tuple[int, int, tuple[int, ...]]]:
    return [
        (256, 3, (width,)),
        (257, 3, (height,)),
        (258, 3, bits),
        (259, 3, (1,)),
        (262, 3, (photometric,)),
        (277, 3, (len(bits),)),
        (278, 3, (height,)),
    ]
