"""FLUX.1 dev and schnell: a transformer over packed latents, under T5's states and CLIP's pooled vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.conditioning import Conditioning, token_ids
from raymia.replica.configs import read_config
from raymia.replica.families import Ability, LoadOptions
from raymia.replica.own_pipeline import PROMPT, OneStep
from raymia.replica.packing import SIDE, packed, positions, unpacked
from raymia.replica.parameter_groups import SINGLE_BLOCKS, TRANSFORMER_GROUPS
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.text_encoders import t5_states
from raymia.replica.tokenizers import check_tokenizer
from raymia.replica.transformer import FlowFamily, TransformerDiffusion, check_fields, check_kl, each

T5_TOKENS = 512
"""Length of the text that T5 sees, as the pipeline pads it unless it is told otherwise."""
NO_GUIDANCE = 1.0
"""What a model distilled under guidance is told, unless a job says otherwise."""


class FLUX(FlowFamily):
    """Pipelines of a FluxTransformer2DModel that sees the noise alone: dev, which is told a guidance scale, and schnell."""

    name: ClassVar = "flux"
    title: ClassVar = "FLUX.1"
    pipelines: ClassVar = ("FluxPipeline", "FluxImg2ImgPipeline")
    parts: ClassVar = {
        "transformer": "diffusers.FluxTransformer2DModel",
        "vae": "diffusers.AutoencoderKL",
        "text_encoder": "transformers.CLIPTextModel",
        "text_encoder_2": "transformers.T5EncoderModel",
        "tokenizer": "transformers.CLIPTokenizer",
        "tokenizer_2": "transformers.T5Tokenizer",
    }
    resolution_px: ClassVar = 1024
    groups: ClassVar = (*TRANSFORMER_GROUPS[:-1], *SINGLE_BLOCKS, "out")
    refused: ClassVar = "Fill, Depth, Canny, Kontext and ControlNet pipelines"

    def check(self, folder: Path) -> None:
        transformer = read_config(folder, "transformer", self.parts["transformer"])
        place = folder / "transformer"
        check_kl(folder, self.parts["vae"], transformer["in_channels"], per_channel=SIDE**2)
        same = (None, transformer["in_channels"])
        served = {"patch_size": ((1,), "another packing"), "out_channels": (same, "an output of other channels")}
        check_fields(transformer, place, served)
        encoders = {part: read_config(folder, part, self.parts[part]) for part in ("text_encoder", "text_encoder_2")}
        for field, part, width in (
            ("pooled_projection_dim", "text_encoder", "hidden_size"),
            ("joint_attention_dim", "text_encoder_2", "d_model"),
        ):
            if transformer[field] != encoders[part][width]:
                raise ConfigError(f"{place}: {field} {transformer[field]}, but {part} is {encoders[part][width]} wide")
        parts = Parts(folder, self.parts)
        check_tokenizer(parts, "tokenizer", encoders["text_encoder"])
        check_tokenizer(parts, "tokenizer_2", encoders["text_encoder_2"], T5_TOKENS)
        self.schedule(folder)

    def lacks(self, folder: Path) -> Mapping[Ability, str]:
        if self._guided(folder):
            how = "the model was distilled under guidance, and its own scale is replica.guidance"
        else:
            how = "the model was distilled to few steps without guidance"
        return {"unconditional": f"{how}: it has no unconditional prediction to guide from; set guidance: 1"}

    def check_options(self, folder: Path, options: LoadOptions) -> None:
        if self._guided(folder):
            self.check_sizes(folder, options)
        else:
            super().check_options(folder, options)

    def own_step(self, folder: Path, options: LoadOptions, height: int, width: int) -> OneStep:
        scale = NO_GUIDANCE if options.guidance is None else options.guidance
        arguments = {"prompt": PROMPT, "height": height, "width": width, "guidance_scale": scale, "output_type": "latent"}
        return OneStep(arguments, (PROMPT,), unpacked=unpacked)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)

    def _guided(self, folder: Path) -> bool:
        return bool(read_config(folder, "transformer", self.parts["transformer"])["guidance_embeds"])


class _Replica(TransformerDiffusion):
    def __init__(self, family: FLUX, parts: Parts, options: LoadOptions) -> None:
        # Before the model is loaded, since trying it out asks for it.
        self._guidance: float | None = None
        if family._guided(parts.folder):
            self._guidance = NO_GUIDANCE if options.guidance is None else options.guidance
        super().__init__(family, parts, options)

    def _load_text(self, parts: Parts) -> None:
        self._clip = parts.tokenizer("tokenizer"), parts.model("text_encoder", self.dtype).to(self.text_device)
        self._t5 = parts.tokenizer("tokenizer_2"), parts.model("text_encoder_2", self.dtype).to(self.text_device)

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """T5's states, and CLIP's pooled vector."""
        tokenizer, encoder = self._clip
        pooled = encoder(token_ids(tokenizer, prompts, device=self.device)).pooler_output
        return Conditioning(states=t5_states(*self._t5, prompts, T5_TOKENS), pooled=pooled)

    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        assert told.states is not None
        height, width = latents.shape[-2:]
        guidance = None
        if self._guidance is not None:
            guidance = torch.full((len(latents),), self._guidance, dtype=torch.float32, device=latents.device)
        output: Tensor = denoiser(
            hidden_states=packed(latents),
            timestep=each(times, len(latents)).to(latents.device),
            guidance=guidance,
            pooled_projections=told.pooled,
            encoder_hidden_states=told.states,
            txt_ids=latents.new_zeros(told.states.shape[1], 3),
            img_ids=positions(height, width, latents.device).to(latents.dtype),
            return_dict=False,
        )[0]
        return unpacked(output, height, width)
