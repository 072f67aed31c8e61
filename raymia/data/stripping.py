"""Image files without what stands in them beside the first picture's pixels: it can be broken, huge, or made to harm.

A decoder that never sees text, colour profiles, EXIF or a second picture cannot fail on them. What says which way up the
picture is comes back beside the file.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from raymia.data.pillow import ImageError
from raymia.data.tiff import Entry, first_directory

MAX_METADATA_BYTES = 2**20
"""Compressed metadata that become more are left out."""
MAX_PARTS = 2**18
"""A file of more chunks, segments, blocks, strips or tiles than any picture needs is refused."""
MAX_SCANS = 200
"""A JPEG of more passes over its picture is refused; each costs time that does not depend on its length. Some ten are usual."""
JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A marker among a picture's coded data, but for those that may stand anywhere in them."""
TIFF_PIXEL_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347}
    | {*range(512, 522), 529, 530, 532}
)
"""Tags without which the picture could not be decoded; every other is left out."""
TILE_WIDTH, TILE_LENGTH = 322, 323
XMP, RAW_PROFILE = b"XML:com.adobe.xmp", b"Raw profile type exif"
"""Names of the texts in a PNG file that may say which way up it is."""


@dataclass(frozen=True)
class Stripped:
    """An image file with nothing in it but its first picture.

    Attributes:
        content: the file.
        exif: the EXIF block that was taken out, without its mark; empty without one.
        xmp: the XMP packet that was taken out; empty without one.
        announced: widths and heights that a decoder will allocate for before it says so.
    """

    content: bytes
    exif: bytes = b""
    xmp: bytes = b""
    announced: tuple[tuple[int, int], ...] = ()


def as_it_is(content: bytes) -> Stripped:
    """A file whose decoder makes nothing of what stands beside the pixels."""
    return Stripped(content)


def strip_png(content: bytes) -> Stripped:
    """A PNG file's header, palette, transparency and pixels.

    Side chunks with a wrong checksum are left out, as libpng does.

    Raises:
        ImageError: the checksum of a chunk that the pixels need is wrong, or there are too many chunks.
    """
    kept: list[bytes] = [content[:8]]
    texts: dict[bytes, bytes] = {}
    exif = b""
    position = 8
    for parts, (kind, start, end) in enumerate(_png_chunks(content), start=1):
        _bound(parts, "chunks")
        position = end
        intact = zlib.crc32(memoryview(content)[start + 4 : end - 4]) == int.from_bytes(content[end - 4 : end])
        if kind in (b"IHDR", b"PLTE", b"IDAT"):
            if not intact:
                raise _damaged(f"wrong checksum of chunk {kind.decode()} at byte {start}")
            kept.append(content[start:end])
        elif intact and kind == b"tRNS":
            kept.append(_png_chunk(kind, _shown_transparency(content, content[start + 8 : end - 4])))
        elif intact and kind == b"eXIf":
            exif = content[start + 8 : end - 4]
        elif intact and kind in (b"tEXt", b"zTXt", b"iTXt"):
            texts.update(_png_text(kind, content[start + 8 : end - 4]))
    # What there is of a chunk that breaks off goes along, so that the decoder says so.
    kept.append(content[position:] if position + 12 > len(content) else _png_chunk(b"IEND", b""))
    return Stripped(b"".join(kept), exif or _raw_profile(texts.get(RAW_PROFILE, b"")), texts.get(XMP, b""))


def strip_jpeg(content: bytes) -> Stripped:
    """A JPEG file's tables and its first picture; of the rest, JFIF's and Adobe's segments, which name the colour space.

    Raises:
        ImageError: it has too many segments or passes.
    """
    kept: list[bytes] = [content[:2]]
    position, parts = 2, 0
    exif = xmp = b""
    while content[position : position + 1] == b"\xff" and position + 4 <= len(content):
        marker = content[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4])
        if marker == 0xDA or not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9 or end > len(content) or end < position + 4:
            break
        parts += 1
        _bound(parts, "segments")
        data = content[position + 4 : end]
        if marker == 0xE1 and data.startswith(b"Exif\0\0"):
            exif += data[6:]
        elif marker == 0xE1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = data[29:]
        if not _is_jpeg_metadata(marker, data):
            kept.append(content[position:end])
        position = end
    if _scans(content, position) > MAX_SCANS:
        raise _damaged(f"more than {MAX_SCANS} scans")
    return Stripped(b"".join([*kept, content[position:]]), exif, xmp)


def strip_gif(content: bytes) -> Stripped:
    """A GIF file's first picture: comments and what applications wrote before it are left out.

    Raises:
        ImageError: there are too many blocks before it.
    """
    flags = content[10] if len(content) > 10 else 0
    start = position = 13 + ((3 << ((flags & 7) + 1)) if flags & 128 else 0)
    control, parts = b"", 0
    while content[position : position + 1] == b"!":
        block = position
        position += 2
        while size := int.from_bytes(content[position : position + 1]):
            position += size + 1
            parts += 1
            _bound(parts, "blocks")
        position += 1
        if content[block + 1 : block + 2] == b"\xf9":
            control = content[block:position]
    if len(control) > 3:
        # What becomes of the picture before the next one is nothing to a reader of the first.
        control = control[:3] + bytes([control[3] & 0b11100011]) + control[4:]
    screen = (_short(content, 6), _short(content, 8))
    corner = tuple(_short(content, position + 1 + at) + _short(content, position + 5 + at) for at in (0, 2))
    return Stripped(content[:start] + control + content[position:], announced=(screen, (corner[0], corner[1])))


