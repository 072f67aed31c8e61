"""Damage done to bytes and texts by a seeded random: the same seed does the same damage."""

from __future__ import annotations

import io
import json
import math
import random
import struct
import tarfile
import zlib
from typing import Any

EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
"""Numbers at which arithmetic on sizes goes wrong."""
NAMES = (
    "a", "0001", "a.b", ".a", "._a", "a..", "..", ".", "../a", "/a", "a/b", "a/../b", "ü", "u\u0308", "a b", "a\nb",
    "a\x1b[31m",
    "__a__", "__MACOSX/._a", "a" * 99, "a" * 300, "\udcff", "con", "a{b}", "[a]", "*", "a?b", "é.x", "🙂",
)  # fmt: skip
"""Keys that tars in the wild have, or that somebody made up to harm."""
ENDINGS = (
    ".jpg",
    ".JPG",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".txt",
    ".TXT",
    ".json",
    ".seg.png",
    ".cls",
    ".pkl",
    ".tar",
    "",
    ".",
)


def mutate(content: bytes, rng: random.Random, most: int = 6) -> bytes:
    """A copy with up to `most` edits: flipped bits, edge values, and pieces that are cut, doubled, swapped or made up."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, most)):
        _edit(changed, rng)
    return bytes(changed)


def _edit(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content) + 1)
    size = min(rng.choice((1, 2, 4, 8, 64, 512, 4096)), len(content) - at)
    match rng.randrange(7):
        case 0 if size:
            content[at] ^= 1 << rng.randrange(8)
        case 1 if size:
            width = rng.choice((1, 2, 4, 8))
            edge = (rng.choice(EDGES) % 2 ** (8 * width)).to_bytes(width, rng.choice(("big", "little")))
            content[at : at + width] = edge[: len(content) - at]
        case 2:
            del content[at : at + size]
        case 3:
            content[at:at] = content[at : at + size]
        case 4:
            content[at:at] = rng.randbytes(rng.choice((1, 3, 16, 512)))
        case 5 if len(content) > 1:
            del content[rng.randrange(len(content)) :]
        case _:
            other = rng.randrange(len(content) + 1)
            content[at : at + size] = content[other : other + size]


def mutate_text(text: str, rng: random.Random, words: tuple[str, ...]) -> str:
    """A copy of a text in which words are put in, and lines are cut, doubled, swapped and indented."""
    lines = text.splitlines() or [""]
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(lines))
        line = lines[at]
        place = rng.randrange(len(line) + 1)
        match rng.randrange(6):
            case 0:
                lines[at] = line[:place] + rng.choice(words) + line[place:]
            case 1:
                lines[at] = line[:place] + rng.choice(words)
            case 2:
                lines.insert(rng.randrange(len(lines) + 1), line)
            case 3 if len(lines) > 1:
                del lines[at]
            case 4:
                lines[at] = " " * rng.randrange(5) + line.lstrip()
            case _:
                key, colon, _ = line.partition(":")
                lines[at] = f"{key}{colon} {rng.choice(words)}"
    return "\n".join(lines) + "\n"


def mutate_tar(content: bytes, rng: random.Random) -> bytes:
    """A copy of a tar with a header that lies and has the right checksum, or with bytes that are damaged anywhere."""
    if rng.random() < 0.3:
        return mutate(content, rng)
    changed = bytearray(content)
    blocks = len(changed) // tarfile.BLOCKSIZE
    for _ in range(rng.randint(1, 3)):
        start = tarfile.BLOCKSIZE * rng.randrange(max(1, blocks))
        header = changed[start : start + tarfile.BLOCKSIZE]
        if len(header) < tarfile.BLOCKSIZE:
            continue
        field = rng.choice(((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
        header[field[0] : field[0] + field[1]] = _tar_field(field, rng)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % (sum(header) & 0o777777)
        changed[start : start + tarfile.BLOCKSIZE] = header
    return bytes(changed)


def _tar_field(field: tuple[int, int], rng: random.Random) -> bytes:
    start, size = field
    if start == 156:
        return rng.choice((b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S", b"X", b"V", b"\0", b"\xff"))
    if start == 124 and rng.random() < 0.8:
        number = rng.choice(EDGES)
        return b"\x80" + (number % 2**88).to_bytes(11, "big") if rng.random() < 0.5 else b"%011o\0" % (number % 8**11)
    if rng.random() < 0.5:
        return (rng.choice(NAMES) + rng.choice(ENDINGS)).encode("utf-8", "surrogateescape")[:size].ljust(size, b"\0")
    return rng.randbytes(size)


def odd_tar(rng: random.Random, contents: tuple[bytes, ...]) -> bytes:
    """A tar that a writer made without fault, of members that nobody expects."""
    buffer = io.BytesIO()
    style = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=style, errors="surrogateescape") as tar:
        for _ in range(rng.randint(0, 12)):
            entry = tarfile.TarInfo(rng.choice(NAMES) + rng.choice(ENDINGS))
            content = rng.choice(contents)
            entry.type = rng.choice(
                (tarfile.REGTYPE,) * 12 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE)
            )
            entry.linkname = rng.choice(NAMES) if entry.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            entry.size = len(content) if entry.isreg() else 0
            try:
                tar.addfile(entry, io.BytesIO(content) if entry.isreg() else None)
            except (ValueError, UnicodeError):  # a name that this style of tar cannot hold
                continue
    return buffer.getvalue()


def mutate_png(content: bytes, rng: random.Random) -> bytes:
    """A copy of a PNG with damaged, doubled or made-up chunks whose checksums are right."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    for _ in range(rng.randint(1, 3)):
        where = rng.randrange(len(chunks) + 1)
        kinds = (
            b"tRNS",
            b"PLTE",
            b"gAMA",
            b"iCCP",
            b"zTXt",
            b"iTXt",
            b"eXIf",
            b"acTL",
            b"fcTL",
            b"fdAT",
            b"sBIT",
            b"IDAT",
            b"IHDR",
        )
        if chunks and rng.random() < 0.6:
            kind, body = chunks[min(where, len(chunks) - 1)]
            chunks[min(where, len(chunks) - 1)] = (kind, mutate(body, rng, 2))
        else:
            chunks.insert(where, (rng.choice(kinds), rng.randbytes(rng.choice((0, 1, 4, 13, 300)))))
    framed = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return content[:8] + b"".join(framed)


