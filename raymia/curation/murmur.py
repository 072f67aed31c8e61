"""The hash by which LAION's tables name their rows: MurmurHash3 of URL and text, which says nothing of the image."""

from __future__ import annotations

MASK = 2**64 - 1
FIRST, SECOND = 0x87C37B91114253D5, 0x4CF5AD432745937F


def laion_hash(url: str, text: str) -> int:
    """What LAION's column `hash` holds for a row, a whole number of 64 bits with its sign: `mmh3.hash64(url + text)[0]`."""
    low = murmur3_128((url + text).encode("utf-8", "surrogatepass"))[0]
    return low - 2**64 if low >= 2**63 else low


def murmur3_128(content: bytes) -> tuple[int, int]:
    """MurmurHash3's two times 64 bits of some bytes, for computers of 64 bits, by Austin Appleby (`MurmurHash3_x64_128`)."""
    one = two = 0
    whole = len(content) // 16 * 16
    for start in range(0, whole, 16):
        one ^= _first(int.from_bytes(content[start : start + 8], "little"))
        one = (_turned(one, 27) + two) * 5 + 0x52DCE729 & MASK
        two ^= _second(int.from_bytes(content[start + 8 : start + 16], "little"))
        two = (_turned(two, 31) + one) * 5 + 0x38495AB5 & MASK
    two ^= _second(int.from_bytes(content[whole + 8 :], "little"))
    one ^= _first(int.from_bytes(content[whole : whole + 8], "little"))
    one, two = one ^ len(content), two ^ len(content)
    one = one + two & MASK
    two = two + one & MASK
    one, two = _mixed(one), _mixed(two)
    one = one + two & MASK
    return one, two + one & MASK


def _first(block: int) -> int:
    return _turned(block * FIRST & MASK, 31) * SECOND & MASK


def _second(block: int) -> int:
    return _turned(block * SECOND & MASK, 33) * FIRST & MASK


def _turned(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & MASK


def _mixed(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & MASK
    return value ^ value >> 33
