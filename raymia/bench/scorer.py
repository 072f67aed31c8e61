"""How fast a whole scorer is on a model of full size: attacks over Stable Diffusion with random weights, without Ray."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from transformers import CLIPTextConfig, CLIPTextModel

from raymia.bench.model import device_name, rate
from raymia.bench.shapes import CONTEXT_TOKENS, SHAPES, ModelShape
from raymia.config import parse_job
from raymia.errors import ConfigError, suggest
from raymia.replica.device import available, dtype_on, quiet_libraries
from raymia.scan.scorer import Scorer, load_scorer
from raymia.testbed.architecture import new_tokenizer, save_pipeline

DEFAULT_ATTACKS = ("loss", "pia", "secmi")
BENCH_CAPTION = "a small picture, of no meaning"
"""Caption of every image."""
HEAD_WIDTH = 64
"""Width of an attention head in the text encoders of all shapes."""


class ScorerBench(BaseModel):
    """Speed of one replica that scores batch after batch, against the same evaluations in a bare loop."""

    device: str
    torch_version: str
    threads: int
    family: str
    """Name of the model's shapes."""
    attacks: list[str]
    dtype: str
    compiled: bool
    resolution_px: int
    batch_size: int
    """Samples in front of the replica at once."""
    denoiser_batch: int
    """Images in a call of the UNet, as the replica chose."""
    vae_batch: int
    """Images in a call of the autoencoder, as the replica chose."""
    load_s: float
    """Seconds from the files to a replica that has tried out its memory."""
    first_batch_s: float
    """Seconds of the first batch, with compilation where that is asked for."""
    images_s: float
    """Images per second that the scorer scores."""
    forwards: float
    """Forwards of the UNet per image."""
    float32_forwards: float
    """Those of them that attacks ask for in float32, whatever the UNet's dtype."""
    encodes: float
    """Encodes of the autoencoder per image."""
    forwards_s: float
    """Forwards per second of the scorer, which encodes in the same time, too."""
    bare_images_s: float
    """Images per second of a loop that does nothing but as many forwards and encodes, in the largest calls."""
    ratio: float
    """`images_s` over `bare_images_s`."""
    peak_memory_gib: float | None
    """GPU memory at its peak; none on CPUs."""


def bench_scorer(
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    family: str = "sd15",
    batch_size: int = 16,
    dtype: str = "auto",
    compiled: bool = False,
    resolution_px: int | None = None,
    device: str = "auto",
    seconds: float = 10.0,
) -> ScorerBench:
    """Write a pipeline of random weights, load it as a scan does, and score random images under one caption.

    Args:
        attacks: names of attacks, which run at their defaults.
        family: name of the model's shapes, one of `SHAPES` that a pipeline can be written of.
        batch_size: samples in front of the replica at once.
        dtype: type of the UNet; ``auto`` as in a scan.
        compiled: whether to compile the UNet.
        resolution_px: side of the images; by default the model's own.
        device: ``auto``, ``cpu`` or ``cuda``.
        seconds: how long each part is run for, at least one batch.

    Raises:
        ConfigError: an unknown name, or a model that a replica cannot be of.
    """
    device = available(device)
    dtype = dtype_on(dtype, device)
    known = [name for name, shape in SHAPES.items() if shape.text_layers]
    if family not in known:
        raise ConfigError(f"model {family!r}{suggest(family, known)}; replicas can be {', '.join(known)}")
    side_px = resolution_px or SHAPES[family].resolution_px
    quiet_libraries()
    scorer, load_s = _load(attacks, SHAPES[family], dtype, compiled, side_px, device)
    first_batch_s, forwards, precise, encodes, images_s = _score(scorer, batch_size, side_px, device, seconds)
    forward_s, precise_s, encode_s, batches = _bare(scorer, side_px, device, seconds, precise > 0)
    bare_images_s = 1.0 / ((forwards - precise) * forward_s + precise * precise_s + encodes * encode_s)
    return ScorerBench(
        device=device_name(device),
        torch_version=torch.__version__,
        threads=torch.get_num_threads(),
        family=family,
        attacks=list(attacks),
        dtype=dtype,
        compiled=compiled,
        resolution_px=side_px,
        batch_size=batch_size,
        denoiser_batch=batches[0],
        vae_batch=batches[1],
        load_s=load_s,
        first_batch_s=first_batch_s,
        images_s=images_s,
        forwards=forwards,
        float32_forwards=precise,
        encodes=encodes,
        forwards_s=forwards * images_s,
        bare_images_s=bare_images_s,
        ratio=images_s / bare_images_s,
        peak_memory_gib=torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    )


