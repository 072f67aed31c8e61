"""How fast a device runs the model alone: no images, no weights to download, no Ray."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel

from raymia.bench.shapes import CHANNELS, FACTOR, SHAPES, ModelShape, count_flops
from raymia.errors import ConfigError, suggest
from raymia.replica.device import DTYPES, available, device_batches, layout_on, quiet_libraries

MATRICES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
"""Sides of the square matrices whose products show the peak, by kind of device."""
WARM_UP = 3
"""Calls that are made before those that count."""
UNET_VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "float32, channels-last": {"dtype": "float32", "channels_last": True},
    "float32, channels-last, compiled": {"dtype": "float32", "channels_last": True, "compiled": True},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, channels-last": {"dtype": "bfloat16", "channels_last": True},
    "bfloat16, channels-last, fused QKV": {"dtype": "bfloat16", "channels_last": True, "fused_qkv": True},
    "bfloat16, channels-last, compiled": {"dtype": "bfloat16", "channels_last": True, "compiled": True},
    "bfloat16, channels-last, fused QKV, compiled": {
        "dtype": "bfloat16",
        "channels_last": True,
        "fused_qkv": True,
        "compiled": True,
    },
    "bfloat16, channels-last, compiled, CUDA graphs": {"dtype": "bfloat16", "channels_last": True, "cuda_graphs": True},
}
"""Ways to run the UNet, with their options."""
DEFAULT_VARIANTS = {"cpu": "float32, channels-last", "cuda": "bfloat16"}
"""The variant that a scan's defaults come to, by kind of device."""


class ModelBench(BaseModel):
    """Speed of a model's UNet and autoencoder on one device."""

    device: str
    torch_version: str
    threads: int
    family: str
    """Name of the model's shapes."""
    variant: str
    dtype: str
    resolution_px: int
    denoiser_batch: int
    """Images in a call of the UNet."""
    vae_batch: int
    """Images in a call of the autoencoder."""
    compile_s: float | None
    """Seconds of the UNet's first call; none where it is not compiled."""
    peak_memory_gib: float | None
    """GPU memory of the UNet at its peak; none on CPUs."""
    forwards_s: float
    """Images per second that the UNet takes."""
    encodes_s: float | None
    decodes_s: float | None
    unet_gflop: float
    """Floating point operations of one forward of one image, in 10^9."""
    unet_tflops: float
    """Floating point operations per second of the UNet, in 10^12."""
    peak_tflops: float
    """Floating point operations per second of products of large square matrices in the same dtype, in 10^12."""
    share_of_peak: float
    """`unet_tflops` over `peak_tflops`."""


