"""DDPM and unconditional latent diffusion: models that are told nothing of an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raymia.attacks.pokemon import Pokemon
from raymia.config import parse_job
from raymia.errors import ConfigError
from raymia.replica.families import LoadOptions
from raymia.replica.folder import find_pipeline
from raymia.scan.told import caveats, require_told
from raymia.trial.trial import Trial
from tests.attacks.replicas import random_images
from tests.replica.families import ddpm, ldm
from tests.services.test_black_box import SquaredDistance

SHIFTED = {"start": 100, "step": 10, "timesteps": [50], "guidance": 1, "text_shift": 0.1}
"""A preset that shifts the states of the text."""


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ddpm.save(tmp_path_factory.mktemp("ddpm") / "p")


def changed(folder: Path, file: str, **fields: Any) -> Path:
    path = folder / file
    content = json.loads(path.read_text())
    for name, value in fields.items():
        content[name] = value
        if value is None:
            del content[name]
    path.write_text(json.dumps(content))
    return folder


def job_of(folder: Path, side: int = 32, **attacks: Any) -> Any:
    replica = {"model": str(folder), "resolution_px": side}
    content = {"manifest": "m.yaml", "replica": replica, "attacks": attacks, "clip": "testbed", "run": "r"}
    return parse_job(content, "job.yaml")


@pytest.mark.parametrize(
    ("attack", "fields", "message"),
    [
        ("clid", {}, "attacks.clid: the model was trained without captions"),
        ("clid", {"words": []}, "attacks.clid: the model was trained without captions"),
        ("generation", {"guidance": 1}, "attacks.generation: the model was trained without captions"),
        ("pokemon", {"guidance": 3, "metrics": ["ssim"]}, "attacks.pokemon: .* or set guidance: 1 where it guides by captions"),
        ("denoising", {"presets": {"mine": SHIFTED}}, "attacks.denoising: .* leave text_shift out"),
        ("autoencoder", {}, "attacks.autoencoder: the model has no autoencoder"),
    ],
)
def test_attacks_that_tell_a_model_of_an_image_are_refused_by_name(
    pixels: Path, attack: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        require_told(job_of(pixels, **{attack: fields}), find_pipeline(str(pixels), with_weights=True))


def test_the_autoencoder_of_a_latent_model_is_a_control_as_anywhere(tmp_path: Path) -> None:
    folder = ldm.save(tmp_path / "p")
    require_told(job_of(folder, 64, autoencoder={}, loss={}), find_pipeline(str(folder), with_weights=True))


def test_captions_change_no_score(pixels: Path) -> None:
    replica = find_pipeline(str(pixels), with_weights=True).load(LoadOptions(device="cpu", resolution_px=32))
    images = random_images(2, 32)
    scores = [
        Pokemon(timesteps=(200,), steps=2, draws=1, metrics=("lpips",)).score(
            Trial(replica, images, captions, ["a", "b"], seed=0, lpips=SquaredDistance())
        )["pokemon"]
        for captions in (["a cow", "a boat"], ["", "of no meaning"])
    ]
    assert torch.equal(*scores)


def test_the_size_is_a_multiple_of_what_the_unet_halves(pixels: Path) -> None:
    pipeline = find_pipeline(str(pixels), with_weights=True)
    with pytest.raises(ConfigError, match=r"replica.resolution_px 34 is not a multiple of 4, as the UNet in"):
        require_told(job_of(pixels, 34, loss={}), pipeline)
    assert "trained at 32 px" in caveats(job_of(pixels, 64, loss={}), pipeline)[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"out_channels": 6}, "out_channels is 6; expected the 3 colours of an image; a UNet that puts out a variance"),
        ({"in_channels": 1}, "in_channels is 1; expected the 3 colours of an image"),
        ({"num_class_embeds": 10}, "num_class_embeds is 10; a class of each image is not supported"),
        ({"sample_size": None}, "sample_size is None; expected the side"),
    ],
)
def test_models_that_are_told_more_or_put_out_more_are_refused_by_field(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(ddpm.save(tmp_path / "p", **fields)), with_weights=True)


def test_a_latent_model_must_say_how_its_latents_are_scaled(tmp_path: Path) -> None:
    folder = changed(ldm.save(tmp_path / "p"), "vqvae/config.json", scaling_factor=None)
    with pytest.raises(ConfigError, match=r"says no scaling_factor, and diffusers assumes 0.18215.* add scaling_factor: 1.0"):
        find_pipeline(str(folder), with_weights=True)


def test_a_model_without_an_autoencoder_keeps_no_latents(pixels: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="latent_cache: models of the family ddpm have no autoencoder; leave it out"):
        find_pipeline(str(pixels), with_weights=True).autoencoder_digest()
    latent = find_pipeline(str(ldm.save(tmp_path / "p")), with_weights=True)
    assert len(latent.autoencoder_digest()) == 64
