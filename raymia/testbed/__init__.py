"""A miniature Stable Diffusion trained here on a known, randomised member set, and the code that builds it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import platformdirs

ASSETS = Path(__file__).parent / "assets"
PIPELINE = ASSETS / "pipeline"
CLIP = ASSETS / "clip"
MANIFEST = ASSETS / "manifest.yaml"
TESTBED, TINY = "testbed", "testbed-tiny"


def model_folder(model: str) -> str:
    """The folder behind a name that a job may use: ``testbed`` is shipped, ``testbed-tiny`` is made; others are returned.

    The tiny pipeline has random weights from a fixed seed; it is made once per user and machine, in a second.
    """
    if model == TESTBED:
        return str(PIPELINE)
    if model != TINY:
        return model
    from raymia.testbed.architecture import VERSION, save_tiny

    folder = platformdirs.user_cache_path("raymia") / f"{TINY}-{VERSION}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent))
        save_tiny(draft)
        try:
            os.rename(draft, folder)
        except OSError:  # another process was first: its folder is the same
            shutil.rmtree(draft)
    return str(folder)


def clip_folder(model: str) -> str:
    """The folder behind the CLIP name ``testbed``; other names are returned."""
    return str(CLIP) if model == TESTBED else model
