"""What FLUX.2's models share: an autoencoder whose normalisation is part of its weights, and a transformer over its latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.autoencoder import Autoencoder
from raymia.replica.autoencoder import factor_of as factor_of_blocks
from raymia.replica.conditioning import Conditioning
from raymia.replica.configs import read_config
from raymia.replica.parameter_groups import SINGLE_BLOCKS, TRANSFORMER_GROUPS
from raymia.replica.parts import Parts
from raymia.replica.transformer import FlowFamily, TransformerDiffusion, check_fields, each

SIDE = 2
"""Of the squares of the autoencoder's output that one latent holds."""
TEXT_TOKENS = 512
"""Length of the text that the language model sees, as the pipelines pad it unless they are told otherwise."""
TRANSFORMER, AUTOENCODER = "diffusers.Flux2Transformer2DModel", "diffusers.AutoencoderKLFlux2"


class Flux2Autoencoder(Autoencoder):
    """diffusers' AutoencoderKLFlux2: squares of the posterior's mean as channels, normalised by statistics in its weights."""

    def __init__(self, parts: Parts, device: torch.device, batch: int, part: str = "vae") -> None:
        """Load it, in float32.

        Args:
            parts: of the pipeline.
            device: where it computes.
            batch: images in a call.
            part: the autoencoder's folder.

        Raises:
            ConfigError: weights that do not fit their config.
        """
        vae = parts.model(part, torch.float32)
        factor = SIDE * factor_of_blocks(vae.config)
        super().__init__(device, batch, factor, SIDE**2 * vae.config.latent_channels)
        self._vae = vae.to(device)

    def _latents(self, images: Tensor) -> Tensor:
        mean = self._vae.encode(images).latent_dist.mean
        batch, channels, height, width = mean.shape
        squares = mean.reshape(batch, channels, height // SIDE, SIDE, width // SIDE, SIDE).permute(0, 1, 3, 5, 2, 4)
        latents: Tensor = squares.reshape(batch, SIDE**2 * channels, height // SIDE, width // SIDE)
        middle, spread = self._statistics()
        return (latents - middle) / spread

    def _images(self, z0: Tensor) -> Tensor:
        middle, spread = self._statistics()
        batch, channels, height, width = z0.shape
        squares = (z0 * spread + middle).reshape(batch, channels // SIDE**2, SIDE, SIDE, height, width)
        whole = squares.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // SIDE**2, SIDE * height, SIDE * width)
        decoded: Tensor = self._vae.decode(whole).sample
        return decoded

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel."""
        normalised, epsilon = self._vae.bn, self._vae.config.batch_norm_eps
        return normalised.running_mean.view(1, -1, 1, 1), (normalised.running_var.view(1, -1, 1, 1) + epsilon).sqrt()


class Flux2Family(FlowFamily):
    """Pipelines of a Flux2Transformer2DModel under stacked states of a language model."""

    resolution_px: ClassVar = 1024
    grain: ClassVar = 1
    # In single blocks attention and feed-forward are one layer.
    groups: ClassVar = (*TRANSFORMER_GROUPS, *(group for group in SINGLE_BLOCKS if not group.endswith("feed_forward")))

    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        vae = read_config(folder, "vae", self.parts["vae"])
        side = resolution_px // (SIDE * factor_of_blocks(vae))
        return SIDE**2 * vae["latent_channels"], side, side

    def check_shapes(self, folder: Path, text: Mapping[str, Any], layers: Sequence[int], guided: bool) -> None:
        """Refuse a transformer that does not fit its autoencoder or the text's states, or is told what its pipeline does not.

        Args:
            folder: of the pipeline.
            text: config of the language model.
            layers: of it whose states stand side by side.
            guided: whether the pipeline tells a guidance scale.

        Raises:
            ConfigError: names the field.
        """
        transformer, place = read_config(folder, "transformer", self.parts["transformer"]), folder / "transformer"
        vae = read_config(folder, "vae", self.parts["vae"])
        for field in ("in_channels", "out_channels"):
            if vae[field] != 3:
                raise ConfigError(f"{folder}/vae: {field} is {vae[field]!r}; expected the 3 colours of an image")
        check_fields(vae, folder / "vae", {"patch_size": (((2, 2), [2, 2]), "another packing")})
        channels = SIDE**2 * vae["latent_channels"]
        served = {
            "in_channels": ((channels,), "another number of channels than the autoencoder gives"),
            "out_channels": ((channels, None), "an output of other channels"),
            "patch_size": ((1,), "another packing"),
            "guidance_embeds": ((guided,), "a guidance scale that the pipeline tells none of" if not guided else "no guidance"),
        }
        check_fields(transformer, place, served)
        states = len(layers) * text["hidden_size"]
        if transformer["joint_attention_dim"] != states:
            width = transformer["joint_attention_dim"]
            raise ConfigError(f"{place}: joint_attention_dim {width}, but the text's states are {states} wide together")
        if text["num_hidden_layers"] <= layers[-1]:
            raise ConfigError(
                f"{folder}/text_encoder: num_hidden_layers {text['num_hidden_layers']}; expected more than {layers[-1]}, "
                "whose states the transformer sees"
            )


class Flux2Diffusion(TransformerDiffusion):
    """A replica of FLUX.2; its text is what tells its kinds apart.

    Attributes:
        guidance: scale that the transformer is told; none where it is told none.
    """

    guidance: float | None = None

    def _load_autoencoder(self, parts: Parts, batch: int) -> Autoencoder:
        return Flux2Autoencoder(parts, self.device, batch)

    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        assert told.states is not None
        count, (height, width) = len(latents), latents.shape[-2:]
        guidance = None
        if self.guidance is not None:
            guidance = torch.full((count,), self.guidance, dtype=torch.float32, device=latents.device)
        output: Tensor = denoiser(
            hidden_states=tokens_of_latents(latents),
            timestep=each(times, count).to(latents.device, latents.dtype),
            guidance=guidance,
            encoder_hidden_states=told.states,
            txt_ids=_places(1, 1, told.states.shape[1], latents.device).expand(count, -1, -1),
            img_ids=_places(height, width, 1, latents.device).expand(count, -1, -1),
            return_dict=False,
        )[0]
        return latents_of_tokens(output, height, width)


def tokens_of_latents(latents: Tensor) -> Tensor:
    """(batch, h w, c): a token for each latent, row by row."""
    return latents.flatten(2).transpose(1, 2)


def latents_of_tokens(tokens: Tensor, height: int, width: int) -> Tensor:
    """(batch, c, h, w) of `tokens_of_latents`."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def _places(rows: int, columns: int, words: int, device: torch.device) -> Tensor:
    """(1, tokens, 4): time, row, column and place in the text of each token."""
    axes = (torch.arange(size, device=device) for size in (1, rows, columns, words))
    return torch.cartesian_prod(*axes)[None]
