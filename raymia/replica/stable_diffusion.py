"""One Stable Diffusion pipeline on one device: encode, text, predicted noise, decode."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.backends import cudnn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from raymia.errors import ConfigError
from raymia.replica.schedule import Schedule
from raymia.replica.weights import fetch

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
CONFIGS = [
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
    *(f"{part}/config.json" for part in WEIGHTS),
]
VARIANTS = (None, "fp16")
UNET_POSITIONS = {"cpu": 8_192, "cuda": 65_536}
"""Latent positions in a call of the UNet from which larger calls bring next to nothing, by kind of device."""
PARTS = 4
"""Calls of a compiled UNet are of two sizes: `unet_batch`, and this part of it."""
VAE_PIXELS = {"cpu": 32_768, "cuda": 2_097_152}
"""The same of the autoencoder, in pixels; its activations are the largest of all."""
MEMORY_BOUND = ("cuda",)
"""Kinds of device whose memory is tried out when a model is loaded."""


@dataclass(frozen=True)
class PipelineFolder:
    """A pipeline folder in diffusers' layout whose configs passed every check.

    Attributes:
        path: the folder; for a hub id the snapshot in the local cache.
        revision: the hub's revision; none for a local folder.
    """

    path: Path
    revision: str | None = None

    @property
    def schedule(self) -> Schedule:
        """The model's own noise schedule."""
        return Schedule.from_file(self.path / "scheduler" / "scheduler_config.json")

    def weights(self) -> tuple[str | None, list[Path]]:
        """Variant (none or ``fp16``) and safetensors files of all parts.

        Raises:
            ConfigError: a part has no safetensors.
        """
        for variant in VARIANTS:
            files = [_weight_files(self.path, part, variant) for part in WEIGHTS]
            if all(files):
                return variant, [file for part in files for file in part]
        lacking = [part for part in WEIGHTS if not _weight_files(self.path, part, None)]
        raise ConfigError(
            f"{self.path}: no safetensors weights in {', '.join(lacking)}; pickled weights (.bin, .ckpt, .pt) are never "
            "loaded. Save the pipeline again with save_pretrained(..., safe_serialization=True)"
        )

    def latent_shape(self, resolution_px: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a square image."""
        config = _read_json(self.path / "vae" / "config.json")
        side = resolution_px // _factor(config)
        return int(config.get("latent_channels", 4)), side, side

    def autoencoder_digest(self) -> str:
        """sha256 over the autoencoder's tensors and what its config says of them, whoever saved it and however often.

        Raises:
            ConfigError: a weight file cannot be read.
        """
        config = _read_json(self.path / "vae" / "config.json")
        told = {key: value for key, value in config.items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        tensors: dict[str, Tensor] = {}
        for file in _weight_files(self.path, "vae", self.weights()[0]):
            try:
                tensors |= load_file(file)
            except (SafetensorError, OSError) as error:
                raise ConfigError(f"{file}: not readable as safetensors ({error})") from error
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """What identifies the model: the hub's revision, or sha256 over configs and weights of a local folder."""
        if self.revision is not None:
            return self.revision
        digest = hashlib.sha256()
        configs = [self.path / part / "config.json" for part in WEIGHTS]
        for file in [*configs, self.path / "scheduler" / "scheduler_config.json", *self.weights()[1]]:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def find_pipeline(model: str, with_weights: bool, revision: str | None = None) -> PipelineFolder:
    """Find a pipeline folder and check it as far as that needs no loading.

    Args:
        model: a folder, an fsspec URL of one, or a hub id; of a hub id the configs are downloaded, and the safetensors where
            `with_weights`.
        with_weights: whether the weights must be there.
        revision: of a hub id; none for the newest.

    Raises:
        ConfigError: names the folder, file or field, what was expected and what to do.
    """
    if "://" in model:
        folder = PipelineFolder(fetch(model))
        with_weights = True
    elif Path(model).is_dir():
        folder = PipelineFolder(Path(model))
        with_weights = True
    elif Path(model).is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise ConfigError(f"replica.model {model!r}: no such folder; give a folder in diffusers' layout or a hub id")
    else:
        folder = _download(model, CONFIGS, revision)
        for variant in VARIANTS if with_weights else ():
            stems = [f"{part}/{stem}" + (f".{variant}" if variant else "") for part, stem in WEIGHTS.items()]
            patterns = [f"{stem}{ending}" for stem in stems for ending in (".safetensors", "-*-of-*.safetensors")]
            _download(model, [*patterns, *(f"{stem}.safetensors.index.json" for stem in stems)], folder.revision)
            if all(_weight_files(folder.path, part, variant) for part in WEIGHTS):
                break
    check_configs(folder.path)
    if with_weights:
        folder.weights()
    return folder


def _download(model: str, patterns: list[str], revision: str | None) -> PipelineFolder:
    try:
        path = Path(snapshot_download(model, revision=revision, allow_patterns=patterns, etag_timeout=5))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigError(
            f"replica.model {model!r}: no such folder, and no such pipeline on the hub or in its cache "
            f"({str(error).strip().splitlines()[0]}); give a folder in diffusers' layout or the id of one"
        ) from error
    return PipelineFolder(path, path.name)


def check_configs(path: Path) -> None:
    """Check the configs of a pipeline folder.

    Raises:
        ConfigError: names the file or field, what was expected and what to do.
    """
    index = _read_json(path / "model_index.json")
    kind = str(index.get("_class_name"))
    extra = [part for part in ("text_encoder_2", "transformer", "prior") if _present(index, part)]
    if extra or not kind.startswith("StableDiffusion"):
        raise ConfigError(
            f"{path}: a {kind} is not supported; expected a StableDiffusionPipeline (Stable Diffusion 1.x or 2.x)"
        )
    unet, vae = _read_json(path / "unet" / "config.json"), _read_json(path / "vae" / "config.json")
    _read_json(path / "text_encoder" / "config.json")
    channels, latent = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latent:
        raise ConfigError(
            f"{path}/unet: in_channels {channels} but the autoencoder has {latent}; inpainting UNets are not supported"
        )
    if unet.get("addition_embed_type") or unet.get("class_embed_type"):
        raise ConfigError(f"{path}/unet: needs conditions other than text, which are not supported")
    Schedule.from_file(path / "scheduler" / "scheduler_config.json")


def _present(index: dict[str, object], part: str) -> bool:
    value = index.get(part)
    return isinstance(value, list) and bool(value) and value[0] is not None


class StableDiffusion:
    """A Stable Diffusion 1.x or 2.x pipeline (epsilon or v-prediction), loaded from safetensors only."""

    def __init__(
        self,
        folder: PipelineFolder,
        dtype: str = "float32",
        device: str = "auto",
        resolution_px: int = 512,
        unet_batch: int | None = None,
        compiled: bool = False,
        also_float32: bool = False,
    ) -> None:
        """Load onto `device` (``auto``: CUDA where there is one).

        The autoencoder always computes in float32: its activations overflow in half precision.

        Args:
            unet_batch: images in one call of the UNet; by default as many as keep the device busy and fit its memory.
            compiled: compile the UNet, for calls of two sizes: what is left is padded, not compiled anew.
            also_float32: evaluations `in_float32` will be asked for, so that memory must hold that UNet, too.

        Raises:
            ConfigError: weights that do not fit their config, an unknown dtype, or a resolution the model cannot take.
        """
        self.device = torch.device(available(device))
        self.dtype = DTYPES[dtype]
        self.schedule = folder.schedule
        quiet_libraries()
        variant, _ = folder.weights()
        options = {"use_safetensors": True, "variant": variant, "local_files_only": True}
        try:
            vae = AutoencoderKL.from_pretrained(folder.path / "vae", torch_dtype=torch.float32, **options)
            unet = UNet2DConditionModel.from_pretrained(folder.path / "unet", torch_dtype=self.dtype, **options)
            text_encoder = CLIPTextModel.from_pretrained(folder.path / "text_encoder", dtype=self.dtype, **options)
            tokenizer = CLIPTokenizer.from_pretrained(folder.path / "tokenizer", local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ConfigError(f"{folder.path}: cannot load the pipeline: {error}") from error
        self._factor = _factor(vae.config)
        if resolution_px % self._factor:
            raise ConfigError(
                f"replica.resolution_px {resolution_px} is not a multiple of {self._factor}, as the autoencoder needs"
            )
        # Channels-last is the layout that convolutions compute in fastest, on CPU and on GPU.
        layout = torch.channels_last
        self._vae = vae.to(self.device, memory_format=layout).eval().requires_grad_(False)
        self._unet = unet.to(self.device, memory_format=layout).eval().requires_grad_(False)
        self._text_encoder = text_encoder.to(self.device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._empty: Tensor | None = None
        self._compiled: Callable[..., Any] | None = None
        self._in_float32: StableDiffusion | None = None
        _, height, width = self.latent_shape(resolution_px, resolution_px)
        usual, self.vae_batch = device_batches(self.device.type, height * width, resolution_px**2)
        self.unet_batch = unet_batch or usual
        if self.device.type in MEMORY_BOUND:
            self._fit(resolution_px, unet_batch is not None, also_float32)
        if compiled:
            self._compiled = torch.compile(self._unet, fullgraph=True, dynamic=False)
        log.info("UNet: up to %d images a call; autoencoder: %d", self.unet_batch, self.vae_batch)

    def _fit(self, resolution_px: int, fixed: bool, also_float32: bool) -> None:
        """Halve the batches until a call of each fits into the memory that is free.

        Raises:
            ConfigError: not even one image fits, or not the batch that was asked for.
        """
        shape = self.latent_shape(resolution_px, resolution_px)

        def unet() -> None:
            z = torch.zeros(self.unet_batch, *shape, device=self.device)
            for model in (self, self.in_float32()) if also_float32 else (self,):
                model.predicted_noise(z, 0, self.text([""]).expand(self.unet_batch, -1, -1))

        def vae() -> None:
            self.encode(torch.zeros(self.vae_batch, 3, resolution_px, resolution_px, device=self.device))
            self.decode(torch.zeros(self.vae_batch, *shape, device=self.device))

        while not _fits(unet):
            if fixed or self.unet_batch == 1:
                raise ConfigError(f"the GPU lacks memory for {self.unet_batch} images in the UNet")
            self.unet_batch //= 2
        while not _fits(vae):
            if self.vae_batch == 1:
                raise ConfigError("the GPU lacks memory for one image in the autoencoder")
            self.vae_batch //= 2

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image of that size in px."""
        return self._vae.config.latent_channels, height // self._factor, width // self._factor

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"]:
        """Scaled mean (not a draw) of the autoencoder's posterior for images in [-1, 1]."""
        images = images.to(self.device, torch.float32)
        parts = [part.contiguous(memory_format=torch.channels_last) for part in torch.split(images, self.vae_batch)]
        mean = torch.cat([self._vae.encode(part).latent_dist.mean for part in parts])
        return mean.contiguous() * float(self._vae.config.scaling_factor)

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Float[Tensor, "batch tokens width"]:
        """Last hidden states of the prompts, padded and cut to the tokenizer's length."""
        if list(prompts) == [""]:  # asked for with every batch
            if self._empty is None:
                self._empty = self._encoded(prompts)
            return self._empty
        return self._encoded(prompts)

    def _encoded(self, prompts: Sequence[str]) -> Tensor:
        padded = self._tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self._tokenizer.model_max_length,
            return_tensors="pt",
        )
        states: Tensor = self._text_encoder(padded.input_ids.to(self.device)).last_hidden_state
        return states

    def predicted_noise(
        self, z_t: Float[Tensor, "batch c h w"], t: int | Int[Tensor, " batch"], states: Float[Tensor, "batch tokens width"]
    ) -> Float[Tensor, "batch c h w"]:
        """Predicted noise in float32, whatever the prediction type and the dtype of the UNet; differentiable in `z_t`."""
        latents, texts = z_t.to(self.dtype), states.to(self.dtype)
        # cuDNN's convolutions would round float32 to ten bits of mantissa.
        with cudnn.flags(enabled=True, allow_tf32=False):
            if self._compiled is not None and not torch.is_grad_enabled():
                output = self._compiled_calls(self._compiled, latents, t, texts)
            else:
                output = self._unet(latents, t, texts).sample
        return self.schedule.noise_from_output(output.float(), z_t, t)

    def _compiled_calls(self, unet: Callable[..., Any], latents: Tensor, t: int | Tensor, texts: Tensor) -> Tensor:
        """The compiled UNet in calls of two sizes, all in one layout: `unet_batch`, and a quarter of it for what is left."""
        each = t if isinstance(t, Tensor) else torch.full((len(latents),), t, device=self.device)
        outputs, start = [], 0
        while start < len(latents):
            left = len(latents) - start
            size = self.unet_batch if left >= self.unet_batch else max(1, self.unet_batch // PARTS)
            # Where fewer are left, the last image fills the call up: another size would be compiled anew.
            rows = torch.arange(start, start + size, device=self.device).clamp(max=len(latents) - 1)
            output: Tensor = unet(latents[rows].contiguous(), each[rows], texts[rows], return_dict=False)[0]
            outputs.append(output[:left])
            start += size
        return torch.cat(outputs)

    def in_float32(self) -> StableDiffusion:
        """This pipeline with a copy of its UNet in float32, made once; itself, where it computes in float32 already."""
        if self.dtype == torch.float32:
            return self
        if self._in_float32 is None:
            twin = copy.copy(self)
            twin.dtype, twin._compiled = torch.float32, None
            twin._unet = copy.deepcopy(self._unet).float()
            self._in_float32 = twin
        return self._in_float32

    def parameters(self) -> dict[str, Tensor]:
        """The UNet's parameters by name."""
        return dict(self._unet.named_parameters())

    def predicted_noise_with(
        self,
        parameters: Mapping[str, Tensor],
        z_t: Float[Tensor, "batch c h w"],
        t: int,
        states: Float[Tensor, "batch tokens width"],
    ) -> Float[Tensor, "batch c h w"]:
        """Predicted noise of the UNet with other parameters, differentiable in all."""
        # The fused attention kernels have no batching rule in torch.func; the plain one has.
        with sdpa_kernel(SDPBackend.MATH):
            called = functional_call(self._unet, dict(parameters), (z_t.to(self.dtype), t, states.to(self.dtype)))
        output: Tensor = called.sample
        return self.schedule.noise_from_output(output.float(), z_t, t)

    @torch.no_grad()
    def decode(self, z0: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Images for clean latents, clamped to [-1, 1]."""
        scaled = z0.float() / self._vae.config.scaling_factor
        parts = [part.contiguous(memory_format=torch.channels_last) for part in torch.split(scaled, self.vae_batch)]
        decoded = torch.cat([self._vae.decode(part).sample for part in parts])
        return decoded.clamp(-1.0, 1.0).contiguous()


def available(device: str) -> str:
    """A kind of device; for ``auto`` CUDA where there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def native_on_cpu(dtype: str) -> bool:
    """Whether this machine's processor computes in a dtype itself; otherwise it is emulated, slower than float32."""
    endings = {"bfloat16": "bf16", "float16": "fp16"}
    return dtype not in endings or any(
        has and name.endswith(endings[dtype]) for name, has in torch.cpu.get_capabilities().items()
    )


def device_batches(device: str, latent_positions: int, pixels: int) -> tuple[int, int]:
    """Images in a call of the UNet and of the autoencoder that keep a kind of device busy.

    Args:
        device: ``cpu`` or ``cuda``.
        latent_positions, pixels: of an image.
    """
    return max(1, UNET_POSITIONS[device] // latent_positions), max(1, VAE_PIXELS[device] // pixels)


def _factor(vae: Mapping[str, Any]) -> int:
    """Pixels by side of a latent, from an autoencoder's config."""
    blocks: Sequence[int] = vae.get("block_out_channels", (64,))
    return int(2 ** (len(blocks) - 1))


def _fits(call: Callable[[], None]) -> bool:
    try:
        call()
    except torch.OutOfMemoryError:
        fits = False
    else:
        fits = True
    # After the handler: while an error is handled, its traceback holds the tensors of the call.
    if not fits:
        torch.cuda.empty_cache()
    return fits


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: missing or unreadable; expected a pipeline folder in diffusers' layout") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object")
    return content


def _weight_files(path: Path, part: str, variant: str | None) -> list[Path]:
    stem = WEIGHTS[part] + (f".{variant}" if variant else "")
    single, shards = path / part / f"{stem}.safetensors", sorted((path / part).glob(f"{stem}-*-of-*.safetensors"))
    return [single] if single.is_file() else shards


def quiet_libraries() -> None:
    """Silence what diffusers and transformers say while they load."""
    # Loading messages of the libraries would drown the scan's own; their errors are raised all the same.
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
