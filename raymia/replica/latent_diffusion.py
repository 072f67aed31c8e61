"""What families that denoise an autoencoder's latents share: calls of the denoiser and of the autoencoder on one device."""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import diffusers
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.backends import cudnn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from raymia.errors import ConfigError
from raymia.replica.adapters import attach, switch, tuned
from raymia.replica.autoencoder import Autoencoder, KLAutoencoder
from raymia.replica.backward import recomputed
from raymia.replica.conditioning import Conditioning
from raymia.replica.device import DTYPES, MEMORY_BOUND, available, device_batches, fits, layout_on, quiet_libraries
from raymia.replica.families import Family, LoadOptions
from raymia.replica.inversions import Words
from raymia.replica.parts import Parts
from raymia.replica.quantised import quantise
from raymia.replica.spread import free_memory, spread

log = logging.getLogger(__name__)

PARTS = 4
"""Calls of a compiled denoiser are of two sizes: `denoiser_batch`, and this part of it."""


class LatentDiffusion(ABC):
    """A denoiser and an autoencoder on one device; see `raymia.replica.protocol.Replica`.

    Attributes:
        family: of the model.
        dtype: that the denoiser computes in.
        autoencoder: in float32 always.
        text_device: where text encoders are while nothing is encoded, of a replica that has any.
        groups, batches_gradients: see `raymia.replica.protocol.Replica`.
    """

    batches_gradients = True

    def __init__(self, family: Family, parts: Parts, options: LoadOptions) -> None:
        """Load the model; see `raymia.replica.families.Family.load`."""
        self.family = family
        self.groups = family.groups
        self.device = torch.device(available(options.device))
        self.dtype = DTYPES[options.dtype]
        self.schedule = family.schedule(parts.folder, options.naming)
        # It brings its tables there now, and not from within what torch.func transforms, which would keep them.
        self.schedule.time(0, self.device)
        quiet_libraries()
        side = options.resolution_px
        _, height, width = family.latent_shape(parts.folder, side)
        usual, autoencoder_batch = device_batches(self.device.type, height * width, side**2)
        self.text_device = torch.device("cpu") if options.text == "offload" else self.device
        self._text_modules: list[nn.Module] = []
        self._staged = options.staged
        self.denoiser_batch = options.denoiser_batch or usual
        self._empty: Conditioning | None = None
        self._words = Words({})
        self._tuned = True
        if options.text_alone:
            self._load_text(parts)
            return
        self.autoencoder = self._load_autoencoder(parts, autoencoder_batch)
        require_sides(side, self.autoencoder.factor * family.grain)
        self._layout = layout_on(self.device.type, options.compiled)
        before = set(parts.loaded)
        if self._staged is None:
            self._load_text(parts)
        self._text_modules = [part for name, part in parts.loaded.items() if name not in before and isinstance(part, nn.Module)]
        # Last, where it is spread over the GPUs' free memory.
        denoiser = self._load_denoiser(parts)
        if options.adapters:
            kind = getattr(diffusers, family.pipelines[0], None)
            self._words = attach(kind, parts, family.name, options.adapters)
        if options.weights != "as_saved" and self.device.type != "meta":
            quantise(denoiser, options.weights)
        several = self.device.type == "cuda" and options.gpus > 1
        self._denoiser = spread(denoiser, free_memory(options.gpus)) if several else denoiser.to(self.device)
        self._empty_of_base: Conditioning | None = None
        self._compiled: Callable[..., Any] | None = None
        self._in_float32: LatentDiffusion | None = None
        if self.device.type in MEMORY_BOUND:
            self._fit(side, options.denoiser_batch is not None, options.also_float32)
        if options.compiled:
            self._compiled = torch.compile(self._denoiser, fullgraph=True, dynamic=False)
        if self.device.type != "meta":
            log.info("denoiser: up to %d images a call; autoencoder: %d", self.denoiser_batch, self.autoencoder.batch)

    @abstractmethod
    def _load_denoiser(self, parts: Parts) -> nn.Module:
        """The denoiser in the replica's dtype."""

    def _load_autoencoder(self, parts: Parts, batch: int) -> Autoencoder:
        """The autoencoder, which takes `batch` images in a call."""
        return KLAutoencoder(parts, self.device, batch)

    @abstractmethod
    def _load_text(self, parts: Parts) -> None:
        """Text encoders, to `text_device`, and tokenizers."""

    @abstractmethod
    def _encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """What the model is told under each prompt."""

    @abstractmethod
    def _output(self, denoiser: Callable[..., Any], latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
        """What the denoiser puts out, in the shape of the latents.

        Args:
            denoiser: the one that was loaded, or what is called in its place.
            latents: (batch, c, h, w) in the replica's dtype.
            times: what the schedule says of the timestep: a number, or (batch,).
            told: with floating-point tensors in the replica's dtype.
        """

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image of that size in px."""
        return self.autoencoder.latent_shape(height, width)

    def encode(self, images: Float[Tensor, "batch 3 H W"]) -> Float[Tensor, "batch c h w"]:
        """Scaled mean (not a draw) of the autoencoder's posterior for images in [-1, 1]."""
        return self.autoencoder.encode(images)

    def decode(self, z0: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Images for clean latents, clamped to [-1, 1]."""
        return self.autoencoder.decode(z0)

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Conditioning:
        """What the model is told under each prompt."""
        if list(prompts) == [""]:  # asked for with every batch
            if self._empty is None:
                self._empty = self._encoded(prompts)
            return self._empty
        return self._encoded(prompts)

    def _encoded(self, prompts: Sequence[str]) -> Conditioning:
        if self._staged is not None:
            return self._staged.told(prompts, self.device)
        with self.text_encoders_at_hand():
            return self._encode_prompts(self._words.put(prompts) if self._tuned else prompts)

    @contextmanager
    def text_encoders_at_hand(self) -> Iterator[None]:
        """Within this block text encoders are on the device, wherever they rest otherwise."""
        if self.text_device == self.device:
            yield
            return
        modules = [module for encoder in self._text_modules for module in encoder.modules()]
        tables: list[dict[str, Any]] = [table for module in modules for table in (module._parameters, module._buffers)]
        resting = [(table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None]
        copies: dict[int, Tensor] = {}
        try:
            for table, name, tensor in resting:
                # What several modules share is copied once.
                copies.setdefault(id(tensor), _like(tensor, tensor.to(self.device)))
                table[name] = copies[id(tensor)]
            yield
        finally:
            # Nothing changed: what rests is taken up again, and nothing is copied back.
            for table, name, tensor in resting:
                table[name] = tensor

    def predicted_noise(
        self, z_t: Float[Tensor, "batch c h w"], t: int | Int[Tensor, " batch"], conditioning: Conditioning
    ) -> Float[Tensor, "batch c h w"]:
        """Predicted noise in float32, whatever the output means and the dtype of the denoiser; differentiable in `z_t`."""
        latents, told = z_t.to(self.dtype), conditioning.to(self.dtype)
        # cuDNN's convolutions would round float32 to ten bits of mantissa.
        with cudnn.flags(enabled=True, allow_tf32=False):
            if self._compiled is not None and not torch.is_grad_enabled():
                output = self._compiled_calls(self._compiled, latents, t, told)
            else:
                output = self._output(self._denoiser, latents, self.schedule.time(t, self.device), told)
        return self.schedule.noise_from_output(output.float(), z_t, t)

    def _compiled_calls(self, denoiser: Callable[..., Any], latents: Tensor, t: int | Tensor, told: Conditioning) -> Tensor:
        """The compiled denoiser in calls of two sizes, in one layout: `denoiser_batch`, and a quarter of it for the rest."""
        times = self.schedule.time(t if isinstance(t, Tensor) else torch.full((len(latents),), t, device=self.device))
        outputs, start = [], 0
        while start < len(latents):
            left = len(latents) - start
            size = self.denoiser_batch if left >= self.denoiser_batch else max(1, self.denoiser_batch // PARTS)
            # Where fewer are left, the last image fills the call up: another size would be compiled anew.
            rows = torch.arange(start, start + size, device=self.device).clamp(max=len(latents) - 1)
            outputs.append(self._output(denoiser, latents[rows].contiguous(), times[rows], told[rows])[:left])
            start += size
        return torch.cat(outputs)

    def in_float32(self) -> LatentDiffusion:
        """This model with a copy of its denoiser in float32, made once; itself, where it computes in float32 already."""
        if self.dtype == torch.float32:
            return self
        if self._in_float32 is None:
            twin = copy.copy(self)
            twin.dtype, twin._compiled = torch.float32, None
            twin._denoiser = copy.deepcopy(self._denoiser).float()
            self._in_float32 = twin
        return self._in_float32

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Within this block the model is its base, to the bit."""
        empty, self._empty = self._empty, self._empty_of_base
        switch(self._adapted(), on=False)
        self._tuned = False
        try:
            yield
        finally:
            switch(self._adapted(), on=True)
            self._tuned = True
            self._empty, self._empty_of_base = empty, self._empty

    def recomputing(self) -> AbstractContextManager[None]:
        """Within this block activations inside of the denoiser's blocks are computed anew by a backward pass, and not kept."""
        return recomputed(self._denoiser)

    def _adapted(self) -> list[nn.Module]:
        """The modules that adapters are on, if any are."""
        twin = [] if self._in_float32 is None else [self._in_float32._denoiser]
        return [self._denoiser, *twin, *self._text_modules]

    def told_alike(self) -> bool:
        """Whether the text encoders have no adapters and no words of their own, so that texts mean the same to the base."""
        return not self._words.names and not tuned(self._text_modules)

    def words(self) -> list[str]:
        """Words of captions that adapters stand for."""
        return list(self._words.names)

    def parameters(self) -> dict[str, Tensor]:
        """The denoiser's parameters by name."""
        return dict(self._denoiser.named_parameters())

    def parameter_group(self, name: str) -> str | None:
        """The part of the denoiser and the kind of layer that a parameter belongs to."""
        return self.family.parameter_group(name)

    def predicted_noise_with(
        self, parameters: Mapping[str, Tensor], z_t: Float[Tensor, "batch c h w"], t: int, conditioning: Conditioning
    ) -> Float[Tensor, "batch c h w"]:
        """Predicted noise of the denoiser with other parameters, differentiable in all."""
        # The fused attention kernels have no batching rule in torch.func; the plain one has.
        with sdpa_kernel(SDPBackend.MATH):
            output = self._output(
                lambda *given, **named: functional_call(self._denoiser, dict(parameters), given, named),
                z_t.to(self.dtype),
                self.schedule.time(t, self.device),
                conditioning.to(self.dtype),
            )
        return self.schedule.noise_from_output(output.float(), z_t, t)

    @torch.no_grad()
    def _fit(self, resolution_px: int, fixed: bool, also_float32: bool) -> None:
        """Halve the batches until a call of each fits into the memory that is free.

        Raises:
            ConfigError: not even one image fits, or not the batch that was asked for.
        """
        shape = self.latent_shape(resolution_px, resolution_px)

        def denoise() -> None:
            z = torch.zeros(self.denoiser_batch, *shape, device=self.device)
            for model in (self, self.in_float32()) if also_float32 else (self,):
                model.predicted_noise(z, 0, self.text([""]).expand(self.denoiser_batch))

        def encode_and_decode() -> None:
            count = self.autoencoder.batch
            self.encode(torch.zeros(count, 3, resolution_px, resolution_px, device=self.device))
            self.decode(torch.zeros(count, *shape, device=self.device))

        while not fits(denoise):
            if fixed or self.denoiser_batch == 1:
                raise ConfigError(f"the GPU lacks memory for {self.denoiser_batch} images in the denoiser")
            self.denoiser_batch //= 2
        while not fits(encode_and_decode):
            if self.autoencoder.batch == 1:
                raise ConfigError("the GPU lacks memory for one image in the autoencoder")
            self.autoencoder.batch //= 2


def _like(tensor: Tensor, copied: Tensor) -> Tensor:
    return nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied


def require_sides(resolution_px: int, grain_px: int) -> None:
    """Refuse images that the model cannot take.

    Raises:
        ConfigError: names the field of a job.
    """
    if resolution_px % grain_px:
        raise ConfigError(
            f"replica.resolution_px {resolution_px} is not a multiple of {grain_px}, as the autoencoder and the denoiser need"
        )