def strip_tiff(content: bytes) -> Stripped:
    """A TIFF file's first picture; tags that its pixels do not need, and all other pages, are left out.

    Raises:
        ImageError: a tag announces too many values.
    """
    directory = first_directory(content)
    if directory is None:
        return Stripped(content)
    kept = {entry.tag: entry for entry in reversed(directory.entries) if entry.tag in TIFF_PIXEL_TAGS}
    for entry in kept.values():
        if entry.count > MAX_PARTS:
            raise _damaged(f"tag {entry.tag} announces {entry.count} values, more than {MAX_PARTS}")
    packed = directory.packed(tuple(entry for entry in directory.entries if kept.get(entry.tag) is entry))
    plain = content[: directory.offset] + packed + content[directory.offset + len(packed) :]
    return Stripped(plain, exif=content, announced=_tile(kept.get(TILE_WIDTH), kept.get(TILE_LENGTH)))


def strip_avif(content: bytes) -> Stripped:
    """An AVIF file whose EXIF and XMP nobody finds: which way up it is stands among its pixels' own properties."""
    return Stripped(re.sub(rb"(infe.{8}|infe.{10})(?:Exif|mime)(?=.)", rb"\1free", content, flags=re.DOTALL))


def _damaged(what: str) -> ImageError:
    return ImageError("corrupt_image", what)


def _bound(parts: int, what: str) -> None:
    if parts > MAX_PARTS:
        raise _damaged(f"more than {MAX_PARTS} {what}")


def _short(content: bytes, position: int) -> int:
    return int.from_bytes(content[position : position + 2], "little")


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each whole chunk before the end mark; a second header is none."""
    position, header = 8, False
    while position + 12 <= len(content):
        kind = content[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(content[position : position + 4])
        if kind == b"IEND" or end > len(content):
            return
        if kind != b"IHDR" or not header:
            yield kind, position, end
        header = header or kind == b"IHDR"
        position = end


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def _shown_transparency(content: bytes, data: bytes) -> bytes:
    """The colour that is transparent, in the depth that Pillow gives to pixels: of eight bits, but for grey of sixteen."""
    depth, colour = (int.from_bytes(content[at : at + 1]) for at in (24, 25))
    values = [int.from_bytes(data[at : at + 2]) for at in range(0, len(data) - 1, 2)]
    if colour == 2 and depth == 16:
        values = [value >> 8 for value in values]
    elif colour == 0 and depth in (2, 4):
        values = [value * (255 // (2**depth - 1)) & 0xFFFF for value in values]
    else:
        return data
    return b"".join(value.to_bytes(2) for value in values)


def _png_text(kind: bytes, data: bytes) -> dict[bytes, bytes]:
    """A text by its name, of those that may say which way up the picture is; none where it is broken or too large."""
    name, _, rest = data.partition(b"\0")
    if name not in (XMP, RAW_PROFILE):
        return {}
    packed = kind == b"zTXt"
    if packed:
        rest = rest[1:]
    elif kind == b"iTXt":
        packed = rest[:1] not in (b"", b"\0")
        rest = rest[2:].split(b"\0", 2)[-1]
    if packed:
        reader = zlib.decompressobj()
        try:
            rest = reader.decompress(rest, MAX_METADATA_BYTES)
        except zlib.error:
            return {}
        if reader.unconsumed_tail:
            return {}
    return {name: rest}


def _raw_profile(text: bytes) -> bytes:
    """The EXIF block that ImageMagick writes into a PNG file as a text of hexadecimal digits, in its fourth line and on."""
    try:
        return bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:])).removeprefix(b"Exif\0\0")
    except ValueError:
        return b""


def _scans(content: bytes, position: int) -> int:
    """Passes over a JPEG file's first picture, counted no further than is needed; what follows its end may be anything."""
    scans, parts = 0, 0
    while scans <= MAX_SCANS and (found := JPEG_MARKER.search(content, position)):
        position, marker = found.end(), found[0][1]
        if marker == 0xD9:
            break
        scans += marker == 0xDA
        parts += 1
        _bound(parts, "segments")
        if marker not in (0x01, 0xD8):
            position += int.from_bytes(content[position : position + 2])
    return scans


def _is_jpeg_metadata(marker: int, data: bytes) -> bool:
    if marker == 0xE0:
        return not (data.startswith(b"JFIF\0") and len(data) >= 14)
    if marker == 0xEE:
        return not (data.startswith(b"Adobe") and len(data) >= 12)
    return 0xE1 <= marker <= 0xEF or marker == 0xFE


def _tile(width: Entry | None, length: Entry | None) -> tuple[tuple[int, int], ...]:
    if width is None or length is None or width.value is None or length.value is None:
        return ()
    return ((width.value, length.value),)
