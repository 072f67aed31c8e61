"""How fast a whole scorer is on a model of full size: attacks over Stable Diffusion with random weights, without Ray."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from transformers import CLIPTextConfig, CLIPTextModel

from raymia.bench.model import device_name, rate
from raymia.bench.shapes import FAMILIES, TOKENS, Family
from raymia.config import parse_job
from raymia.errors import ConfigError, suggest
from raymia.replica.device import available, quiet_libraries
from raymia.scan.scorer import Scorer, load_scorer
from raymia.testbed.architecture import new_tokenizer, save_pipeline

ATTACKS = ("loss", "pia", "secmi")
CAPTION = "a small picture, of no meaning"
HEAD_WIDTH = 64
"""Of the text encoders of all families."""


class ScorerBench(BaseModel):
    """One replica scoring batch after batch, against the same evaluations in a bare loop."""

    device: str
    torch_version: str
    threads: int
    family: str
    attacks: list[str]
    dtype: str
    compiled: bool
    resolution_px: int
    batch_size: int
    denoiser_batch: int
    vae_batch: int
    """The last two as the replica chose them."""
    load_s: float
    """From the files to a replica, its memory tried out."""
    first_batch_s: float
    """With compilation, where asked for."""
    images_s: float
    forwards: float
    """Per image."""
    encodes: float
    forwards_s: float
    """Of the scorer, as it encodes, too."""
    bare_images_s: float
    """Of a loop that does nothing but as many forwards and encodes, in the largest calls."""
    ratio: float
    """`images_s` over `bare_images_s`."""
    peak_memory_gib: float | None
    """On a GPU."""


def bench_scorer(
    attacks: Sequence[str] = ATTACKS,
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
        attacks: names, at their defaults.
        family: one of `FAMILIES` that a replica can be of.
        batch_size: samples in front of the replica at once.
        dtype: of the UNet; ``auto`` as in a scan.
        compiled: compile the UNet.
        resolution_px: of the images; by default the family's own.
        device: ``auto``, ``cpu`` or ``cuda``.
        seconds: that each part is run for, at least one batch.

    Raises:
        ConfigError: an unknown name, or a model that a replica cannot be of.
    """
    device = available(device)
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    known = [name for name, shape in FAMILIES.items() if shape.text_layers]
    if family not in known:
        raise ConfigError(f"model {family!r}{suggest(family, known)}; replicas can be {', '.join(known)}")
    side_px = resolution_px or FAMILIES[family].resolution_px
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        replica = {"model": folder, "resolution_px": side_px, "compile": compiled}
        content = {"manifest": "unused", "replica": replica, "attacks": {name: {} for name in attacks}, "run": "unused"}
        job = parse_job(content, "bench scorer")
        write_pipeline(Path(folder), FAMILIES[family])
        load_s = time.perf_counter()
        scorer = load_scorer(job, dtype, device, os.cpu_count() if device == "cpu" else None)
        load_s = time.perf_counter() - load_s
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, side_px, side_px, 3), dtype=np.uint8)
    keys = [str(number) for number in range(batch_size)]

    def score() -> None:
        scorer.score(pixels, [CAPTION] * batch_size, keys)

    first_batch_s = time.perf_counter()
    score()  # which ends with the scores on the CPU
    first_batch_s = time.perf_counter() - first_batch_s
    forwards, encodes = (getattr(scorer.evaluations, name) / batch_size for name in ("forwards", "encodes"))
    images_s = batch_size * rate(score, device, seconds, warm_up=0)
    forward_s, encode_s, batches = _bare(scorer, side_px, device, seconds)
    bare_images_s = 1.0 / (forwards * forward_s + encodes * encode_s)
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
        encodes=encodes,
        forwards_s=forwards * images_s,
        bare_images_s=bare_images_s,
        ratio=images_s / bare_images_s,
        peak_memory_gib=torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    )


def write_pipeline(folder: Path, shape: Family) -> None:
    """A pipeline folder of a family's shapes with random weights, and a tokenizer of few words."""
    tokenizer = new_tokenizer([CAPTION])
    tokenizer.model_max_length = TOKENS
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.text_width,
            intermediate_size=4 * shape.text_width,
            num_hidden_layers=shape.text_layers,
            num_attention_heads=max(1, shape.text_width // HEAD_WIDTH),
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    save_pipeline(folder, shape.new_vae(), shape.new_unet(), text_encoder, tokenizer)


def _bare(scorer: Scorer, side_px: int, device: str, seconds: float) -> tuple[float, float, tuple[int, int]]:
    """Seconds of a forward and of an encode in the largest calls, and the images in those."""
    replica: Any = scorer.replica
    z = torch.randn(replica.denoiser_batch, *replica.latent_shape(side_px, side_px), device=device)
    t = torch.full((len(z),), 100, device=device)
    told = replica.text([CAPTION]).expand(len(z))
    images = torch.randn(replica.autoencoder.batch, 3, side_px, side_px, device=device)
    with torch.no_grad():
        forwards_s = len(z) * rate(lambda: replica.predicted_noise(z, t, told), device, seconds, warm_up=1)
        encodes_s = len(images) * rate(lambda: replica.encode(images), device, seconds, warm_up=1)
    return 1.0 / forwards_s, 1.0 / encodes_s, (len(z), len(images))
