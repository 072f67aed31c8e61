"""How many times faster than the usual way: a script of its own for each attack, as public ones are, against raymia.

    python benchmarks/usual_way.py [--samples 32] [--rounds 3] [--compile] [--dtype bfloat16]

The usual way is written here from nothing but diffusers' pipeline. One attack per pass over the images, each with its own
encode and text encode, batches as the published scripts load them, UNet calls as they make them:

- loss, clid: image by image, the timesteps of a draw in one call (as mia_CLiD_impt.py of zhaisf/CLiD).
- secmi: image by image (batch size 1, as src/mia/secmi.py of jinhaoduan/SecMI-LDM).
- pia, pian, pfami: 32 images (as exp_laion_mi_eval.sh of caradryanl/CopyMark); sima likewise.
- denoising: image by image and draw by draw, prompt and empty prompt in one call, as diffusers' pipelines guide. The scripts of
  that study are not known to us; with the five draws in one call, too, it is `denoising, draws together`.

First both ways score the same images from the same noise: no score may differ by more than a thousandth of its deviation, and
where raymia computes in another dtype, ranks must correlate by .99. Then
they take turns, image after image the same work in one process with the same threads. Ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import interpolate

from raymia.attacks.base import ATTACKS, Access
from raymia.attacks.denoising import PRESETS
from raymia.bench.attacks import load_samples, score_all
from raymia.replica.families import LoadOptions
from raymia.replica.folder import load_replica
from raymia.replica.protocol import Replica
from raymia.scan.scorer import Scorer, images_on
from raymia.testbed import PIPELINE
from raymia.trial.trial import Trial

SIDE_PX, BATCH, DRAWS = 64, 32, 5
TOLERANCE, LEAST_RANK = 1e-3, 0.99
TOGETHER = "denoising, draws together"
Noise = Callable[[int, int], Tensor]
"""(image, draw) to noise of (1, c, h, w)."""


@dataclass
class Usual:
    """What each script has: a pipeline in float32 and the whole set of images."""

    pipe: StableDiffusionPipeline
    images: Tensor
    captions: list[str]
    noise: Noise

    def batches(self, size: int) -> list[tuple[Tensor, list[str], list[int]]]:
        numbers = range(0, len(self.images), size)
        return [
            (self.images[i : i + size], self.captions[i : i + size], list(range(len(self.images)))[i : i + size])
            for i in numbers
        ]

    def encode(self, images: Tensor) -> Tensor:
        latents: Tensor = self.pipe.vae.encode(images).latent_dist.mean * self.pipe.vae.config.scaling_factor
        return latents

    def text(self, prompts: Sequence[str]) -> Tensor:
        tokens = self.pipe.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.pipe.tokenizer.model_max_length,
            return_tensors="pt",
        )
        states: Tensor = self.pipe.text_encoder(tokens.input_ids)[0]
        return states

    def unet(self, z: Tensor, t: Tensor | int, states: Tensor) -> Tensor:
        noise: Tensor = self.pipe.unet(z, t, encoder_hidden_states=states).sample
        return noise

    def noised(self, z0: Tensor, noise: Tensor, t: int | Sequence[int]) -> Tensor:
        steps = torch.tensor([t] * len(z0) if isinstance(t, int) else list(t))
        noisy: Tensor = self.pipe.scheduler.add_noise(z0, noise, steps)
        return noisy

    def noises(self, numbers: Sequence[int], draw: int) -> Tensor:
        return torch.cat([self.noise(number, draw) for number in numbers])

    def move(self, z: Tensor, noise: Tensor, t: int, u: int) -> Tensor:
        """A DDIM step, forwards or backwards, as such scripts write it out."""
        a_t, a_u = (self.pipe.scheduler.alphas_cumprod[step] for step in (t, u))
        clean = (z - (1 - a_t).sqrt() * noise) / a_t.sqrt()
        return a_u.sqrt() * clean + (1 - a_u).sqrt() * noise


def loss(usual: Usual, timesteps: Sequence[int] = (100, 200, 300, 400, 500)) -> Tensor:
    found = []
    for images, captions, (number,) in usual.batches(1):
        z0, states = usual.encode(images), usual.text(captions)
        errors = []
        for draw in range(DRAWS):
            noise = usual.noise(number, draw).expand(len(timesteps), -1, -1, -1)
            noisy = usual.noised(z0.expand_as(noise), noise, timesteps)
            predicted = usual.unet(noisy, torch.tensor(timesteps), states.expand(len(timesteps), -1, -1))
            errors.append(((predicted - noise) ** 2).mean())
        found.append(-torch.stack(errors).mean())
    return torch.stack(found)


def clid(usual: Usual, timesteps: Sequence[int] = (400, 450, 500), draws: int = 3) -> Tensor:
    found = []
    for images, captions, (number,) in usual.batches(1):
        z0, words = usual.encode(images), captions[0].split()
        cut = [" ".join(words[: int(share * len(words) + 0.5)]) for share in (1 / 3, 2 / 3)]
        losses = []
        for prompt in (captions[0], *cut, ""):
            states, errors = usual.text([prompt]), []
            for draw in range(draws):
                noise = usual.noise(number, draw).expand(len(timesteps), -1, -1, -1)
                noisy = usual.noised(z0.expand_as(noise), noise, timesteps)
                predicted = usual.unet(noisy, torch.tensor(timesteps), states.expand(len(timesteps), -1, -1))
                errors.append(((predicted - noise) ** 2).mean())
            losses.append(torch.stack(errors).mean())
        found.append(losses[-1] - losses[0])
    return torch.stack(found)


def secmi(usual: Usual, timestep: int = 100, step: int = 10) -> Tensor:
    found = []
    for images, captions, _ in usual.batches(1):
        z, states = usual.encode(images), usual.text(captions)
        for t in range(0, timestep, step):
            z = usual.move(z, usual.unet(z, t, states), t, t + step)
        up = usual.move(z, usual.unet(z, timestep, states), timestep, timestep + step)
        back = usual.move(up, usual.unet(up, timestep + step, states), timestep + step, timestep)
        found.append(-((back - z) ** 2).sum())
    return torch.stack(found)


def pia(usual: Usual, timestep: int = 500, normalised: bool = False) -> Tensor:
    found = []
    for images, captions, _ in usual.batches(BATCH):
        z0, states = usual.encode(images), usual.text(captions)
        noise = usual.unet(z0, 0, states)
        if normalised:
            noise = noise / noise.abs().mean(dim=(1, 2, 3), keepdim=True) * math.sqrt(2 / math.pi)
        predicted = usual.unet(usual.noised(z0, noise, timestep), timestep, states)
        found.append(-(((noise - predicted).abs() ** 4).flatten(1).sum(1) ** 0.25))
    return torch.cat(found)


def pian(usual: Usual) -> Tensor:
    return pia(usual, normalised=True)


def sima(usual: Usual, timesteps: Sequence[int] = (10, 50, 100, 300)) -> Tensor:
    found = []
    for images, captions, _ in usual.batches(BATCH):
        z0, states = usual.encode(images), usual.text(captions)
        norms = {t: (usual.unet(z0, t, states).abs() ** 4).flatten(1).sum(1) ** 0.25 for t in timesteps}
        found.append(-norms[100])
    return torch.cat(found)


def pfami(usual: Usual) -> Tensor:
    found = []
    for images, captions, numbers in usual.batches(BATCH):
        states, noise = usual.text(captions), usual.noises(numbers, 0)

        def losses(pictures: Tensor, states: Tensor = states, noise: Tensor = noise) -> list[Tensor]:
            z0 = usual.encode(pictures)
            predicted = [(t, usual.unet(usual.noised(z0, noise, t), t, states)) for t in range(0, 500, 50)]
            return [((noise - one) ** 2).mean(dim=(1, 2, 3)) for _, one in predicted]

        own = losses(images)
        varied = []
        for j in range(10):
            share = round(0.95 - 0.25 * j / 9, 4)
            side = round(SIDE_PX * share)
            start = (SIDE_PX - side) // 2
            crop = images[..., start : start + side, start : start + side]
            again = losses(interpolate(crop, size=(SIDE_PX, SIDE_PX), mode="bicubic", align_corners=False).clamp(-1, 1))
            varied += [(one - other) / one for one, other in zip(own, again, strict=True)]
        found.append(-torch.stack(varied).mean(0))
    return torch.cat(found)


def denoising(usual: Usual, preset: str = "partial", together: bool = False) -> Tensor:
    spec = PRESETS[preset]
    found = []
    for images, captions, (number,) in usual.batches(1):
        z0, both = usual.encode(images), usual.text(["", *captions])
        groups = [list(range(DRAWS))] if together else [[draw] for draw in range(DRAWS)]
        errors = []
        for draws in groups:
            noise = torch.cat([usual.noise(number, draw) for draw in draws])
            start = z0.expand_as(noise)
            z = usual.noised(start, noise, spec.start)
            for t in spec.timesteps:
                if spec.renoised:
                    z = usual.noised(start, noise, t)
                if spec.guidance == 1.0:
                    predicted = usual.unet(z, t, both[1:].expand(len(draws), -1, -1))
                else:
                    pair = usual.unet(torch.cat([z, z]), t, both.repeat_interleave(len(draws), 0))
                    empty, told = pair.chunk(2)
                    predicted = empty + spec.guidance * (told - empty)
                below = t - spec.step
                a_t = usual.pipe.scheduler.alphas_cumprod[t]
                clean = (z - (1 - a_t).sqrt() * predicted) / a_t.sqrt()
                z = clean if below < 0 else usual.move(z, predicted, t, below)
                errors.append(((z - start) ** 2).mean(dim=(1, 2, 3)))
        found.append(-torch.cat(errors).mean())
    return torch.stack(found)


def denoising_renoised(usual: Usual) -> Tensor:
    return denoising(usual, "reversed_noising")


def draws_together(usual: Usual) -> Tensor:
    return denoising(usual, together=True)


SCRIPTS: dict[str, tuple[str, list[Callable[[Usual], Tensor]]]] = {
    "loss": ("loss", [loss]),
    "secmi": ("secmi", [secmi]),
    "pia": ("pia", [pia, pian]),
    "sima": ("sima", [sima]),
    "pfami": ("pfami", [pfami]),
    "clid": ("clid", [clid]),
    "denoising": ("denoising", [denoising, denoising_renoised]),
}
"""Scripts that make up what raymia scores in one attack."""
SIGNALS: dict[Callable[[Usual], Tensor], str] = {
    loss: "loss",
    secmi: "secmi",
    pia: "pia",
    pian: "pia.normalised",
    sima: "sima",
    pfami: "pfami",
    clid: "clid",
    denoising: "denoising.partial.latent",
    denoising_renoised: "denoising.reversed_noising.latent",
    draws_together: "denoising.partial.latent",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="raymia's UNet compiled; its compilation is not timed")
    parser.add_argument("--dtype", default="float32", help="of raymia's UNet; the scripts compute in float32")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_grad_enabled(False)
    pixels, captions, keys, _ = load_samples(options.samples)
    replica = load_replica(str(PIPELINE), LoadOptions(options.dtype, resolution_px=SIDE_PX, compiled=options.compile))
    usual = usual_of(replica, pixels, captions, keys)
    grey = {name: kind() for name, kind in ATTACKS.all().items() if kind.access == Access.GREY}

    def ours(names: Sequence[str]) -> dict[str, np.ndarray]:
        scorer = Scorer(replica, {name: grey[name] for name in names}, seed=0)
        return score_all(scorer, pixels, captions, keys)

    differences = verify(usual, ours(list(grey)), exact=options.dtype == "float32")
    results = {}
    for name, (attack, parts) in {**SCRIPTS, TOGETHER: ("denoising", [draws_together, denoising_renoised])}.items():
        results[name] = compare(options.rounds, [partial(part, usual) for part in parts], partial(ours, [attack]))
    usual_s = sum(statistics.median(results[name][0]) for name in SCRIPTS)
    together_s = usual_s - sum(sign * statistics.median(results[name][0]) for name, sign in (("denoising", 1), (TOGETHER, -1)))
    whole_s = statistics.median([timed(lambda: ours(list(grey))) for _ in range(options.rounds)])
    report(options, differences, results, {"usual": usual_s, "together": together_s, "ours": whole_s})


def usual_of(replica: Replica, pixels: np.ndarray, captions: list[str], keys: list[str]) -> Usual:
    pipe = StableDiffusionPipeline.from_pretrained(
        PIPELINE, torch_dtype=torch.float32, use_safetensors=True, safety_checker=None
    )
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    images = images_on(torch.device("cpu"), pixels)
    # The same noise as raymia draws, made beforehand, so that both have the same scores and neither is timed making it.
    trial = Trial(replica, images, captions, keys, seed=0)
    noise = [trial.noise(draw) for draw in range(DRAWS)]
    return Usual(pipe, images, captions, lambda number, draw: noise[draw][number : number + 1])


def verify(usual: Usual, ours: dict[str, np.ndarray], exact: bool) -> dict[str, float]:
    """The largest difference of each score between the two ways, in its standard deviations; where raymia computes in another
    dtype, the ranks alone must agree.
    """
    found = {}
    for script, signal in SIGNALS.items():
        expected = script(usual).numpy()
        difference = np.abs(expected - ours[signal]).max() / ours[signal].std()
        found[script.__name__] = float(difference)
        rank = spearmanr(expected, ours[signal]).statistic
        if rank < LEAST_RANK or (exact and difference > TOLERANCE):
            raise SystemExit(
                f"{script.__name__}: the two ways differ by {difference:.2g} standard deviations, rank correlation {rank:.4f}"
            )
    return found


def compare(rounds: int, usual: list[Callable[[], object]], ours: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Seconds of both ways, which take turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        seconds[0].append(sum(timed(script) for script in usual))
        seconds[1].append(timed(ours))
    return seconds


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def report(
    options: argparse.Namespace,
    differences: dict[str, float],
    results: dict[str, tuple[list[float], list[float]]],
    whole: dict[str, float],
) -> None:
    n = options.samples
    rows = {
        name: {
            "usual_images_s": n / statistics.median(seconds[0]),
            "raymia_images_s": n / statistics.median(seconds[1]),
            "ratio": statistics.median(seconds[0]) / statistics.median(seconds[1]),
        }
        for name, seconds in results.items()
    }
    rows["all grey attacks"] = {
        "usual_images_s": n / whole["usual"],
        "raymia_images_s": n / whole["ours"],
        "ratio": whole["usual"] / whole["ours"],
    }
    rows["all, draws together"] = {
        "usual_images_s": n / whole["together"],
        "raymia_images_s": n / whole["ours"],
        "ratio": whole["together"] / whole["ours"],
    }
    if options.json:
        print(json.dumps({"options": vars(options), "largest_difference_in_deviations": differences, "rows": rows}, indent=2))
        return
    print(
        f"{n} images, {torch.get_num_threads()} threads, {options.rounds} rounds; {options.dtype}, compiled: {options.compile}"
    )
    print(f"largest difference of a score: {max(differences.values()):.1e} standard deviations")
    print(f"{'':28}{'usual':>10}{'raymia':>10}  images/s")
    for name, row in rows.items():
        print(f"{name:28}{row['usual_images_s']:10.2f}{row['raymia_images_s']:10.2f}  {row['ratio']:.2f} times")


if __name__ == "__main__":
    main()
