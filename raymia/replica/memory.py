"""How much memory a model takes on a GPU, told by its configs: no weights are read, and nothing is computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raymia.errors import ConfigError, first_line
from raymia.replica.backward import GIB, bytes_together, each_gradient, pays_together, recomputed
from raymia.replica.device import quiet_libraries
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.parts import Parts, name_of
from raymia.replica.quantised import saved_bytes
from raymia.replica.tensors import new_part

MIB = 2**20
GPUS_GIB = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192)
"""Memory of the GPUs that there are, as they are sold."""
WORKSPACE = 4 / 3
"""Memory of the autoencoder's calls over that of their tensors: cuDNN's convolutions copy them into another layout. Measured on
an H100, as are the next."""
BESIDE_GIB = 1.0
"""What CUDA itself, its kernels and the libraries' workspaces take."""
SLACK = 1.1
"""What the allocator holds over what is in use: 3 to 12 % was seen with one image a call, by parts."""


class PartMemory(BaseModel):
    """One part of a pipeline."""

    part: str
    kind: str
    """Name of its class."""
    parameters: int
    dtype: str
    """That it computes in."""
    weights_gib: float
    resident: bool = True
    """On the GPU while nothing is encoded."""


class CallMemory(BaseModel):
    """What a call takes beside the weights."""

    what: str
    images: int
    """In one call, where that fits."""
    gib: float
    """With as many images."""
    one_image_gib: float


@dataclass(frozen=True)
class Backward:
    """The backward pass of an attack that takes gradients.

    Attributes:
        attack: its name in the job.
        by: what gradients are taken by.
        images: in a pass: by latents those of several samples, which may be fewer; by parameters all evaluations of one.
        precise: it computes in float32, whatever the replica does.
        together: samples in a pass by parameters, of a model that is small enough.
    """

    attack: str
    by: Literal["latents", "parameters"]
    images: int
    precise: bool = False
    together: int = 1


class Memory(BaseModel):
    """What a replica takes on a GPU."""

    parts: list[PartMemory]
    calls: list[CallMemory]
    gpus: int
    """That the denoiser is spread over; what follows is of each."""
    least_gib: float
    """With one image to a call."""
    gib: float
    """With as many images to a call as keep a GPU busy."""
    smallest_gpu_gib: int | None
    """Of the usual GPUs, the smallest that has room for one image to a call; none where none has."""
    roomy_gpu_gib: int | None
    """Of the usual GPUs, the smallest on which calls need not be made smaller."""
    prompt_mib: float
    """What the model is told under one prompt, which ``text: stage`` keeps for each."""


