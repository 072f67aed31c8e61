"""Captioned public-domain images from Debian's ``openclipart-png`` and ``openclipart-svg`` packages.

The PNG package holds the pictures, the SVG package the title and keywords of each picture in RDF. Both are dedicated to
the public domain. Nothing is installed: the packages are downloaded by name and unpacked into a cache folder.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from raymia.errors import ConfigError

PACKAGES = ("openclipart-png", "openclipart-svg")
RELEASE = "1:0.18+dfsg-19"
"""Version of both packages."""
LICENCE = "public domain (Open Clip Art Library dedication)"
MAX_SOURCE_PIXELS = 30_000_000
# Series drawn from one template: icon themes, geometric stars, playing cards, gradients and the like.
SKIPPED_FOLDERS = (
    "computer/icons",
    "shapes/stars",
    "recreation/games/cards",
    "special",
    "shapes/jigsaw",
    "unsorted/duplicates",
)
# A 16 px grey thumbnail (values 0..1, mean removed) within this root mean square distance is a near-duplicate.
NEAR_DUPLICATE_RMS = 0.06
# A thumbnail whose standard deviation is below this shows next to nothing.
MIN_DETAIL = 0.02
NAMESPACE = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "cc": "http://web.resource.org/cc/",
}


@dataclass(frozen=True)
class Clipart:
    """One captioned picture, composited on white, its longer side at most the size it was loaded with."""

    path: str
    """Path below the package's ``png`` folder."""
    title: str
    caption: str
    concept: str
    """Folder and leading title word: pictures of one series share it."""
    sha256: str
    """Digest of the original PNG file."""
    original_size: tuple[int, int]
    """Width and height of the original in pixels."""
    image: Image.Image


def unpack(cache: Path) -> Path:
    """Download and unpack both packages below `cache`; return the folder that holds ``png`` and ``svg``.

    Raises:
        ConfigError: the Debian tools are missing or the download fails.
    """
    root = cache / "unpacked" / "usr" / "share" / "openclipart"
    if (root / "png").is_dir() and (root / "svg").is_dir():
        return root
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise ConfigError(f"`{tool}` not found: the test bed is rebuilt from Debian packages; run it on Debian or Ubuntu")
    cache.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        done = subprocess.run(
            ["apt-get", "download", f"{package}={RELEASE}"], cwd=cache, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ConfigError(
                f"apt-get download {package}={RELEASE} failed; run `apt-get update` and try again: {done.stderr.strip()}"
            )
        (archive,) = cache.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(cache / "unpacked")], check=True)
    return root


def load(root: Path, longer_side_px: int) -> list[Clipart]:
    """All usable pictures in path order, exact and near-duplicates removed.

    Args:
        root: folder returned by `unpack`.
        longer_side_px: larger pictures are reduced to this longer side.
    """
    kept: list[Clipart] = []
    seen: set[str] = set()
    thumbnails = np.empty((0, 256), np.float32)
    for clipart in _readable(root, longer_side_px):
        if clipart.sha256 in seen:
            continue
        seen.add(clipart.sha256)
        thumbnail = _thumbnail(clipart.image)
        if thumbnail.std() < MIN_DETAIL:
            continue
        if len(thumbnails) and float(np.min(np.mean((thumbnails - thumbnail) ** 2, axis=1))) < NEAR_DUPLICATE_RMS**2:
            continue
        thumbnails = np.concatenate([thumbnails, thumbnail[None]])
        kept.append(clipart)
    return kept


def _readable(root: Path, longer_side_px: int) -> Iterator[Clipart]:
    for path in sorted((root / "png").rglob("*.png")):
        name = path.relative_to(root / "png").as_posix()
        metadata = root / "svg" / Path(name).with_suffix(".svg")
        if name.startswith(SKIPPED_FOLDERS) or not path.is_file() or not metadata.is_file():
            continue
        words = _title_and_keywords(metadata)
        if words is None:
            continue
        content = path.read_bytes()
        try:
            with Image.open(path, formats=["PNG"]) as image:
                size = image.size
                if size[0] * size[1] > MAX_SOURCE_PIXELS or min(size) < 32 or max(size) > 4 * min(size):
                    continue
                rgba = image.convert("RGBA")
        except Image.DecompressionBombError:
            continue
        rgba.thumbnail((longer_side_px, longer_side_px), Image.Resampling.LANCZOS)
        canvas = Image.new("RGB", rgba.size, "white")
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        title, keywords = words
        yield Clipart(
            path=name,
            title=title,
            caption=_caption(title, keywords),
            concept=_concept(name, title),
            sha256=hashlib.sha256(content).hexdigest(),
            original_size=size,
            image=canvas,
        )


def _title_and_keywords(svg: Path) -> tuple[str, list[str]] | None:
    try:
        tree = ElementTree.parse(svg)  # noqa: S314 - files of a package that Debian signs
    except ElementTree.ParseError:
        return None
    work = tree.find(".//cc:Work", NAMESPACE)
    if work is None:
        return None
    title = _clean(work.findtext("dc:title", "", NAMESPACE))
    keywords = [_clean(item.text or "") for item in work.iterfind("dc:subject/rdf:Bag/rdf:li", NAMESPACE)]
    words = [word for word in keywords if word and word not in title.split()]
    return (title, words) if title else None


def _clean(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text.lower()).split())


def _caption(title: str, keywords: list[str]) -> str:
    return ", ".join([" ".join(title.split()[:8]), *keywords[:4]])


def _concept(path: str, title: str) -> str:
    words = [word for word in re.findall(r"[a-z]+", title) if len(word) > 2]
    return f"{Path(path).parent.as_posix()}/{words[0] if words else title}"


def _thumbnail(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), np.float32).ravel() / 255.0
    return np.asarray(grey - grey.mean())