def _load(
    attacks: Sequence[str], shape: ModelShape, dtype: str, compiled: bool, side_px: int, device: str
) -> tuple[Scorer, float]:
    """A scorer over a model of random weights, and the seconds that it took to load it."""
    with tempfile.TemporaryDirectory() as folder:
        replica = {"model": folder, "resolution_px": side_px, "compile": compiled}
        content = {"manifest": "unused", "replica": replica, "attacks": {name: {} for name in attacks}, "run": "unused"}
        job = parse_job(content, "bench scorer")
        write_pipeline(Path(folder), shape)
        start = time.perf_counter()
        scorer = load_scorer(job, dtype, device, os.cpu_count() if device == "cpu" else None)
        return scorer, time.perf_counter() - start


def _score(
    scorer: Scorer, batch_size: int, side_px: int, device: str, seconds: float
) -> tuple[float, float, float, float, float]:
    """Seconds of the first batch; forwards, those in float32, and encodes per image; and images per second after it."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, side_px, side_px, 3), dtype=np.uint8)
    keys = [str(number) for number in range(batch_size)]

    def score() -> None:
        # This ends with the scores on the CPU, so that a clock read behind it has waited for the GPU.
        scorer.score(pixels, [BENCH_CAPTION] * batch_size, keys)

    start = time.perf_counter()
    score()
    first_batch_s = time.perf_counter() - start
    forwards, encodes = scorer.evaluations.forwards / batch_size, scorer.evaluations.encodes / batch_size
    with _images_in(scorer.replica) as counted:
        score()
    return first_batch_s, forwards, sum(counted) / batch_size, encodes, batch_size * rate(score, device, seconds, warm_up=0)


@contextmanager
def _images_in(replica: Any) -> Iterator[list[int]]:
    """The images of every call that a float32 copy of the denoiser gets within this block; none where there is no copy."""
    counted: list[int] = []
    twin = replica._in_float32
    if twin is None:
        yield counted
        return
    hook = twin._denoiser.register_forward_pre_hook(lambda _, given: counted.append(len(given[0])))
    try:
        yield counted
    finally:
        hook.remove()


def write_pipeline(folder: Path, shape: ModelShape) -> None:
    """Write a pipeline folder of a model's shapes with random weights, and a tokenizer of few words."""
    tokenizer = new_tokenizer([BENCH_CAPTION])
    tokenizer.model_max_length = CONTEXT_TOKENS
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.text_width,
            intermediate_size=4 * shape.text_width,
            num_hidden_layers=shape.text_layers,
            num_attention_heads=max(1, shape.text_width // HEAD_WIDTH),
            max_position_embeddings=CONTEXT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    save_pipeline(folder, shape.new_vae(), shape.new_unet(), text_encoder, tokenizer)


def _bare(
    scorer: Scorer, side_px: int, device: str, seconds: float, precise: bool
) -> tuple[float, float, float, tuple[int, int]]:
    """Seconds of a forward, of one in float32 where it is asked for, and of an encode in the largest calls; images in those."""
    replica: Any = scorer.replica
    z = torch.randn(replica.denoiser_batch, *replica.latent_shape(side_px, side_px), device=device)
    t = torch.full((len(z),), 100, device=device)
    conditioning = replica.text([BENCH_CAPTION]).expand(len(z))
    images = torch.randn(replica.autoencoder.batch, 3, side_px, side_px, device=device)
    with torch.no_grad():
        forwards_s = len(z) * rate(lambda: replica.predicted_noise(z, t, conditioning), device, seconds, warm_up=1)
        precise_s = 0.0
        if precise:
            twin = replica.in_float32()
            precise_s = 1.0 / (len(z) * rate(lambda: twin.predicted_noise(z, t, conditioning), device, seconds, warm_up=1))
        encodes_s = len(images) * rate(lambda: replica.encode(images), device, seconds, warm_up=1)
    return 1.0 / forwards_s, precise_s, 1.0 / encodes_s, (len(z), len(images))
