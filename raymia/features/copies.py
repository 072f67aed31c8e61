"""Copy detectors: embeddings whose cosine says how likely one image is a copy of another, by the name that a job gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from raymia.digests import file_digest
from raymia.errors import ConfigError
from raymia.run.record import copy_detector
from raymia.shipped import clip_folder


class Detector(Protocol):
    """A loaded copy detector."""

    def embed_images(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch width"]:
        """Unit embeddings of images in [-1, 1]."""
        ...


def load_copies(spec: str, clip: str | None, device: torch.device) -> Detector:
    """Load what a job calls `copies`.

    Args:
        spec: ``sscd:FILE``, ``dinov2:FOLDER-OR-ID`` or ``clip``.
        clip: the job's CLIP, which ``clip`` means.
        device: where it computes.

    Raises:
        ConfigError: it cannot be had, or is not whole.
    """
    kind, source = parsed(spec)
    # Each takes seconds to import.
    if kind == "sscd":
        from raymia.features.sscd import Sscd

        return Sscd(source, device)
    if kind == "dinov2":
        from raymia.features.dinov2 import Dinov2

        return Dinov2(source, device)
    from raymia.features.clip import Clip

    return Clip(clip_folder(_named(clip)), device)


def check_copies(spec: str) -> None:
    """Refuse a detector that cannot be had or is not whole, before anything is started; a CLIP is checked as the job's `clip`.

    Args:
        spec: see `load_copies`.

    Raises:
        ConfigError: names it and what is expected.
    """
    kind, source = parsed(spec)
    if kind == "sscd":
        from raymia.features.sscd import check_sscd

        check_sscd(source)
    elif kind == "dinov2":
        from raymia.features.dinov2 import check_dinov2

        check_dinov2(source)


def pinned(spec: str) -> str:
    """The name of a detector with the revision that the hub gives now; others are their own.

    Args:
        spec: see `load_copies`.

    Raises:
        ConfigError: the hub does not give it and its cache lacks it.
    """
    kind, source = parsed(spec)
    if kind != "dinov2":
        return spec
    from raymia.features import dinov2

    return f"{kind}:{dinov2.pinned(source)}"


def fingerprint(spec: str, clip: str | None) -> str:
    """What identifies a detector, with its kind before it.

    Args:
        spec: see `load_copies`; of the hub one that is `pinned`.
        clip: what identifies the job's CLIP.

    Raises:
        ConfigError: a file cannot be read.
    """
    kind, source = parsed(spec)
    if kind == "sscd":
        return f"sscd {file_digest(Path(source))}"
    if kind == "dinov2":
        from raymia.features import dinov2

        return f"dinov2 {dinov2.fingerprint(source)}"
    return f"clip {_named(clip)}"


def parsed(spec: str) -> tuple[str, str]:
    """The kind of a detector, and where its weights are; nothing for the job's CLIP.

    Raises:
        ConfigError: it is no detector; says what is expected.
    """
    try:
        return copy_detector(spec)
    except ValueError as error:
        raise ConfigError(f"copies: {error}") from error


def _named(clip: str | None) -> str:
    if clip is None:
        raise ConfigError("copies: clip is the job's CLIP, and the job has no `clip`; set one, or copies: sscd:FILE")
    return clip
