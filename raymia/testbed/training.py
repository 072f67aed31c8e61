"""Training of the test bed's models: the autoencoder and CLIP on auxiliary images, the UNet on the members."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

Log = Callable[[dict[str, Any]], None]

BATCH = 64
CAPTION_DROPOUT = 0.1
# Stands for the variation (crops, compression, the posterior's draw) under which a large model meets a training image. A UNet
# fitted to bare posterior means takes clean latents for noisy ones, more so where it remembers them.
LATENT_NOISE = 0.3


class TrainingLog:
    """Appends one JSON object per line to a file and echoes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start = time.monotonic()
        path.write_text("")

    def __call__(self, entry: dict[str, Any]) -> None:
        line = json.dumps({**entry, "elapsed_s": round(time.monotonic() - self.start, 1)})
        with self.path.open("a") as stream:
            stream.write(line + "\n")
        print(line, flush=True)


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Index batches of `size` for `steps` steps, reshuffled each epoch."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:size]
        order = order[size:]


def _cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: int = 100) -> torch.optim.lr_scheduler.LambdaLR:
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))),
    )


def train_vae(vae: AutoencoderKL, images: Tensor, steps: int, seed: int, log: Log) -> None:
    """Fit `vae` to `images` (n, 3, h, w in [-1, 1]) and set its scaling factor to one over the latents' deviation."""
    vae.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1.5e-3, weight_decay=1e-4)
    schedule = _cosine(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for step, index in enumerate(batches(len(images), 32, steps, seed)):
        x = images[index].contiguous(memory_format=torch.channels_last)
        if torch.rand((), generator=generator) < 0.5:
            x = x.flip(-1)
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        y = vae.decode(z).sample
        edges = sum((y.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (-1, -2))
        error = (y - x).abs().mean() + functional.mse_loss(y, x) + 0.5 * edges
        loss = error + 1e-5 * posterior.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            log({"model": "vae", "step": step + 1, "loss": round(loss.item(), 5), "mae": round((y - x).abs().mean().item(), 5)})
    vae.eval()
    vae.register_to_config(scaling_factor=round(1.0 / encode(vae, images, scaled=False).std().item(), 5))
    log({"model": "vae", "scaling_factor": vae.config.scaling_factor})


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, scaled: bool = True) -> Tensor:
    """Posterior means of `images`, (n, 4, h/8, w/8), times the scaling factor where `scaled`."""
    means = [vae.encode(chunk).latent_dist.mean for chunk in torch.split(images, BATCH)]
    return torch.cat(means) * (float(vae.config.scaling_factor) if scaled else 1.0)


def train_clip(model: nn.Module, images: Tensor, tokens: Tensor, steps: int, seed: int, log: Log) -> None:
    """Fit an open_clip model to pairs of `images` (n, 3, h, w in [-1, 1]) and `tokens` by the contrastive loss."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = _cosine(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for step, index in enumerate(batches(len(images), 192, steps, seed)):
        x = _augmented(images[index], generator)
        image_features, text_features, scale = model(x, tokens[index])[:3]
        logits = scale.clamp(max=50.0) * image_features @ text_features.T
        target = torch.arange(len(index))
        loss = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            top = (logits.argmax(1) == target).float().mean().item()
            log({"model": "clip", "step": step + 1, "loss": round(loss.item(), 4), "batch_top1": round(top, 3)})
    model.eval()


def _augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    side = x.shape[-1]
    crop = int(side * (0.75 + 0.25 * torch.rand((), generator=generator).item()))
    top, left = (int(torch.randint(0, side - crop + 1, (), generator=generator)) for _ in range(2))
    x = x[..., top : top + crop, left : left + crop]
    if torch.rand((), generator=generator) < 0.5:
        x = x.flip(-1)
    return functional.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def train_unet(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    alphas_cumprod: Tensor,
    members: tuple[Tensor, list[str]],
    non_members: tuple[Tensor, list[str]],
    steps: int,
    seed: int,
    log: Log,
) -> None:
    """Fit `unet` and `text_encoder` to the members' latents and captions; the non-members are only watched.

    Args:
        alphas_cumprod: (timesteps,) of the scheduler that the pipeline ships with.
        members, non_members: scaled latents (n, 4, h, w) and their captions.
    """
    latents, captions = members
    tokens, empty = tokenize(tokenizer, captions), tokenize(tokenizer, [""])
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for step, index in enumerate(batches(len(latents), BATCH, steps, seed)):
        z = latents[index] + LATENT_NOISE * torch.randn(latents[index].shape, generator=generator)
        t = torch.randint(0, len(alphas_cumprod), (len(index),), generator=generator)
        noise = torch.randn(z.shape, generator=generator)
        dropped = torch.rand(len(index), generator=generator) < CAPTION_DROPOUT
        states = text_encoder(torch.where(dropped[:, None], empty, tokens[index])).last_hidden_state
        alphabar = alphas_cumprod[t][:, None, None, None]
        predicted = unet(alphabar.sqrt() * z + (1 - alphabar).sqrt() * noise, t, states).sample
        loss = functional.mse_loss(predicted, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step == 0:
            watched = [
                _watched_loss(unet, text_encoder, tokenizer, alphas_cumprod, group, seed) for group in (members, non_members)
            ]
            labels = np.repeat([1, 0], [len(watched[0]), len(watched[1])])
            auc = roc_auc_score(labels, -np.concatenate(watched))
            entry = {"loss": round(float(np.mean(losses[-100:])), 5), "loss_auc_one_draw": round(float(auc), 4)}
            log({"model": "unet", "step": step + 1, **entry})


@torch.no_grad()
def _watched_loss(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    alphas_cumprod: Tensor,
    group: tuple[Tensor, list[str]],
    seed: int,
) -> np.ndarray:
    latents, captions = group
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed + 1))
    states = text_encoder(tokenize(tokenizer, captions)).last_hidden_state
    total = torch.zeros(len(latents))
    for t in (100, 300, 500):
        noisy = alphas_cumprod[t].sqrt() * latents + (1 - alphas_cumprod[t]).sqrt() * noise
        total += (unet(noisy, t, states).sample - noise).square().mean(dim=(1, 2, 3))
    return total.numpy()


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(n, model_max_length) token ids, padded and cut."""
    padded = tokenizer(
        captions, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    )
    ids: Tensor = padded.input_ids
    return ids
