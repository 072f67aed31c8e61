"""What a job may name by a word: the test bed that comes with the package, and what other packages add.

A name stands for a file or folder. Nothing of the test bed is imported before its name is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from raymia.registry import Registry


class Named(ABC):
    """A thing that a job may name: where its manifest, model and CLIP are, as far as it has any."""

    name: ClassVar[str]

    @abstractmethod
    def manifest(self) -> str | None:
        """Path of the manifest."""

    @abstractmethod
    def model(self) -> str | None:
        """Folder of the pipeline."""

    @abstractmethod
    def clip(self) -> str | None:
        """Folder of the CLIP."""

    def adapter(self) -> str | None:
        """Path of an adapter's safetensors."""
        return None


NAMED: Registry[Named] = Registry(
    "named model",
    "raymia.named",
    Named,  # type: ignore[type-abstract]
    given={
        "testbed": "raymia.testbed:Testbed",
        "testbed-flow": "raymia.testbed:FlowTestbed",
        "testbed-lora": "raymia.testbed:LoraTestbed",
        "testbed-memorised": "raymia.testbed:MemorisedTestbed",
        "testbed-tiny": "raymia.testbed:TinyTestbed",
    },
)
"""Everything that may be named."""


def manifest_file(source: str) -> str:
    """The path behind a manifest's name; other sources are returned."""
    return _resolved(source, "manifest")


def model_folder(model: str) -> str:
    """The folder behind a model's name; others are returned."""
    return _resolved(model, "model")


def clip_folder(clip: str) -> str:
    """The folder behind a CLIP's name; others are returned."""
    return _resolved(clip, "clip")


def adapter_file(adapter: str) -> str:
    """The file behind an adapter's name; others are returned."""
    return _resolved(adapter, "adapter")


def _resolved(name: str, what: str) -> str:
    if name not in NAMED.names():
        return name
    found: str | None = getattr(NAMED.get(name)(), what)()
    return name if found is None else found
