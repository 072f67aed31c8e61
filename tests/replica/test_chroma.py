"""Chroma in miniature: what is particular to it beside what holds in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raymia.errors import ConfigError
from raymia.replica.families import LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline
from tests.replica.damaged import change, copied
from tests.replica.families.chroma import save


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(save(tmp_path_factory.mktemp("chroma") / "p")), with_weights=True)


def test_of_a_padded_text_the_words_and_one_more_token_count_and_what_stands_behind_changes_nothing(
    found: PipelineFolder,
) -> None:
    replica = found.load(LoadOptions(device="cpu", resolution_px=64))
    told = replica.text(["", "a boat"])
    assert told.mask is not None
    # Seven letters and spaces, the end of the text, and one of padding.
    assert told.mask.sum(1).tolist() == [2, 9]


def test_a_guidance_scale_is_refused_and_an_unconditional_prediction_is_there(found: PipelineFolder) -> None:
    with pytest.raises(ConfigError, match=r"replica\.guidance: .* leave it out"):
        found.family.check_options(found.path, LoadOptions(guidance=2.0))
    assert not found.family.lacks(found.path)


def test_a_wide_image_is_the_same_alone_and_beside_others(found: PipelineFolder) -> None:
    replica = found.load(LoadOptions(device="cpu", resolution_px=64))
    z = torch.randn(2, 16, 6, 12, generator=torch.Generator().manual_seed(0))
    told = replica.text(["a boat", ""])
    together = replica.predicted_noise(z, 300, told)
    alone = torch.cat([replica.predicted_noise(z[i : i + 1], 300, told[i : i + 1]) for i in range(2)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"_class_name": "ChromaInpaintPipeline"}, "ChromaInpaintPipeline is not supported"),
        ("transformer/config.json", {"in_channels": 128}, "in_channels 128, but the autoencoder's 16 give 64"),
        ("transformer/config.json", {"patch_size": 2}, "patch_size is 2; another packing"),
        ("transformer/config.json", {"joint_attention_dim": 64}, "joint_attention_dim 64, but text_encoder is 48 wide"),
    ],
)
def test_what_cannot_be_attacked_is_refused_by_field(
    found: PipelineFolder, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    target = copied(found.path, tmp_path / "p")
    change(target / file, **changes)
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(target), with_weights=False)