def bench_model(
    family: str = "sd15",
    variant: str | None = None,
    batch: int | None = None,
    resolution_px: int | None = None,
    device: str = "auto",
    seconds: float = 5.0,
    with_vae: bool = True,
) -> ModelBench:
    """Time the UNet and the autoencoder of a model with random weights.

    Args:
        family: name of the model's shapes, one of `SHAPES`.
        variant: name of one of `UNET_VARIANTS`; by default how a scan runs on the device.
        batch: images in a call of the UNet; by default what a replica would take.
        resolution_px: side of the images; by default the model's own.
        device: ``auto``, ``cpu`` or ``cuda``.
        seconds: how long each part is run for, after warming up.
        with_vae: whether to time the autoencoder, which computes in float32 as in a scan.

    Raises:
        ConfigError: an unknown name, or a resolution that the autoencoder cannot take.
    """
    device = available(device)
    variant = variant or DEFAULT_VARIANTS[device]
    for what, name, known in (("model", family, SHAPES), ("variant", variant, UNET_VARIANTS)):
        if name not in known:
            raise ConfigError(f"{what} {name!r}{suggest(name, list(known))}; known are {', '.join(known)}")
    shape, options = SHAPES[family], UNET_VARIANTS[variant]
    side_px = resolution_px or shape.resolution_px
    if side_px % FACTOR:
        raise ConfigError(f"resolution {side_px} px is not a multiple of {FACTOR}, as the autoencoder needs")
    dtype = DTYPES[options["dtype"]]
    usual, vae_batch = device_batches(device, (side_px // FACTOR) ** 2, side_px**2)
    denoiser_batch = batch or usual
    quiet_libraries()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with torch.no_grad(), torch.device(device):
        compile_s, forwards_s = _time_unet(shape, options, shape.inputs(denoiser_batch, side_px, device, dtype), seconds)
        memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
        encodes_s, decodes_s = _time_vae(shape, vae_batch, side_px, device, seconds) if with_vae else (None, None)
        peak = peak_tflops(device, dtype)
    flops = count_flops(shape, side_px)
    reached = denoiser_batch * forwards_s * flops.unet / 1e12
    return ModelBench(
        device=device_name(device),
        torch_version=torch.__version__,
        threads=torch.get_num_threads(),
        family=family,
        variant=variant,
        dtype=options["dtype"],
        resolution_px=side_px,
        denoiser_batch=denoiser_batch,
        vae_batch=vae_batch,
        compile_s=compile_s,
        peak_memory_gib=memory,
        forwards_s=denoiser_batch * forwards_s,
        encodes_s=encodes_s,
        decodes_s=decodes_s,
        unet_gflop=flops.unet / 1e9,
        unet_tflops=reached,
        peak_tflops=peak,
        share_of_peak=reached / peak,
    )


def _time_unet(
    shape: ModelShape, options: dict[str, Any], inputs: dict[str, Any], seconds: float
) -> tuple[float | None, float]:
    """Seconds of the first call, none where the UNet is not compiled, and calls per second after it."""
    device, dtype = inputs["sample"].device.type, inputs["sample"].dtype
    unet = shape.new_unet().to(dtype).eval().requires_grad_(False)
    if options.get("channels_last"):
        unet = unet.to(memory_format=torch.channels_last)
    if options.get("fused_qkv"):
        unet.fuse_qkv_projections()
    compiled = bool(options.get("compiled") or options.get("cuda_graphs"))
    forward: Callable[..., Any] = unet
    if compiled:
        mode = "reduce-overhead" if options.get("cuda_graphs") else None
        forward = torch.compile(unet, fullgraph=True, dynamic=False, mode=mode)
    start = time.perf_counter()
    forward(**inputs, return_dict=False)
    _wait(device)
    first_s = time.perf_counter() - start
    return first_s if compiled else None, rate(lambda: forward(**inputs, return_dict=False), device, seconds)


def _time_vae(shape: ModelShape, batch: int, side_px: int, device: str, seconds: float) -> tuple[float, float]:
    """Images encoded and decoded per second."""
    vae = shape.new_vae().eval().requires_grad_(False).to(memory_format=layout_on(device, compiled=False))
    images = torch.randn(batch, 3, side_px, side_px)
    latents = torch.randn(batch, CHANNELS, side_px // FACTOR, side_px // FACTOR)
    encodes = batch * rate(lambda: vae.encode(images), device, seconds)
    return encodes, batch * rate(lambda: vae.decode(latents), device, seconds)


def bench_variants(seconds: float = 5.0, **options: Any) -> Iterator[ModelBench]:
    """Run `bench_model` in every variant that the device can run, one after the other.

    Args:
        seconds: how long each part is run for.
        options: further arguments of `bench_model`.
    """
    for number, variant in enumerate(UNET_VARIANTS):
        if "CUDA" not in variant or torch.cuda.is_available():
            yield bench_model(variant=variant, seconds=seconds, with_vae=number == 0, **options)


def peak_tflops(device: str, dtype: torch.dtype) -> float:
    """TFLOP/s of products of two square matrices, of the size at which they are fastest."""
    measured = []
    for side in MATRICES[device]:
        left, right = torch.randn(2, side, side, device=device, dtype=dtype)
        measured.append(2 * side**3 * rate(partial(torch.matmul, left, right), device, 1.0) / 1e12)
    return max(measured)


def device_name(device: str) -> str:
    """The GPU's name, or the processor's."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def rate(call: Callable[[], object], device: str, seconds: float, warm_up: int = WARM_UP) -> float:
    """Measure calls per second.

    Args:
        call: what is timed; on a GPU it need not wait for the result.
        device: ``cpu`` or ``cuda``.
        seconds: how long to go on, for one call at least.
        warm_up: calls beforehand that do not count.
    """
    for _ in range(warm_up):
        call()
    _wait(device)
    start, calls = time.perf_counter(), 0
    while True:
        call()
        calls += 1
        # The clock is read at calls 1, 2, 4, ..., so that a GPU is not kept waiting in between.
        if calls & (calls - 1) == 0 or device == "cpu":
            _wait(device)
            spent = time.perf_counter() - start
            if spent >= seconds:
                return calls / spent


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
