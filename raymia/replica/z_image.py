"""Z-Image: a transformer over image and text in one sequence, each text in its own length, under a language model's states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.autoencoder import factor_of
from raymia.replica.conditioning import Conditioning, tokens_of
from raymia.replica.configs import read_config
from raymia.replica.families import LoadOptions
from raymia.replica.own_pipeline import PROMPT, OneStep
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.tokenizers import as_chat, check_chat, check_tokenizer
from raymia.replica.transformer import FlowFamily, TransformerDiffusion, check_fields, check_kl, each

TEXT_TOKENS = 512
"""Length that a text is cut to, as the pipeline does unless it is told otherwise."""
AXES = 3
"""Along which the transformer counts places: the text and the image behind it, rows, and columns."""
BEHIND_TEXT = 2
"""Places on the text's axis beside its own: one before its first token, and the image's."""


class ZImage(FlowFamily):
    """Pipelines of a ZImageTransformer2DModel that sees the noise alone, under the last states but one of Qwen3."""

    name: ClassVar = "z_image"
    title: ClassVar = "Z-Image"
    pipelines: ClassVar = ("ZImagePipeline", "ZImageImg2ImgPipeline")
    parts: ClassVar = {
        "transformer": "diffusers.ZImageTransformer2DModel",
        "vae": "diffusers.AutoencoderKL",
        "text_encoder": "transformers.Qwen3Model",
        "tokenizer": "transformers.Qwen2Tokenizer",
    }
    resolution_px: ClassVar = 1024
    refused: ClassVar = "Omni, inpainting and ControlNet pipelines"

    def check(self, folder: Path) -> None:
        transformer = read_config(folder, "transformer", self.parts["transformer"])
        place = folder / "transformer"
        check_kl(folder, self.parts["vae"], transformer["in_channels"])
        served = {
            "all_patch_size": (((2,), [2]), "another packing"),
            "all_f_patch_size": (((1,), [1]), "another packing"),
            "siglip_feat_dim": ((None,), "an image beside the noise"),
            "n_kv_heads": (
                (transformer["n_heads"],),
                "attention of heads in groups, which diffusers does not do,",
            ),
        }
        check_fields(transformer, place, served)
        encoder = read_config(folder, "text_encoder", self.parts["text_encoder"])
        if transformer["cap_feat_dim"] != encoder["hidden_size"]:
            width = transformer["cap_feat_dim"]
            raise ConfigError(f"{place}: cap_feat_dim {width}, but text_encoder is {encoder['hidden_size']} wide")
        lengths = transformer["axes_lens"]
        if len(lengths) != AXES or not all(isinstance(one, int) for one in lengths):
            raise ConfigError(f"{place}: axes_lens is {lengths!r}; expected places for the text, the rows and the columns")
        if lengths[0] < TEXT_TOKENS + BEHIND_TEXT:
            raise ConfigError(
                f"{place}: axes_lens has {lengths[0]} places for a text of {TEXT_TOKENS} tokens; expected "
                f"{TEXT_TOKENS + BEHIND_TEXT} at least"
            )
        parts = Parts(folder, self.parts)
        check_tokenizer(parts, "tokenizer", encoder, TEXT_TOKENS)
        check_chat(parts, "tokenizer")
        self.schedule(folder)

    def check_options(self, folder: Path, options: LoadOptions) -> None:
        super().check_options(folder, options)
        self._check_calls(folder, options)

    def own_step(self, folder: Path, options: LoadOptions, height: int, width: int) -> OneStep:
        # The pipeline counts its guidance from the prompt's prediction on.
        arguments = {"prompt": PROMPT, "height": height, "width": width, "guidance_scale": 1.0, "output_type": "latent"}
        return OneStep(arguments, ("", PROMPT), 2.0)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        self._check_calls(parts.folder, options)
        return _Replica(self, parts, options)

    def _check_calls(self, folder: Path, options: LoadOptions) -> None:
        """Refuse what the transformer cannot be called for."""
        if options.compiled:
            raise ConfigError(
                "replica.compile: Z-Image sees each text in its own length, and each would be compiled; leave it out"
            )
        config = read_config(folder, "transformer", self.parts["transformer"])
        largest = min(config["axes_lens"][1:]) * self.grain * factor_of(read_config(folder, "vae", self.parts["vae"]))
        if options.resolution_px > largest:
            raise ConfigError(
                f"replica.resolution_px: {options.resolution_px}, but the transformer in {folder} has places for {largest} px"
            )


class _Replica(TransformerDiffusion):
    # How many tokens there are depends on the text, which no batch of gradients can.
    batches_gradients = False

    def _load_text(self, parts: Parts) -> None:
        self._tokenizer, self._encoder = parts.tokenizer(), parts.model("text_encoder", self.dtype).to(self.text_device)

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """The last states but one of each prompt as a user's words in a chat, and which of them are no padding."""
        texts = [as_chat(self._tokenizer, prompt) for prompt in prompts]
        tokens = tokens_of(self._tokenizer, texts, TEXT_TOKENS, self.device)
        seen = self._encoder(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask.bool(),
            output_hidden_states=True,
            use_cache=False,
        )
        return Conditioning(states=seen.hidden_states[-2], mask=tokens.attention_mask)

    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        assert told.states is not None
        assert told.mask is not None
        outputs = denoiser(
            list(latents.unsqueeze(2)),
            1.0 - each(times, len(latents)).to(latents.device),
            [states[kept] for states, kept in zip(told.states, told.mask.bool(), strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(outputs).squeeze(2)
