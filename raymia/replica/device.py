"""Devices and dtypes: what there is, what it takes at once, and what fits."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
import torch
import transformers
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DENOISER_POSITIONS = {"cpu": 8_192, "cuda": 65_536, "meta": 65_536}
"""Latent positions in a call of the denoiser from which larger calls bring next to nothing, by kind of device. "meta" are
PyTorch's tensors without numbers, which stand for a GPU's."""
VAE_PIXELS = {"cpu": 32_768, "cuda": 2_097_152, "meta": 2_097_152}
"""The same of the autoencoder, in pixels; its activations are the largest of all."""
MEMORY_BOUND = ("cuda",)
"""Kinds of device whose memory is tried out when a model is loaded."""


def available(device: str) -> str:
    """A kind of device; for ``auto`` CUDA where there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_on(dtype: str, device: str) -> str:
    """A dtype; for ``auto`` what scans compute in on a kind of device."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device == "cuda" else "float32"


def native_on_cpu(dtype: str) -> bool:
    """Whether this machine's processor computes in a dtype itself; otherwise it is emulated, slower than float32."""
    endings = {"bfloat16": "bf16", "float16": "fp16"}
    return dtype not in endings or any(
        has and name.endswith(endings[dtype]) for name, has in torch.cpu.get_capabilities().items()
    )


def device_batches(device: str, latent_positions: int, pixels: int) -> tuple[int, int]:
    """Images in a call of the denoiser and of the autoencoder that keep a kind of device busy.

    Args:
        device: ``cpu`` or ``cuda``.
        latent_positions, pixels: of an image.
    """
    return max(1, DENOISER_POSITIONS[device] // latent_positions), max(1, VAE_PIXELS[device] // pixels)


def layout_on(device: str, compiled: bool) -> torch.memory_format:
    """The layout of weights and images in which a kind of device convolves fastest.

    Channels-last on a CPU, and where the model is compiled. On an H100 the plain layout is: 12 % faster in Stable Diffusion
    1.5's UNet, 6 % in SDXL's, 15 to 45 % in the autoencoder (see docs/performance.md).
    """
    return torch.channels_last if device == "cpu" or compiled else torch.contiguous_format


def onto(device: torch.device, tensor: Tensor) -> Tensor:
    """A tensor on a device; from the processor's memory to a GPU through pinned memory, so that nothing waits for the copy.

    A plain ``.to(device)``, or a tensor made of numbers with ``device=``, has the processor wait until the GPU has done all
    that it was given before.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def fits(call: Callable[[], None]) -> bool:
    """Whether a call ends without running out of memory."""
    try:
        call()
    except torch.OutOfMemoryError:
        enough = False
    else:
        enough = True
    # After the handler: while an error is handled, its traceback holds the tensors of the call.
    if not enough:
        torch.cuda.empty_cache()
    return enough


def quiet_libraries() -> None:
    """Silence what diffusers and transformers say while they load."""
    # Loading messages of the libraries would drown the scan's own; their errors are raised all the same.
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
