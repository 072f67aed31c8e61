"""A card that is not there: tensors on `cuda` that have a shape, a dtype and a device, and no numbers.

PyTorch's own FakeTensorMode propagates all three and refuses to mix devices. Upon it stands a watch, which sees every operation
and refuses what a card refuses and fake tensors let pass, and what makes the processor wait for the card.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakIdKeyDictionary

from raymia.replica.autoencoder import Autoencoder
from raymia.replica.conditioning import Conditioning
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.parts import Parts
from raymia.trial import gradients

ROOT = Path(__file__).parents[2]
aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.allclose.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
    aten._linalg_check_errors.default,
}
"""Operations that need the numbers, and have the processor wait until the card has made them."""
ANSWERED = {aten._local_scalar_dense.default, aten.equal.default, aten.allclose.default}
"""Those among them that give one number."""
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
ONE_DTYPE = {aten.convolution.default: 3, aten.native_layer_norm.default: 4, aten.native_group_norm.default: 3}
"""Operations of which a card refuses mixed dtypes, and fake tensors do not; among so many first arguments."""


COUNT = 2
"""Images in a call of a denoiser that is made, whatever the batch."""


class CardError(AssertionError):
    """What a card would refuse, or wait for. No scorer takes it for the fault of a sample."""


@dataclass(frozen=True)
class Allowed:
    """A place where numbers may be read, or waited for.

    Attributes:
        file: end of its path.
        functions: in which it happens, itself and not what it calls, but for PyTorch.
        why: it may.
        most: times in a batch; none where it is not counted.
        answers: given in turn in the place of the numbers.
    """

    file: str
    functions: tuple[str, ...]
    why: str
    most: int | None = 1
    answers: Sequence[Any] = (0,)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation on fake tensors, and raises at what a card would refuse or wait for.

    Attributes:
        allowed: where it does not.
        met: how often each of those was.
        loading: whether models are being brought to the card, which may be waited for.
    """

    loading = False

    def __init__(self, allowed: Sequence[Allowed]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.allowed = allowed
        self.met: Counter[Allowed] = Counter()
        self._pinned = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not (_any_on_card(args) or _any_on_card(kwargs.values()) or _is_card(kwargs.get("device"))):
            return self._beside(func, args, kwargs)
        if func is aten._to_copy.default or func is aten.copy_.default:
            return self._copied(func, args, kwargs)
        if func in READS:
            return self._read(func)
        if func in INDEXED and (found := self._placed(func, args[0], args[1])) is not None:
            return found
        if func in ONE_DTYPE:
            dtypes = {one.dtype for one in args[: ONE_DTYPE[func]] if isinstance(one, Tensor)}
            if len(dtypes) > 1:
                raise CardError(f"{func} of {' and '.join(sorted(map(str, dtypes)))}, {_where()}")
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != "cuda":
            raise CardError(f"{func} on the card by a generator of the processor, {_where()}")
        return func(*args, **kwargs)

    def _beside(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the processor does by itself, with numbers."""
        if func is aten.is_pinned.default:
            return args[0] in self._pinned
        with unset_fake_temporarily():
            if func is aten._pin_memory.default:
                pinned = args[0].clone()
                self._pinned[pinned] = True
                return pinned
            return func(*args, **kwargs)

    def _read(self, func: Any) -> Any:
        answer = self._answer(f"{func} reads numbers")
        if func in ANSWERED:
            return answer
        raise CardError(f"{func}: how many there are is not known without numbers, {_where()}")

    def _copied(self, func: Any, args: Any, kwargs: Any) -> Any:
        into = func is aten.copy_.default
        source = args[1] if into else args[0]
        device = args[0].device if into else torch.device(kwargs.get("device") or source.device)
        if device.type == source.device.type:
            return func(*args, **kwargs)
        if device.type == "cuda":
            alongside = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            if not (self.loading or (alongside and source in self._pinned)):
                self._answer(f"{func} to the card, which is waited for")
            if into:
                return func(*args, **kwargs)
            layout = {"memory_format": kwargs.get("memory_format") or torch.preserve_format}
            return torch.empty_like(source, dtype=kwargs.get("dtype"), device="cuda", **layout)
        answer = self._answer(f"{func} from the card reads numbers")
        with unset_fake_temporarily():
            if into:
                return args[0].fill_(answer)
            return torch.full(source.shape, answer, dtype=kwargs.get("dtype") or source.dtype)

    def _placed(self, func: Any, tensor: Tensor, places: Sequence[Tensor | None]) -> Tensor | None:
        """What an index gives that is not known without numbers; none of others, which are checked."""
        indices = [one for one in places if one is not None]
        if not _on_card(tensor):
            raise CardError(f"{func}: a tensor of the processor by places on the card, {_where()}")
        if not all(map(_on_card, indices)):
            self._answer(f"{func}: places are copied to the card, which is waited for")
        if func is not aten.index.Tensor or all(one.dtype != torch.bool for one in indices):
            return None
        (mask,) = indices
        return tensor.new_empty(self._answer(f"{func}: by a mask, whose numbers are read"), *tensor.shape[mask.dim() :])

    def _answer(self, what: str) -> Any:
        """What stands in the place of the number, where it may be read.

        Raises:
            CardError: it may not.
        """
        place = next((frame.f_code for frame in _outside() if not frame.f_code.co_name.startswith("<")), None)
        for one in self.allowed:
            if place is not None and place.co_name in one.functions and place.co_filename.endswith(one.file):
                self.met[one] += 1
                if one.most is not None and self.met[one] > one.most:
                    raise CardError(f"{what} more often than {one.most} times ({one.why}), {_where()}")
                return one.answers[(self.met[one] - 1) % len(one.answers)]
        raise CardError(f"{what}, {_where()}")


def _on_card(tensor: Any) -> bool:
    return isinstance(tensor, FakeTensor)


def _any_on_card(given: Iterable[Any]) -> bool:
    return any(isinstance(one, FakeTensor) or (isinstance(one, list | tuple) and _any_on_card(one)) for one in given)


def _is_card(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _outside() -> Iterator[FrameType]:
    """What led here, from within, without PyTorch and this file."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name != __file__ and not any(f"/{library}/" in name for library in ("torch", "jaxtyping", "beartype")):
            yield frame
        frame = frame.f_back


def _where() -> str:
    """The innermost places, and the attack that led there."""
    places = [(Path(frame.f_code.co_filename), frame.f_lineno, frame.f_code.co_name) for frame in _outside()]
    attack = next((file.stem for file, _, _ in places if file.parent.name == "attacks" and ROOT in file.parents), None)
    said = " < ".join(f"{file.name}:{line} {name}" for file, line, name in places[:3])
    return f"{'' if attack is None else f'attack {attack}, '}at {said}"


def _given_new(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module._apply`, with new tensors in a module where PyTorch changes the old ones, which no fake tensor can become."""
    changed: dict[int, tuple[Tensor, Tensor]] = {}
    for one in module.modules():
        for table in (one._parameters, one._buffers):
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in changed:
                    new = change(tensor)
                    same = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
                    changed[id(tensor)] = same, tensor
                table[name] = changed[id(tensor)][0]
    return module


def _leaves(output: Tensor) -> list[Tensor]:
    """What a backward pass from an output would give gradients to."""
    found, seen, nodes = [], set(), [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        nodes.extend(following for following, _ in node.next_functions)
    return found


def _one_of_each(replica: LatentDiffusion) -> dict[str, Tensor]:
    """Of the denoiser's parameters the first of each dtype and number of dimensions."""
    named = list(replica._denoiser.named_parameters())
    return dict({(tensor.dtype, tensor.dim()): (name, tensor) for name, tensor in reversed(named)}.values())


def _backward(output: Tensor) -> None:
    """A backward pass by shapes, since the engine asks for a real card."""
    for leaf in _leaves(output):
        hooks = list((leaf._post_accumulate_grad_hooks or {}).values())
        if hooks or not isinstance(leaf, nn.Parameter):
            leaf.grad = torch.zeros_like(leaf)
        for hook in hooks:
            hook(leaf)


def _gradients(output: Tensor, by: Tensor) -> tuple[Tensor]:
    """`torch.autograd.grad`, by shapes."""
    assert any(leaf is by for leaf in _leaves(output)), "no gradient reaches it"
    return (torch.zeros_like(by),)


def _gradients_of(error: Callable[..., Tensor], argnums: tuple[int, ...]) -> Callable[..., Any]:
    """`torch.func.grad`, by shapes, once the forward pass was made."""

    def gradients_by(*given: Any) -> Any:
        assert error(*given).shape == ()
        return tuple(tree_map(torch.zeros_like, given[place]) for place in argnums)

    return gradients_by


class _Once:
    """Calls of models by what a card sees of them: of those that are alike in all but the batch's size, one is made.

    It is made with gradients by latents and parameters, which asks for all that a call without asks for.
    """

    def __init__(self, precise: bool) -> None:
        """Take whether a copy of the denoiser in float32 is called, too; it is taken to be as the first otherwise."""
        self._made: dict[Any, Tensor] = {}
        self._precise, self._first = precise, torch.float32

    def denoised(self, made: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A replica's `_output`."""

        def output(replica: Any, denoiser: Any, latents: Tensor, times: Tensor, told: Conditioning) -> Tensor:
            if not isinstance(denoiser, nn.Module):  # within what torch.func transforms
                return made(replica, denoiser, latents, times, told)
            given = {"latents": latents, "times": times, **told.tensors()}
            if not self._made:
                self._first = latents.dtype
            if latents.dtype != self._first and not self._precise:
                return output(self._own, self._own._denoiser, latents.to(self._first), times, told.to(self._first)).to(
                    latents.dtype
                )
            self._own = replica
            kinds = [(name, one.dtype, one.device, one.dim(), one.shape[1:]) for name, one in given.items()]
            key = (denoiser, *kinds)
            if key not in self._made:
                pair = {name: one.new_empty(COUNT, *one.shape[1:]) if one.dim() else one for name, one in given.items()}
                z, at = pair.pop("latents").requires_grad_(True), pair.pop("times")
                learns = any(parameter.requires_grad for parameter in denoiser.parameters())
                with torch.enable_grad():
                    denoiser.requires_grad_(True)
                    self._made[key] = made(replica, denoiser, z, at, Conditioning(**pair))
                    denoiser.requires_grad_(learns)
            kept = self._made[key]
            if torch.is_grad_enabled():
                return kept[:1].expand(len(latents), *kept.shape[1:]) + latents * 0
            return kept.new_empty(len(latents), *kept.shape[1:])

        return output

    def told(self, made: Callable[..., Conditioning]) -> Callable[..., Conditioning]:
        """A replica's `_encode_prompts`."""
        first: list[Conditioning] = []

        def output(replica: Any, prompts: Sequence[str]) -> Conditioning:
            if not first:
                first.append(made(replica, prompts))
                return first[0]
            tensors = first[0].tensors()
            return Conditioning(**{name: one.new_empty(len(prompts), *one.shape[1:]) for name, one in tensors.items()})

        return output

    def coded(self, made: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """An autoencoder's `encode` or `decode`."""

        def output(autoencoder: Any, tensor: Tensor) -> Tensor:
            key = (autoencoder, made, tensor.dtype, tensor.device, tensor.shape[1:])
            if key not in self._made:
                self._made[key] = made(autoencoder, tensor)
                return self._made[key]
            return self._made[key].new_empty(len(tensor), *self._made[key].shape[1:])

        return output


@contextmanager
def card(family: str, allowed: Sequence[Allowed], precise: bool = False) -> Iterator[Watch]:
    """Within this block there is a card, whose operations are watched.

    What the processor does by itself it does with numbers: weights and captions are read as they are, noise is drawn. Tensors
    lose their numbers where they are brought to the card. Forward passes are whole; a backward pass gives gradients by shape to
    what it would reach. Of the denoiser's parameters one of each kind is told of.

    Args:
        family: of the models that are loaded, by name.
        allowed: where numbers may be read.
        precise: see `_Once`.
    """
    read = Parts.model

    def real(parts: Parts, part: str, dtype: torch.dtype) -> Any:
        # As it would be read below the watch, and quicker.
        with _disable_current_modes():
            return read(parts, part, dtype)

    kind = import_module(f"raymia.replica.{family}")._Replica
    once, watch = _Once(precise), Watch(allowed)
    with ExitStack() as stack:
        for owner, name, replaced in (
            (Parts, "model", real),
            (kind, "_output", once.denoised(kind._output)),
            (kind, "_encode_prompts", once.told(kind._encode_prompts)),
            (Autoencoder, "encode", once.coded(Autoencoder.encode)),
            (Autoencoder, "decode", once.coded(Autoencoder.decode)),
            (nn.Module, "_apply", _given_new),
            (LatentDiffusion, "parameters", _one_of_each),
            (Tensor, "backward", _backward),
            (torch.autograd, "grad", _gradients),
            (gradients, "grad", _gradients_of),
        ):
            stack.enter_context(mock.patch.object(owner, name, replaced))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(watch)
        yield watch
