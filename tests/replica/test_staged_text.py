"""Texts that are encoded in a process of their own, for replicas that have no text encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raymia.errors import ConfigError, RaymiaError
from raymia.replica.conditioning import Conditioning, UntellableError
from raymia.replica.families import LoadOptions
from raymia.replica.folder import find_pipeline
from raymia.replica.staged_text import StagedText
from raymia.run.storage import Storage
from tests.replica.test_every_family import cases

PROMPTS = ["a small picture", "of no meaning"]
TOLD_WORDS = ["stable_diffusion", "sdxl", "sd3", "flux2_dev", "qwen_image", "z_image", "sana", "pixart"]
"""One of each way to encode."""


@pytest.mark.parametrize("name", TOLD_WORDS)
def test_a_replica_without_text_encoders_is_told_and_tested_as_one_with_them(name: str, tmp_path: Path) -> None:
    case = cases()[name]
    found = find_pipeline(str(case.save(tmp_path / "p")), with_weights=True)
    options = LoadOptions(device="cpu", resolution_px=case.side_px)
    kept = StagedText(Storage(str(tmp_path / "text")))
    encoders = found.load_text(options, kept)
    kept.keep(PROMPTS, encoders.text(PROMPTS))
    staged = found.load(LoadOptions(device="cpu", resolution_px=case.side_px, text="stage", staged=kept))
    whole = found.load(options)
    expected, told = whole.text(PROMPTS).tensors(), staged.text(PROMPTS).tensors()
    assert expected.keys() == told.keys()
    assert all(torch.allclose(expected[field], told[field], atol=1e-5) for field in told)


def test_a_replica_is_refused_whose_texts_diffusers_own_pipeline_encodes_otherwise(tmp_path: Path) -> None:
    case = cases()["sdxl"]
    found = find_pipeline(str(case.save(tmp_path / "p")), with_weights=True)
    kept = StagedText(Storage(str(tmp_path / "text")))
    options = LoadOptions(device="cpu", resolution_px=case.side_px, text="stage", staged=kept)
    with pytest.raises(ConfigError, match="nothing was encoded here; use offload"):
        found.load(options)
    encoders = found.load_text(options, kept)
    for name in Storage(str(tmp_path / "text")).names("", ".safetensors"):
        if not name.startswith("own"):
            told = encoders.text(["another prompt"])
            (tmp_path / "other").mkdir(exist_ok=True)
            StagedText(Storage(str(tmp_path / "other"))).keep(["another prompt"], told)
            other = next(iter((tmp_path / "other").glob("*.safetensors")))
            (tmp_path / "text" / name).write_bytes(other.read_bytes())
    with pytest.raises(ConfigError, match="something else than the replica"):
        found.load(options)


def test_what_is_kept_comes_back_row_by_row_and_damage_is_said_with_the_file(tmp_path: Path) -> None:
    kept, device = StagedText(Storage(str(tmp_path))), torch.device("cpu")
    told = Conditioning(states=torch.randn(2, 3, 4).to(torch.bfloat16), mask=torch.ones(2, 3, dtype=torch.long))
    assert kept.lacking(["a", "b", "a"]) == ["a", "b"]
    kept.keep(["a", "b"], told)
    assert kept.lacking(["b", "c"]) == StagedText(Storage(str(tmp_path))).lacking(["b", "c"]) == ["c"]
    again = kept.told(["b", "a"], device)
    assert torch.equal(again.states[[1, 0]], told.states)
    assert again.states.dtype == torch.bfloat16
    with pytest.raises(UntellableError, match="run the same command again"):
        kept.told(["a", "c"], device)
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(RaymiaError, match="no states of a prompt"):
        kept.told(["a"], device)


def test_what_the_own_pipeline_was_given_comes_back_as_it_hung_together(tmp_path: Path) -> None:
    kept = StagedText(Storage(str(tmp_path)))
    one, other = torch.randn(2, 3), torch.arange(4)
    kept.keep_own([(one, None, [other, one]), other])
    (first, nothing, listed), second = kept.own(torch.device("cpu"))
    assert nothing is None
    assert torch.equal(first, one)
    assert torch.equal(listed[0], other)
    assert torch.equal(listed[1], one)
    assert torch.equal(second, other)
    (tmp_path / "own_pipeline.safetensors").write_bytes(b"\x10" + bytes(20))
    with pytest.raises(RaymiaError, match="damaged"):
        kept.own(torch.device("cpu"))
    with pytest.raises(TypeError, match="expected tensors"):
        kept.keep_own(["words"])
