"""Qwen-Image: a transformer of image and text side by side over packed latents, under the states of a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.autoencoder import Autoencoder
from raymia.replica.conditioning import Conditioning
from raymia.replica.configs import read_config, read_text_config
from raymia.replica.device import onto
from raymia.replica.families import LoadOptions
from raymia.replica.own_pipeline import PROMPT, OneStep
from raymia.replica.packing import SIDE, packed, unpacked
from raymia.replica.parts import Parts
from raymia.replica.protocol import Replica
from raymia.replica.qwen_autoencoder import QwenAutoencoder, check_config, factor_of
from raymia.replica.tokenizers import check_tokenizer
from raymia.replica.transformer import FlowFamily, TransformerDiffusion, check_fields, each

BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
BEHIND = "<|im_end|>\n<|im_start|>assistant\n"
"""What the pipeline puts around a prompt."""
DROPPED = 34
"""Tokens of `BEFORE`, whose states the transformer does not see."""
CUT = 1024
"""Length in tokens, beside those, that the pipeline cuts a text to before it is encoded."""
TEXT_TOKENS = 512
"""Length of the states that the transformer sees at most, as the pipeline cuts them unless it is told otherwise."""


class QwenImage(FlowFamily):
    """Pipelines of a QwenImageTransformer2DModel that sees the noise alone, under the last states of Qwen2.5-VL."""

    name: ClassVar = "qwen_image"
    title: ClassVar = "Qwen-Image"
    pipelines: ClassVar = ("QwenImagePipeline", "QwenImageImg2ImgPipeline")
    parts: ClassVar = {
        "transformer": "diffusers.QwenImageTransformer2DModel",
        "vae": "diffusers.AutoencoderKLQwenImage",
        "text_encoder": "transformers.Qwen2_5_VLForConditionalGeneration",
        "tokenizer": "transformers.Qwen2Tokenizer",
    }
    resolution_px: ClassVar = 1328
    refused: ClassVar = "Edit, Layered, inpainting and ControlNet pipelines, and Qwen-Image-2.1"

    def check(self, folder: Path) -> None:
        transformer = read_config(folder, "transformer", self.parts["transformer"])
        vae = read_config(folder, "vae", self.parts["vae"])
        place, channels = folder / "transformer", vae["z_dim"]
        check_config(vae, folder / "vae")
        served = {
            "patch_size": ((SIDE,), "another packing"),
            "guidance_embeds": ((None, False), "a guidance scale, which the class in diffusers cannot be told,"),
            "zero_cond_t": ((None, False), "an image to edit beside the noise"),
            "use_additional_t_cond": ((None, False), "an image in layers"),
            "use_layer3d_rope": ((None, False), "an image in layers"),
        }
        check_fields(transformer, place, served)
        if transformer["in_channels"] != channels * SIDE**2:
            raise ConfigError(
                f"{place}: in_channels {transformer['in_channels']}, but the autoencoder's {channels} give "
                f"{channels * SIDE**2}; models that see an image or a mask beside the noise are not supported"
            )
        if transformer["out_channels"] != channels:
            raise ConfigError(f"{place}: out_channels {transformer['out_channels']}, but the autoencoder has {channels}")
        text = read_text_config(folder, "text_encoder", self.parts["text_encoder"])
        if transformer["joint_attention_dim"] != text["hidden_size"]:
            width = transformer["joint_attention_dim"]
            raise ConfigError(f"{place}: joint_attention_dim {width}, but text_encoder is {text['hidden_size']} wide")
        parts = Parts(folder, self.parts)
        check_tokenizer(parts, "tokenizer", text, DROPPED + CUT)
        found = len(parts.loaded["tokenizer"](BEFORE).input_ids)
        if found != DROPPED:
            raise ConfigError(
                f"{folder}/tokenizer: makes {found} tokens of what the pipeline puts before a prompt, and the states of "
                f"{DROPPED} are dropped; it is another model's"
            )
        self.schedule(folder)

    def latent_shape(self, folder: Path, resolution_px: int) -> tuple[int, int, int]:
        vae = read_config(folder, "vae", self.parts["vae"])
        side = resolution_px // factor_of(vae)
        return int(vae["z_dim"]), side, side

    def own_step(self, folder: Path, options: LoadOptions, height: int, width: int) -> OneStep:
        # One prompt: the pipeline brings what it guides by two back to the length of one.
        arguments = {"prompt": PROMPT, "height": height, "width": width, "true_cfg_scale": 1.0, "output_type": "latent"}
        return OneStep(arguments, (PROMPT,), unpacked=unpacked)

    def load(self, parts: Parts, options: LoadOptions) -> Replica:
        return _Replica(self, parts, options)


class _Replica(TransformerDiffusion):
    def _load_autoencoder(self, parts: Parts, batch: int) -> Autoencoder:
        return QwenAutoencoder(parts, self.device, batch)

    def _load_text(self, parts: Parts) -> None:
        self._tokenizer, self._encoder = parts.tokenizer(), parts.model("text_encoder", self.dtype).to(self.text_device)

    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """The last states of each text behind what is dropped, and which of them are the text's own.

        Padding stands behind the text: the language model looks back alone, so that it changes nothing.
        """
        texts = [BEFORE + prompt + BEHIND for prompt in prompts]
        tokens = self._tokenizer(
            texts, padding="max_length", padding_side="right", truncation=True, max_length=DROPPED + CUT, return_tensors="pt"
        )
        ids, mask = (onto(self.device, one[:, : DROPPED + TEXT_TOKENS]) for one in (tokens.input_ids, tokens.attention_mask))
        # Its head, of a number for each of 150,000 words, is not asked.
        states = self._encoder.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return Conditioning(states=states[:, DROPPED:], mask=mask[:, DROPPED:])

    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        height, width = latents.shape[-2:]
        output: Tensor = denoiser(
            hidden_states=packed(latents),
            timestep=each(times, len(latents)).to(latents.device),
            encoder_hidden_states=told.states,
            encoder_hidden_states_mask=told.mask,
            img_shapes=[[(1, height // SIDE, width // SIDE)]] * len(latents),
            return_dict=False,
        )[0]
        return unpacked(output, height, width)
