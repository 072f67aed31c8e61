"""Unconditional latent diffusion: a UNet over the latents of a quantising autoencoder, trained without captions."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from raymia.errors import ConfigError
from raymia.replica.autoencoder import Autoencoder, VQAutoencoder, check_config, factor_of, latent_shape_of
from raymia.replica.configs import read_config
from raymia.replica.documents import read_json
from raymia.replica.families import LoadOptions
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.unconditional import UNET, UnconditionalDiffusion, UnconditionalFamily, check_unet

VQ = "diffusers.VQModel"


class LDM(UnconditionalFamily):
    """Pipelines of a UNet2DModel over the latents that a VQModel makes of an image before it quantises them."""

    name: ClassVar = "ldm"
    title: ClassVar = "unconditional latent diffusion"
    pipelines: ClassVar = ("LDMPipeline",)
    parts: ClassVar = {"unet": UNET, "vqvae": VQ}
    autoencoder: ClassVar = "vqvae"
    resolution_px: ClassVar = 256
    refused: ClassVar = "classes, learned variance"

    def check(self, folder: Path) -> None:
        vqvae, place = read_config(folder, "vqvae", VQ), folder / "vqvae"
        check_config({**vqvae, "latents_mean": None, "latents_std": None, "shift_factor": None}, place)
        if "scaling_factor" not in read_json(place / "config.json"):
            raise ConfigError(
                f"{place}/config.json: says no scaling_factor, and diffusers assumes {vqvae['scaling_factor']}, where older "
                "models were trained on latents as they are; add scaling_factor: 1.0, or what it was trained at"
            )
        check_unet(folder, vqvae["latent_channels"], "channels of vqvae's latents")
        self.schedule(folder)

    def factor(self, folder: Path) -> int:
        return factor_of(read_config(folder, "vqvae", VQ))

    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        return latent_shape_of(read_config(folder, "vqvae", VQ), resolution_px)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)


class _Replica(UnconditionalDiffusion):
    def _load_autoencoder(self, parts: Parts, batch: int) -> Autoencoder:
        return VQAutoencoder(parts, self.device, batch)
