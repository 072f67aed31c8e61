"""What is particular to FLUX.2 klein: statistics in the autoencoder's weights, stacked states, and what distilling takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raymia.config import parse_job
from raymia.errors import ConfigError
from raymia.replica.folder import find_pipeline
from raymia.scan.told import require_told
from tests.replica.families.flux2_klein import CASE, STATES, save
from tests.replica.test_every_family import loaded

TWENTY = {"num_hidden_layers": 20, "layer_types": ["full_attention"] * 20}
"""Of a language model that has fewer layers than the transformer sees states of."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("klein") / "p")


def change(folder: Path, file: str, **fields: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


def with_statistics(folder: Path, **tensors: torch.Tensor) -> Path:
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), **{f"bn.{name}": tensor for name, tensor in tensors.items()}}, file, {"format": "pt"})
    return folder


def test_a_width_that_is_not_the_height_is_taken(folder: Path) -> None:
    replica = loaded(find_pipeline(str(folder), with_weights=True), CASE)
    images = torch.rand(1, 3, 64, 96) * 2 - 1
    z = replica.encode(images)
    assert tuple(z.shape) == (1, 16, 4, 6)
    assert replica.predicted_noise(z, 300, replica.text(["a picture"])).shape == z.shape
    assert replica.decode(z).shape == images.shape


def test_the_statistics_of_latents_are_part_of_the_model_and_of_its_fingerprint(folder: Path, tmp_path: Path) -> None:
    other = with_statistics(save(tmp_path / "p"), running_mean=torch.full((16,), 3.0))
    one, changed = (find_pipeline(str(place), with_weights=True) for place in (folder, other))
    assert one.fingerprint() != changed.fingerprint()
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    assert not torch.allclose(loaded(one, CASE).encode(images), loaded(changed, CASE).encode(images))


def test_statistics_that_are_no_variance_are_refused(tmp_path: Path) -> None:
    broken = with_statistics(save(tmp_path / "p"), running_var=torch.full((16,), -1.0))
    with pytest.raises(ConfigError, match="vae: its latents or images are not finite"):
        loaded(find_pipeline(str(broken), with_weights=True), CASE)


def test_a_distilled_model_has_nothing_to_guide_from_and_a_base_has(folder: Path, tmp_path: Path) -> None:
    attacks = {"denoising": {}}
    base, distilled = folder, save(tmp_path / "p", is_distilled=True)
    jobs = [
        parse_job(
            {"manifest": "m", "replica": {"model": str(place), "resolution_px": 64}, "attacks": attacks, "run": "r"}, "job.yaml"
        )
        for place in (base, distilled)
    ]
    require_told(jobs[0], find_pipeline(str(base), with_weights=True))
    with pytest.raises(ConfigError, match=r"distilled to few steps without guidance.* set guidance: 1"):
        require_told(jobs[1], find_pipeline(str(distilled), with_weights=True))
    loaded(find_pipeline(str(distilled), with_weights=True), CASE)  # its self-test asks the pipeline without guidance


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("transformer/config.json", {"guidance_embeds": True}, "guidance_embeds is True; a guidance scale that the pipeline"),
        (
            "transformer/config.json",
            {"joint_attention_dim": STATES},
            f"joint_attention_dim {STATES}, but the text's",
        ),
        ("transformer/config.json", {"in_channels": 32}, "in_channels is 32; another number of channels"),
        (
            "text_encoder/config.json",
            TWENTY,
            "num_hidden_layers 20; expected more than 27",
        ),
        ("vae/config.json", {"in_channels": 4}, "in_channels is 4; expected the 3 colours"),
        ("vae/config.json", {"patch_size": [1, 1]}, r"patch_size is \[1, 1\]; another packing is not supported"),
    ],
)
def test_what_the_family_does_not_do_is_refused_by_field(
    tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(change(save(tmp_path / "p"), file, **fields)), with_weights=True)
