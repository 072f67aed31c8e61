"""What is particular to DiT: a caption that is a class, and samples whose caption is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymia.attacks.clid import CLiD
from raymia.attacks.loss import Loss
from raymia.config import parse_job
from raymia.data.tar import Fault
from raymia.errors import ConfigError
from raymia.replica.conditioning import UntellableError
from raymia.replica.folder import find_pipeline
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.scan.scorer import Scorer
from raymia.scan.told import require_told
from tests.replica.families.dit import CASE, save
from tests.replica.test_every_family import loaded

LABELS = {"7": "cock, rooster", "134": "crane", "517": "crane, hoist"}


def change(folder: Path, file: str, **fields: Any) -> Path:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return change(save(tmp_path_factory.mktemp("dit") / "p"), "model_index.json", id2label=LABELS)


@pytest.fixture(scope="module")
def replica(folder: Path) -> LatentDiffusion:
    return loaded(find_pipeline(str(folder), with_weights=True), CASE)


def test_a_caption_is_a_number_or_a_label_and_the_empty_one_stands_for_all(replica: LatentDiffusion) -> None:
    labels = replica.text(["207", " 7 ", "rooster", "cock", "hoist", ""]).labels
    assert labels is not None
    assert labels.tolist() == [207, 7, 7, 7, 517, 1000]


@pytest.mark.parametrize(
    ("caption", "detail"),
    [
        ("a cow", "the caption 'a cow' is no class; expected a label of id2label or a number below 1000"),
        ("1000", "the caption '1000' is no class"),
        ("-1", "the caption '-1' is no class"),
        ("crane", r"the caption 'crane' stands for the classes \[134, 517\]"),
    ],
)
def test_a_caption_that_names_no_class_or_two_is_not_told(replica: LatentDiffusion, caption: str, detail: str) -> None:
    with pytest.raises(UntellableError, match=detail) as caught:
        replica.text([caption])
    assert caught.value.reason == "no_class"


def test_samples_whose_caption_is_no_class_are_quarantined_and_no_others(replica: LatentDiffusion) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    scorer = Scorer(replica, {"loss": Loss(timesteps=(100,), draws=1)}, seed=0)
    first, second, third = scorer.score(pixels, ["207", "a cow", "rooster"], ["a", "b", "c"])
    assert isinstance(second, Fault)
    assert (second.reason, second.detail[:19]) == ("no_class", "the caption 'a cow'")
    assert isinstance(first, dict)
    assert isinstance(third, dict)
    # All of a batch may be at fault, which is no fault of the program.
    outcomes = scorer.score(pixels[:2], ["a cow", "a boat"], ["a", "b"])
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, Fault)] == ["no_class"] * 2


def test_attacks_that_cut_captions_are_refused_and_those_that_leave_them_out_run(folder: Path) -> None:
    found = find_pipeline(str(folder), with_weights=True)
    content = {"manifest": "m", "replica": {"model": str(folder), "resolution_px": 64}, "attacks": {"clid": {}}, "run": "r"}
    with pytest.raises(ConfigError, match=r"attacks.clid: the model is told a class, .*; set words: \[\]"):
        require_told(parse_job(content, "job.yaml"), found)
    require_told(parse_job({**content, "attacks": {"clid": {"words": []}}}, "job.yaml"), found)
    assert not CLiD(words=()).tells() & found.family.lacks(found.path).keys()


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("transformer/config.json", {"num_embeds_ada_norm": 10}, "num_embeds_ada_norm is 10; another unconditional class"),
        (
            "model_index.json",
            {"id2label": {"1000": "all"}},
            "id2label has '1000': 'all'; expected labels by numbers below 1000",
        ),
        ("model_index.json", {"id2label": ["tench"]}, "id2label has"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor is 0.1"),
    ],
)
def test_what_the_family_does_not_do_is_refused_by_field(
    tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        find_pipeline(str(change(save(tmp_path / "p"), file, **fields)), with_weights=True)


def test_the_transformer_as_it_was_published_is_taken(tmp_path: Path) -> None:
    former = {"double_self_attention": False, "only_cross_attention": False, "use_linear_projection": False}
    folder = change(save(tmp_path / "p"), "transformer/config.json", _class_name="Transformer2DModel", **former)
    change(folder, "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    assert find_pipeline(str(folder), with_weights=True).family.name == "dit"
