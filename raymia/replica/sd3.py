"""Stable Diffusion 3 and 3.5: a transformer of image and text side by side, under two CLIP text encoders and T5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from raymia.errors import ConfigError
from raymia.replica.autoencoder import native_px
from raymia.replica.conditioning import Conditioning
from raymia.replica.configs import read_config
from raymia.replica.documents import read_json
from raymia.replica.families import LoadOptions
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.text_encoders import clip_states, t5_states
from raymia.replica.tokenizers import check_tokenizer
from raymia.replica.transformer import STEPS, FlowFamily, TransformerDiffusion, check_kl, each

CLIPS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
"""The CLIP text encoders in the order of their states, each with its tokenizer."""
T5_TOKENS = 256
"""Length of the text that T5 sees, and of the zeros that stand in its place where there is none."""


class SD3(FlowFamily):
    """Pipelines of an SD3Transformer2DModel under the states of two CLIP text encoders side by side, and of T5 behind them."""

    name: ClassVar = "sd3"
    title: ClassVar = "Stable Diffusion 3 or 3.5"
    pipelines: ClassVar = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    parts: ClassVar = {
        "transformer": "diffusers.SD3Transformer2DModel",
        "vae": "diffusers.AutoencoderKL",
        "text_encoder": "transformers.CLIPTextModelWithProjection",
        "text_encoder_2": "transformers.CLIPTextModelWithProjection",
        "text_encoder_3": "transformers.T5EncoderModel",
        "tokenizer": "transformers.CLIPTokenizer",
        "tokenizer_2": "transformers.CLIPTokenizer",
        "tokenizer_3": "transformers.T5Tokenizer",
    }
    optional: ClassVar = ("text_encoder_3", "tokenizer_3")
    resolution_px: ClassVar = 1024
    refused: ClassVar = "inpainting and ControlNet pipelines"

    def check(self, folder: Path) -> None:
        transformer = read_config(folder, "transformer", self.parts["transformer"])
        check_kl(folder, self.parts["vae"], transformer["in_channels"])
        if transformer["out_channels"] != transformer["in_channels"]:
            raise ConfigError(
                f"{folder}/transformer: out_channels {transformer['out_channels']}, but {transformer['in_channels']} come in"
            )
        encoders = {part: read_config(folder, part, self.parts[part]) for part in CLIPS}
        pooled = sum(encoder["projection_dim"] for encoder in encoders.values())
        if pooled != transformer["pooled_projection_dim"]:
            raise ConfigError(
                f"{folder}/transformer: pooled_projection_dim {transformer['pooled_projection_dim']}, but the text encoders' "
                f"projections are {pooled} wide together"
            )
        width, together = transformer["joint_attention_dim"], sum(encoder["hidden_size"] for encoder in encoders.values())
        if together > width:
            raise ConfigError(f"{folder}/transformer: joint_attention_dim {width}, but CLIP's states are {together} wide")
        parts = Parts(folder, self.parts)
        for part, tokenizer in CLIPS.items():
            check_tokenizer(parts, tokenizer, encoders[part])
        if "text_encoder_3" in self.parts_in(read_json(folder / "model_index.json")):
            t5 = read_config(folder, "text_encoder_3", self.parts["text_encoder_3"])
            if t5["d_model"] != width:
                raise ConfigError(f"{folder}/text_encoder_3: d_model {t5['d_model']}, but the transformer takes {width}")
            check_tokenizer(parts, "tokenizer_3", t5, T5_TOKENS)
        self.schedule(folder)

    def native_px(self, folder: Path) -> int:
        return native_px(folder, "transformer", self.parts)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)


class _Replica(TransformerDiffusion):
    def _load_text(self, parts: Parts) -> None:
        self._clips = [
            (parts.tokenizer(tokenizer), parts.model(part, self.dtype).to(self.text_device))
            for part, tokenizer in CLIPS.items()
        ]
        self._t5: tuple[Any, Any] | None = None
        if "text_encoder_3" in parts.declared:
            self._t5 = parts.tokenizer("tokenizer_3"), parts.model("text_encoder_3", self.dtype).to(self.text_device)
        path = parts.declared["transformer"]
        self._width = int(read_config(parts.folder, "transformer", path)["joint_attention_dim"])

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """CLIP's states side by side, padded with zeros to the width of T5's, which follow; and CLIP's pooled vectors.

        Where a pipeline has no T5, zeros stand in the place of its states.
        """
        states, pooled = zip(*(clip_states(*clip, prompts) for clip in self._clips), strict=True)
        clip = torch.cat(states, dim=-1)
        if self._t5 is None:
            t5 = clip.new_zeros(len(prompts), T5_TOKENS, self._width)
        else:
            t5 = t5_states(*self._t5, prompts, T5_TOKENS)
        padded = pad(clip, (0, self._width - clip.shape[-1]))
        return Conditioning(states=torch.cat([padded, t5], dim=1), pooled=torch.cat(pooled, dim=-1))

    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        output: Tensor = denoiser(
            hidden_states=latents,
            timestep=each(times * STEPS, len(latents)).to(latents.device),
            encoder_hidden_states=told.states,
            pooled_projections=told.pooled,
            return_dict=False,
        )[0]
        return output
