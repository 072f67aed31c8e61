"""What is particular to PixArt: cleaned captions, sizes that one pipeline tells, a variance, and configs of before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline

from raymia.errors import ConfigError
from raymia.replica.folder import find_pipeline
from raymia.replica.pixart import cleaned_captions
from tests.replica import test_every_family as every
from tests.replica.families.pixart import SIGMA, save, save_sigma
from tests.replica.test_every_family import loaded

CAPTIONS = ["A Cat, <b>bold</b> https://example.com/x", "caf\u00c3\u00a9 &amp; tea", "", "<person> at 127.0.0.1, 12:45"]


def change(folder: Path, file: str, **fields: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


def test_sigma_reads_longer_texts_and_is_told_no_sizes(tmp_path: Path) -> None:
    found = find_pipeline(str(save_sigma(tmp_path / "p")), with_weights=True)
    own = PixArtSigmaPipeline.from_pretrained(found.path, use_safetensors=True, torch_dtype=torch.float32)
    own.scheduler = DDIMScheduler.from_config(own.scheduler.config, clip_sample=False, timestep_spacing="leading")
    own.set_progress_bar_config(disable=True)
    assert loaded(found, SIGMA).text(["a picture"]).mask.shape == (1, 300)
    replica = loaded(found, SIGMA, naming="own")
    every.test_the_denoiser_is_called_with_exactly_what_the_pipeline_passes(SIGMA, replica, own)
    every.test_the_loss_is_that_of_diffusers_training_script_on_the_same_noise(SIGMA, replica, own)


def test_captions_are_cleaned_as_the_pipeline_cleans_them(tmp_path: Path) -> None:
    pipeline = PixArtAlphaPipeline.from_pretrained(save(tmp_path / "p"), torch_dtype=torch.float32)
    assert cleaned_captions(CAPTIONS) == pipeline._text_preprocessing(CAPTIONS, clean_caption=True)
    assert cleaned_captions(CAPTIONS)[0] == "a cat, bold"


def test_a_transformer_as_diffusers_called_it_before_is_taken_and_what_it_asks_for_is_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "p")
    before = find_pipeline(str(folder), with_weights=True)
    former = {"double_self_attention": False, "only_cross_attention": False, "use_linear_projection": False}
    change(folder, "transformer/config.json", _class_name="Transformer2DModel", num_vector_embeds=None, **former)
    change(folder, "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    found = find_pipeline(str(folder), with_weights=True)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs = []
    for pipeline in (before, found):
        replica = loaded(pipeline, SIGMA)
        outputs.append(replica.predicted_noise(z, 300, replica.text([""])))
    assert torch.equal(*outputs)
    change(folder, "transformer/config.json", double_self_attention=True)
    with pytest.raises(ConfigError, match="double_self_attention is True"):
        find_pipeline(str(folder), with_weights=True)


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("transformer/config.json", {"out_channels": 12}, "out_channels is 12; an output of other channels is not supported"),
        ("transformer/config.json", {"caption_channels": 8}, "caption_channels 8, but text_encoder is 32 wide"),
        ("transformer/config.json", {"attention_type": "gated"}, "attention_type is 'gated'; boxes beside the text"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor is 0.1; a shift, which diffusers' pipelines of PixArt ignore"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type"),
    ],
)
def test_what_the_family_does_not_do_is_refused_by_field(
    tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    folder = change(save(tmp_path / "p"), file, **fields)
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(folder), with_weights=True)


def test_a_sigma_whose_transformer_wants_sizes_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "p", PixArtSigmaPipeline)
    with pytest.raises(ConfigError, match="use_additional_conditions is None; a size beside the text is not supported"):
        find_pipeline(str(folder), with_weights=True)


def test_a_learned_variance_is_accepted_where_the_output_has_one_alone(tmp_path: Path) -> None:
    folder = save(tmp_path / "p", out_channels=4)
    with pytest.raises(ConfigError, match="variance_type"):
        find_pipeline(str(folder), with_weights=True)
