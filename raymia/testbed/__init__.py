"""Miniatures of Stable Diffusion 1 and 3 trained on a known, randomised member set, and the code that builds them."""

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
FLOW = ASSETS / "flow"
CLIP = ASSETS / "clip"
MANIFEST = ASSETS / "manifest.yaml"
DEMO_JOB = Path(__file__).parent / "demo.yaml"
DEMO_LORA_JOB = Path(__file__).parent / "demo_lora.yaml"
LORA = ASSETS / "lora" / "testbed_lora.safetensors"
LORA_MANIFEST = ASSETS / "lora_manifest.yaml"
MEMORISED = ASSETS / "lora" / "testbed_memorised.safetensors"
MEMORISED_MANIFEST = ASSETS / "memorised_manifest.yaml"
TESTBED, TESTBED_FLOW, TESTBED_LORA, TINY = "testbed", "testbed-flow", "testbed-lora", "testbed-tiny"
TESTBED_MEMORISED = "testbed-memorised"


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


class FlowTestbed(Testbed):
    """The same data set, and Stable Diffusion 3's kind of model trained on it, under the same autoencoder."""

    name: ClassVar = TESTBED_FLOW

    def model(self) -> str | None:
        return str(FLOW)


class LoraTestbed(Named):
    """A LoRA on the test bed's model, trained on a random half of pictures that the model never saw, and both halves."""

    name: ClassVar = TESTBED_LORA

    def manifest(self) -> str | None:
        return str(LORA_MANIFEST)

    def model(self) -> str | None:
        return None

    def clip(self) -> str | None:
        return str(CLIP)

    def adapter(self) -> str | None:
        return str(LORA)


class MemorisedTestbed(LoraTestbed):
    """A LoRA on the test bed's model that has six pictures by heart, which stood many times where others stood once."""

    name: ClassVar = TESTBED_MEMORISED

    def manifest(self) -> str | None:
        return str(MEMORISED_MANIFEST)

    def adapter(self) -> str | None:
        return str(MEMORISED)


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
