"""Stable Diffusion 3 in miniature: what is particular to it beside what holds in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raymia.errors import ConfigError
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline, load_replica
from tests.replica.damaged import change, copied
from tests.replica.families.case import PROMPTS
from tests.replica.families.sd3 import save


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(save(tmp_path_factory.mktemp("sd3") / "p")), with_weights=True)


@pytest.mark.parametrize("options", [{"t5": False}, {"dual": False}, {"shift": 1.0}, {"use_dynamic_shifting": True}])
def test_pipelines_without_t5_of_version_3_and_with_other_shifts_are_diffusers_own(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    # Loading holds predictions against diffusers' pipeline, the zeros in T5's place among them.
    replica = load_replica(str(save(tmp_path / "p", **options)), LoadOptions(device="cpu", resolution_px=64))
    told = replica.text(PROMPTS)
    assert told.states is not None
    assert told.states.shape[1] == 32 + 256
    assert bool(told.states[:, 32:].any()) == options.get("t5", True)


def test_a_level_is_the_same_share_of_noise_as_in_stable_diffusion_1(found: PipelineFolder) -> None:
    schedule = found.schedule()
    # Shares of noise that Stable Diffusion 1 has at those steps: sigma / (alpha + sigma).
    for t, share in {50: 0.184, 100: 0.256, 300: 0.454, 500: 0.618, 900: 0.893}.items():
        assert schedule.sigma(t) == pytest.approx(share, abs=3e-3)
        assert schedule.alpha(t) + schedule.sigma(t) == pytest.approx(1.0)
    assert float(schedule.time(300)) == pytest.approx(schedule.sigma(300))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "StableDiffusion3InpaintPipeline"}, "StableDiffusion3InpaintPipeline is not"),
        ("model_index.json", {"text_encoder_2": [None, None]}, "no text_encoder_2"),
        ("transformer/config.json", {"in_channels": 33}, "in_channels 33, but the autoencoder's 16 give 16"),
        ("transformer/config.json", {"out_channels": 32}, "out_channels 32, but 16 come in"),
        ("transformer/config.json", {"pooled_projection_dim": 24}, "pooled_projection_dim 24, but .* 48 wide together"),
        ("transformer/config.json", {"joint_attention_dim": 64}, "joint_attention_dim 64, but CLIP's states are 80"),
        ("text_encoder_3/config.json", {"d_model": 64}, "d_model 64, but the transformer takes 96"),
        ("text_encoder_3/config.json", {"is_gated_act": False}, "is_gated_act is False"),
        ("transformer/config.json", {"surprise": 1}, "surprise is 1"),
        ("scheduler/scheduler_config.json", {"surprise": 1}, "surprise is 1"),
        ("scheduler/scheduler_config.json", {"shift": -1}, "shift is -1; expected a number above 0"),
    ],
)
def test_what_cannot_be_attacked_is_refused_by_field(
    found: PipelineFolder, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    target = copied(found.path, tmp_path / "p")
    change(target / file, **changes)
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(target), with_weights=False)


def test_a_part_that_the_index_names_must_be_there(found: PipelineFolder, tmp_path: Path) -> None:
    target = copied(found.path, tmp_path / "p")
    for file in (target / "text_encoder_3").iterdir():
        file.unlink()
    with pytest.raises(ConfigError, match="text_encoder_3"):
        find_pipeline(str(target), with_weights=True)


def test_predictions_of_an_image_that_is_higher_than_wide_are_those_of_each_alone(found: PipelineFolder) -> None:
    replica = found.load(LoadOptions(device="cpu", resolution_px=64))
    z = torch.randn(2, 16, 12, 6, generator=torch.Generator().manual_seed(0))
    told = replica.text(PROMPTS)
    together = replica.predicted_noise(z, 300, told)
    alone = torch.cat([replica.predicted_noise(z[i : i + 1], 300, told[i : i + 1]) for i in range(2)])
    assert together.shape == z.shape
    assert torch.allclose(together, alone, atol=1e-5)
