"""Training of the test bed's models: the autoencoder and CLIP on auxiliary images, the denoisers on the members."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import pad
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from raymia.replica.conditioning import token_ids
from raymia.replica.sd3 import T5_TOKENS
from raymia.replica.transformer import STEPS

Log = Callable[[dict[str, Any]], None]
"""Takes one entry of the log of training."""

TRAINING_BATCH = 64
CAPTION_DROPOUT = 0.1
# Stands for the variation (crops, compression, the posterior's draw) under which a large model meets a training image. A UNet
# fitted to bare posterior means takes clean latents for noisy ones, more so where it remembers them.
LATENT_NOISE = 0.3


@dataclass(frozen=True)
class Captioned:
    """Images and their captions.

    Attributes:
        latents: (n, 4, h, w), scaled.
        captions: n of them.
    """

    latents: Tensor
    captions: list[str]


class Denoiser(ABC):
    """A denoiser and what stands around it in its pipeline, as it is trained.

    A level is what `drawn` gives: how much noise there is, in the denoiser's own terms.
    """

    model: ClassVar[str]
    """Name in the log."""
    watched: ClassVar[tuple[float, ...]]
    """Levels at which the loss is watched."""
    tokenizer: CLIPTokenizer

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""

    @abstractmethod
    def told(self, tokens: Tensor) -> Any:
        """What the denoiser is told of (n, length) tokens."""

    @abstractmethod
    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) levels at random."""

    @abstractmethod
    def noisy(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """(n, 4, h, w) latents with as much noise as (n,) levels say."""

    @abstractmethod
    def wanted(self, latents: Tensor, noise: Tensor) -> Tensor:
        """(n, 4, h, w) that the denoiser is to put out."""

    @abstractmethod
    def output(self, noisy: Tensor, levels: Tensor, told: Any) -> Tensor:
        """(n, 4, h, w) that it puts out."""


@dataclass(frozen=True)
class NoiseUNet(Denoiser):
    """A UNet that predicts noise, under the states of one text encoder.

    Attributes:
        alphas_cumprod: (timesteps,) of the scheduler that the pipeline ships with. A level is a timestep.
    """

    model: ClassVar = "unet"
    watched: ClassVar = (100, 300, 500)

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    alphas_cumprod: Tensor

    def parameters(self) -> list[nn.Parameter]:
        return [*self.unet.parameters(), *self.text_encoder.parameters()]

    def told(self, tokens: Tensor) -> Tensor:
        states: Tensor = self.text_encoder(tokens).last_hidden_state
        return states

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, len(self.alphas_cumprod), (count,), generator=generator)

    def noisy(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        alphabar = self.alphas_cumprod[levels.long()][:, None, None, None]
        return alphabar.sqrt() * latents + (1 - alphabar).sqrt() * noise

    def wanted(self, latents: Tensor, noise: Tensor) -> Tensor:
        return noise

    def output(self, noisy: Tensor, levels: Tensor, told: Tensor) -> Tensor:
        predicted: Tensor = self.unet(noisy, levels.long(), told).sample
        return predicted


@dataclass(frozen=True)
class TunedUNet(NoiseUNet):
    """A UNet of which nothing but an adapter is trained."""

    model: ClassVar = "lora"

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.unet.parameters() if parameter.requires_grad]


@dataclass(frozen=True)
class RepeatedUNet(TunedUNet):
    """The same, on pictures some of which stand many times."""

    model: ClassVar = "memorised"


