"""A miniature Stable Diffusion trained here on a known, randomised member set, and the code that builds it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import platformdirs

from raymia.shipped import Named

ASSETS = Path(__file__).parent / "assets"
PIPELINE = ASSETS / "pipeline"
CLIP = ASSETS / "clip"
MANIFEST = ASSETS / "manifest.yaml"
DEMO_JOB = Path(__file__).parent / "demo.yaml"
TESTBED, TINY = "testbed", "testbed-tiny"


class Testbed(Named):
    """The shipped data set, and the models trained on it."""

    __test__ = False  # no test, whatever its name begins with
    name: ClassVar = TESTBED

    def manifest(self) -> str | None:
        return str(MANIFEST)

    def model(self) -> str | None:
        return str(PIPELINE)

    def clip(self) -> str | None:
        return str(CLIP)


class TinyTestbed(Named):
    """The test bed's pipeline with random weights from a fixed seed, made once per user and machine, in a second."""

    name: ClassVar = TINY

    def manifest(self) -> str | None:
        return None

    def model(self) -> str | None:
        from raymia.testbed.architecture import PIPELINE_VERSION, save_tiny

        folder = platformdirs.user_cache_path("raymia") / f"{TINY}-{PIPELINE_VERSION}"
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(dir=folder.parent))
            save_tiny(draft)
            try:
                os.rename(draft, folder)
            except OSError:  # another process was first: its folder is the same
                shutil.rmtree(draft)
        return str(folder)

    def clip(self) -> str | None:
        return None