def predicted_memory(
    folder: PipelineFolder, options: LoadOptions, texts: int = 1, backward: Sequence[Backward] = ()
) -> Memory | None:
    """Predict what a replica takes on a GPU, by running it on tensors without numbers.

    Args:
        folder: of the pipeline, checked.
        options: how it is to be run; compiling is left out.
        texts: that are encoded at once.
        backward: passes of attacks that take gradients.

    Returns:
        None of a family whose replicas are not those of `raymia.replica.latent_diffusion`.

    Raises:
        ConfigError: the model cannot be run on tensors without numbers; says what it asked of them.
    """
    quiet_libraries()
    parts = _Hollow(folder.path, folder.parts)
    try:
        with _FullTexts():
            hollow = replace(options, device="meta", compiled=False, also_float32=False, text="resident", adapters=())
            replica = folder.family.load(parts, hollow)
            if not isinstance(replica, LatentDiffusion):
                return None
            calls = _calls(replica, options, texts)
            calls += [_gradients(replica, options.resolution_px, asked) for asked in backward]
            prompt = sum(tensor.nbytes for tensor in replica.text([""]).to(replica.dtype).tensors().values())
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{folder.path}: what memory it takes cannot be told without its weights ({type(error).__name__}: "
            f"{first_line(error)})"
        ) from error
    modules = {part: module for part, module in parts.loaded.items() if isinstance(module, nn.Module)}
    held = [_part(part, name_of(parts.declared[part]), module) for part, module in modules.items()]
    if options.also_float32 and replica.in_float32() is not replica:
        (denoiser,) = (part for part, module in modules.items() if module is replica._denoiser)
        held.append(_part(denoiser, name_of(parts.declared[denoiser]), replica.in_float32()._denoiser))
    if options.weights != "as_saved":
        own = next(part for part in held if modules[part.part] is replica._denoiser)
        own.weights_gib -= saved_bytes(replica._denoiser) / GIB
    for part in held:
        part.resident = options.text == "resident" or modules[part.part] not in replica._text_modules
    weights = sum(part.weights_gib for part in held if part.resident)
    if options.gpus > 1:
        # The denoiser is spread so that the same room is left on each; the rest is on the first.
        first = sum(part.weights_gib for part in held if part.resident and modules[part.part] is not replica._denoiser)
        weights = max(first, weights / options.gpus)
    resting = sum((part.weights_gib for part in held if not part.resident), 0.0)
    calls = [call if call.what != "text" else _with(call, resting) for call in calls]
    # Of a stage of their own, text encoders are alone on a GPU.
    apart = [call for call in calls if call.what == "text"] if options.text == "stage" else []
    least, most = (
        max([weights + max(getattr(call, size) for call in calls if call not in apart)] + [getattr(one, size) for one in apart])
        for size in ("one_image_gib", "gib")
    )
    return Memory(
        parts=held,
        calls=calls,
        gpus=options.gpus,
        least_gib=_with_room(least),
        gib=_with_room(most),
        smallest_gpu_gib=_smallest(least),
        roomy_gpu_gib=_smallest(most),
        prompt_mib=prompt / MIB,
    )


def _with(call: CallMemory, gib: float) -> CallMemory:
    """A call that has weights on the GPU for as long as it lasts."""
    return call.model_copy(update={"gib": call.gib + gib, "one_image_gib": call.one_image_gib + gib})


def _with_room(gib: float) -> float:
    return gib * SLACK + BESIDE_GIB


def _smallest(gib: float) -> int | None:
    return next((size for size in GPUS_GIB if _with_room(gib) <= size), None)


class _Hollow(Parts):
    """Parts that have shapes and no numbers."""

    def model(self, part: str, dtype: torch.dtype) -> Any:
        with torch.device("meta"):
            self.loaded[part] = new_part(self, part).to(dtype).eval().requires_grad_(False)
        return self.loaded[part]


def _part(part: str, kind: str, module: nn.Module) -> PartMemory:
    return PartMemory(
        part=part,
        kind=kind,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        dtype=str(next(module.parameters()).dtype).removeprefix("torch."),
        weights_gib=sum(tensor.nbytes for tensor in module.state_dict().values()) / GIB,
    )


def _calls(replica: LatentDiffusion, options: LoadOptions, texts: int) -> list[CallMemory]:
    """What a call of each kind takes, of one image and of as many as keep a GPU busy."""
    side = options.resolution_px
    shape = replica.latent_shape(side, side)
    told = replica.text([""])

    def denoise(model: LatentDiffusion) -> Callable[[int], None]:
        def call(count: int) -> None:
            z = torch.empty(count, *shape, device="meta")
            model.predicted_noise(z, 0, told.expand(count))

        return call

    def encode(count: int) -> None:
        replica.autoencoder.encode(torch.empty(count, 3, side, side, device="meta"))

    def decode(count: int) -> None:
        replica.autoencoder.decode(torch.empty(count, *shape, device="meta"))

    def tell(count: int) -> None:
        replica._encode_prompts([""] * count)

    asked: list[tuple[str, Callable[[int], None], int]] = [("denoiser", denoise(replica), replica.denoiser_batch)]
    if options.also_float32 and replica.in_float32() is not replica:
        asked.append(("denoiser in float32", denoise(replica.in_float32()), replica.denoiser_batch))
    asked += [("encode", encode, replica.autoencoder.batch), ("decode", decode, replica.autoencoder.batch)]
    asked.append(("text", tell, texts))
    calls = [_call(what, call, images) for what, call, images in asked]
    return [_enlarged(call) if call.what in ("encode", "decode") else call for call in calls]