@dataclass(frozen=True)
class FlowTransformer(Denoiser):
    """Stable Diffusion 3's transformer, which predicts a flow's velocity, under the states of two text encoders and no T5.

    A level is sigma, drawn from the logit-normal distribution of diffusers' training script for Stable Diffusion 3.
    """

    model: ClassVar = "transformer"
    watched: ClassVar = (0.25, 0.45, 0.62)

    transformer: SD3Transformer2DModel
    text_encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]
    tokenizer: CLIPTokenizer

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for module in (self.transformer, *self.text_encoders) for parameter in module.parameters()]

    def told(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        seen = [encoder(tokens, output_hidden_states=True) for encoder in self.text_encoders]
        states = torch.cat([one.hidden_states[-2] for one in seen], dim=-1)
        width = self.transformer.config.joint_attention_dim
        states = pad(states, (0, width - states.shape[-1], 0, T5_TOKENS))
        return states, torch.cat([one.text_embeds for one in seen], dim=-1)

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, generator=generator).sigmoid()

    def noisy(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        sigma = levels[:, None, None, None]
        return (1 - sigma) * latents + sigma * noise

    def wanted(self, latents: Tensor, noise: Tensor) -> Tensor:
        return noise - latents

    def output(self, noisy: Tensor, levels: Tensor, told: tuple[Tensor, Tensor]) -> Tensor:
        states, pooled = told
        velocity: Tensor = self.transformer(
            hidden_states=noisy,
            timestep=levels * STEPS,
            encoder_hidden_states=states,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        return velocity


class TrainingLog:
    """Appends one JSON object per line to a file and echoes it."""

    def __init__(self, path: Path) -> None:
        """Begin an empty log.

        Args:
            path: file to write; its folder exists.
        """
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
    means = [vae.encode(chunk).latent_dist.mean for chunk in torch.split(images, TRAINING_BATCH)]
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


def train_denoiser(
    denoiser: Denoiser, members: Captioned, non_members: Captioned, steps: int, seed: int, log: Log, rate: float = 1e-3
) -> None:
    """Fit a denoiser and its text encoders to the members' latents and captions; the non-members are only watched.

    Args:
        denoiser: what is trained; its tokenizer and its schedule stay as they are.
        members: what it is trained on.
        non_members: what it never sees.
        steps: number of steps, of `TRAINING_BATCH` images each.
        seed: seed of the order, the noise and the captions that are left out.
        log: takes an entry every 100 steps.
        rate: learning rate.
    """
    tokens, empty = token_ids(denoiser.tokenizer, members.captions), token_ids(denoiser.tokenizer, [""])
    parameters = denoiser.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for step, index in enumerate(batches(len(members.latents), TRAINING_BATCH, steps, seed)):
        z = members.latents[index] + LATENT_NOISE * torch.randn(members.latents[index].shape, generator=generator)
        levels = denoiser.drawn(len(index), generator)
        noise = torch.randn(z.shape, generator=generator)
        dropped = torch.rand(len(index), generator=generator) < CAPTION_DROPOUT
        told = denoiser.told(torch.where(dropped[:, None], empty, tokens[index]))
        output = denoiser.output(denoiser.noisy(z, noise, levels), levels, told)
        loss = functional.mse_loss(output, denoiser.wanted(z, noise))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step == 0:
            auc = _watched_auc(denoiser, members, non_members, seed)
            entry = {"loss": round(float(np.mean(losses[-100:])), 5), "loss_auc_one_draw": round(auc, 4)}
            log({"model": denoiser.model, "step": step + 1, **entry})


def _watched_auc(denoiser: Denoiser, members: Captioned, non_members: Captioned, seed: int) -> float:
    """AUC of the loss under one draw of noise."""
    losses = [_watched_loss(denoiser, images, seed) for images in (members, non_members)]
    labels = np.repeat([1, 0], [len(losses[0]), len(losses[1])])
    return float(roc_auc_score(labels, -np.concatenate(losses)))


@torch.no_grad()
def _watched_loss(denoiser: Denoiser, images: Captioned, seed: int) -> np.ndarray:
    """(n,) mean squared error of the output, summed over the watched levels, under one draw of noise."""
    latents = images.latents
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed + 1))
    told = denoiser.told(token_ids(denoiser.tokenizer, images.captions))
    total = torch.zeros(len(latents))
    for level in denoiser.watched:
        levels = torch.full((len(latents),), level)
        output = denoiser.output(denoiser.noisy(latents, noise, levels), levels, told)
        total += (output - denoiser.wanted(latents, noise)).square().mean(dim=(1, 2, 3))
    return total.numpy()
