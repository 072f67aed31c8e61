"""DDPM: a UNet over the pixels themselves, trained without captions."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from raymia.replica.autoencoder import Autoencoder, Pixels
from raymia.replica.families import LoadOptions
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.unconditional import UNET, UnconditionalDiffusion, UnconditionalFamily, check_unet


class DDPM(UnconditionalFamily):
    """Pipelines of a UNet2DModel over pixels in [-1, 1], of either name: they differ in the sampler alone."""

    name: ClassVar = "ddpm"
    title: ClassVar = "DDPM or DDIM"
    pipelines: ClassVar = ("DDPMPipeline", "DDIMPipeline")
    parts: ClassVar = {"unet": UNET}
    autoencoder: ClassVar = None
    resolution_px: ClassVar = 32
    refused: ClassVar = "classes, learned variance, other channels than colours"

    def check(self, folder: Path) -> None:
        check_unet(folder, 3, "colours of an image")
        self.schedule(folder)

    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        return 3, resolution_px, resolution_px

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)


class _Replica(UnconditionalDiffusion):
    def _load_autoencoder(self, parts: Parts, batch: int) -> Autoencoder:
        return Pixels(self.device, batch)