def _gradients(replica: LatentDiffusion, side_px: int, asked: Backward) -> CallMemory:
    """What a backward pass takes, gradients included."""
    model = replica.in_float32() if asked.precise else replica
    parameters = model.parameters()
    if asked.by == "latents":
        return _call(asked.attack, lambda count: _back(model, side_px, count, {}), asked.images)
    if pays_together(parameters.values(), asked.together):
        one = bytes_together(parameters.values(), 1) / GIB
        call = _call(asked.attack, lambda count: _back(model, side_px, count, parameters), asked.together)
        more = {"gib": call.gib + asked.together * one, "one_image_gib": call.one_image_gib + one}
        return call.model_copy(update=more)

    def alone(count: int) -> None:
        # A backward pass leaves the modes of the forward.
        with recomputed(model._denoiser, _FullTexts):
            _back(model, side_px, count, parameters)

    # The evaluations of a sample are not divided.
    gib = _peak(alone, asked.images) / GIB
    return CallMemory(what=asked.attack, images=asked.images, gib=gib, one_image_gib=gib)


def _back(model: LatentDiffusion, side_px: int, count: int, parameters: dict[str, Tensor]) -> None:
    """A forward and a backward pass of as many images, by latents, and by parameters of which each gradient is dropped."""
    z = torch.empty(count, *model.latent_shape(side_px, side_px), device="meta", requires_grad=True)
    told = model.text([""]).expand(count)
    with torch.enable_grad(), each_gradient(parameters, lambda _, __: None) if parameters else nullcontext():
        model.predicted_noise(z, 0, told).square().sum().backward()  # type: ignore[no-untyped-call]


def _enlarged(call: CallMemory) -> CallMemory:
    return call.model_copy(update={"gib": WORKSPACE * call.gib, "one_image_gib": WORKSPACE * call.one_image_gib})


def _call(what: str, call: Callable[[int], None], images: int) -> CallMemory:
    """Two sizes tell all: what a call takes grows with its images, and part of it does not."""
    one, two = (_peak(call, count) / GIB for count in (1, 2))
    return CallMemory(what=what, images=images, gib=one + (images - 1) * (two - one), one_image_gib=one)


def _peak(call: Callable[[int], None], count: int) -> int:
    """Bytes that a call of as many images holds at most, beside what there was before it."""
    held = _Held()
    with torch.no_grad(), held:
        call(count)
    return held.most


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made within this block, for as long as anything holds them.

    Attributes:
        most: at once.
    """

    most: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {storage._cdata for storage in _storages((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            # What shares memory with an argument is a view, or the argument itself.
            if storage._cdata not in before and storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self._now += storage.nbytes()
                weakref.finalize(storage, self._drop, storage._cdata)
        self.most = max(self.most, self._now)
        return made

    def _drop(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def _storages(tensors: Any) -> list[torch.UntypedStorage]:
    return [one.untyped_storage() for one in tree_leaves(tensors) if isinstance(one, Tensor) and one.is_meta]


class _FullTexts(TorchFunctionMode):
    """Answers what a model asks of numbers that are not there as if no token were padding, and attends in one kernel.

    Attention is the one operation that PyTorch takes apart on tensors without numbers and not on a GPU.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return _attended(*args, **kwargs)
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.is_meta:
            if func is Tensor.__bool__ and first.dtype == torch.bool:
                return True
            if func is Tensor.__getitem__ and _is_mask(args[1]):
                return first
        return func(*args, **kwargs)


def _attended(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    attended: Tensor = _Attention.apply(query, key, value)
    return attended


class _Attention(torch.autograd.Function):
    """What a fused attention holds: for its backward pass what went in, what came out, and a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended = query.new_empty(*query.shape[:-1], value.shape[-1])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(query, key, value, attended, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return attended

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.is_meta and index.dtype == torch.bool