def mutate_safetensors(content: bytes, rng: random.Random) -> bytes:
    """A copy of safetensors whose header is well made and lies: other names, shapes, dtypes, places and metadata."""
    size = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + size])
    for _ in range(rng.randint(1, 3)):
        _edit_header(header, rng)
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + content[8 + size :]


def _edit_header(header: dict[str, Any], rng: random.Random) -> None:
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return
    name = rng.choice(names)
    match rng.randrange(8):
        case 0:
            del header[name]
        case 1:
            header[_other_name(name, rng)] = header.pop(name)
        case 2:
            # Two names for one place, or more names than there are tensors.
            header[_other_name(name, rng)] = header[name]
        case 3:
            header[name], other = header[rng.choice(names)], header[name]
            header[rng.choice(names)] = other
        case 4:
            shape = list(header[name]["shape"])
            rng.shuffle(shape)
            header[name] = {**header[name], "shape": rng.choice((shape, [*shape, 1], [1, *shape], [math.prod(shape)], [0], []))}
        case 5:
            header[name] = {**header[name], "dtype": rng.choice(("F32", "I32", "U32", "F16", "BF16", "F64", "F8_E4M3", "Q4"))}
        case 6:
            field = rng.choice([*header.get("__metadata__", {}), "modelspec.prediction_type", "ss_v2", "v_pred", "ztsnr"])
            value = rng.choice(
                ("", "v", "epsilon", "true", "stable-diffusion-xl-v1-base", "sdxl", "flux-1-dev/lora", "\x1b[31m", "x" * 999)
            )
            header["__metadata__"] = {**header.get("__metadata__", {}), field: value}
        case _:
            start, end = header[name]["data_offsets"]
            header[name] = {
                **header[name],
                "data_offsets": rng.choice(([end, start], [start, start], [start, end + 4], [0, end])),
            }


def _other_name(name: str, rng: random.Random) -> str:
    parts = name.split(".")
    at = rng.randrange(len(parts))
    parts[at] = rng.choice(("0", "1", "99", "", "x", "lora_A", "lokr_w1", "dora_scale", "alpha", "v_pred", "a b", "\x1b[31m"))
    return rng.choice((".".join(parts), ".".join(parts[at:]), f"{name}.{parts[at]}", parts[at]))
