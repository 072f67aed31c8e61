"""OpenAI's interface in front of museq, a real server of it: every image is the one that diffusers' own pipeline makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image

from raymia.attacks.pokemon import Pokemon
from raymia.replica.folder import find_pipeline
from raymia.services.hosted import Asker, pixels_of
from raymia.services.openai import OpenAI
from raymia.services.protocol import Queries, ServiceError, Surroundings
from raymia.testbed import PIPELINE
from raymia.trial.similarity import similarity
from raymia.trial.trial import Trial

PROMPTS = ["a red flag", "a black cat, animal"]


@dataclass(frozen=True)
class Muse:
    url: str
    log: Path

    def requests(self) -> int:
        return sum(json.loads(line)["what"] == "begun" for line in self.log.read_text().splitlines())


@pytest.fixture(scope="module")
def muse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Muse]:
    log = tmp_path_factory.mktemp("muse") / "requests.jsonl"
    command = [sys.executable, "-m", "tests.services.muse", str(PIPELINE), str(log)]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet) as process:
        assert process.stdout is not None
        yield Muse(f"http://127.0.0.1:{int(process.stdout.readline())}/v1", log)
        process.kill()


def asker(muse: Muse, run: Path | None = None, **options: object) -> Asker:
    given = {"url": muse.url, "key_env": None, "model": "testbed", "extensions": "muse", "resolution_px": 64, "timeout_s": 300}
    service = OpenAI.model_validate({"service": "openai", **given, **options})
    opened = service.open(None, Surroundings(None if run is None else str(run)))
    assert isinstance(opened, Asker)
    return opened


def images() -> torch.Tensor:
    waves = torch.linspace(0, 9, 64).sin()
    one = (waves[:, None] * waves.cos()[None, :])[None].repeat(3, 1, 1)
    return torch.round((torch.stack([one, -one]) + 1) * 127.5) / 127.5 - 1


def made_by(pipeline: StableDiffusionPipeline | StableDiffusionImg2ImgPipeline, seed: int, **asked: object) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    image = pipeline(**asked, generator=generator, output_type="pil").images[0]
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(64, 64, 3)
    return pixels.permute(2, 0, 1).float() / 127.5 - 1.0


@pytest.fixture(scope="module")
def diffusers() -> tuple[StableDiffusionPipeline, StableDiffusionImg2ImgPipeline]:
    text = StableDiffusionPipeline.from_pretrained(PIPELINE, safety_checker=None, dtype=torch.float32)
    text.set_progress_bar_config(disable=True)
    image = StableDiffusionImg2ImgPipeline(**text.components, requires_safety_checker=False)
    image.set_progress_bar_config(disable=True)
    return text, image


Pipelines = tuple[StableDiffusionPipeline, StableDiffusionImg2ImgPipeline]


def test_images_of_prompts_are_those_of_diffusers_under_the_same_seed_steps_and_guidance(
    muse: Muse, diffusers: Pipelines, tmp_path: Path
) -> None:
    seeds = (2**40 + 5, 7)
    queries = Queries(["a", "b"], 0, PROMPTS, seeds, 64, 64, 6, 7.5)
    found = asker(muse, tmp_path).answer(queries)
    for image, prompt, seed in zip(found, PROMPTS, seeds, strict=True):
        expected = made_by(
            diffusers[0], seed % 2**31, prompt=prompt, num_inference_steps=6, guidance_scale=7.5, height=64, width=64
        )
        # Another process adds in another order: what is rounded to 8 bits may differ by one.
        assert (image - expected).abs().max() <= 1.01 / 127.5
    requests = muse.requests()
    assert torch.equal(asker(muse, tmp_path).answer(queries), found)
    assert muse.requests() == requests


def test_variations_begin_at_the_noise_level_and_make_the_steps_that_are_asked_for(muse: Muse, diffusers: Pipelines) -> None:
    visited: list[int] = []

    def seen(pipeline: object, step: int, timestep: torch.Tensor, told: dict[str, object]) -> dict[str, object]:
        visited.append(int(timestep))
        return told

    given = images()
    found = asker(muse).answer(Queries(["a", "b"], 0, PROMPTS, (1, 2), 64, 64, 10, 1.0, given, 0.2))
    for place, (image, prompt) in enumerate(zip(found, PROMPTS, strict=True)):
        visited.clear()
        expected = made_by(
            diffusers[1],
            place + 1,
            prompt=prompt,
            image=Image.fromarray(pixels_of(given[place])),
            strength=10.5 / 45,
            num_inference_steps=45,
            guidance_scale=1.0,
            callback_on_step_end=seen,
        )
        assert (len(visited), visited[0]) == (10, 199)
        assert (image - expected).abs().max() <= 1.01 / 127.5


def test_pokemon_is_calibrated_by_the_autoencoder_that_is_known(muse: Muse) -> None:
    given, attack = images(), Pokemon(timesteps=(200,), draws=1, metrics=("ssim",))
    subject = Trial(None, given, PROMPTS, ["a", "b"], 0, black_box=asker(muse, autoencoder="testbed"))
    scores = attack.score(subject)
    autoencoder = find_pipeline(str(PIPELINE), with_weights=True).load_autoencoder()
    baseline = similarity(subject, "ssim", autoencoder.decode(autoencoder.encode(given)))
    assert torch.allclose(scores["pokemon"], scores["pokemon.ssim.raw"] - baseline)
    assert baseline.abs().max() < 1


def test_what_the_server_refuses_is_a_reason_of_its_sample(muse: Muse) -> None:
    subject = asker(muse)
    with pytest.raises(ServiceError, match="refused_by_service: status 422"):
        subject.answer(Queries(["a"], 0, ["a cat"], (1,), 64, 64, 101, 1.0))
    with pytest.raises(ServiceError, match="refused_by_service: status 422"):
        subject.answer(Queries(["a"], 0, [""], (1,), 64, 64, 5, 1.0))
