"""Scores above those of a reference: the base of an adapter, or another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import raymia
from raymia.errors import ConfigError
from raymia.replica.folder import find_pipeline
from raymia.run.ledger import Ledger
from raymia.scan.cost import count
from raymia.scan.plan import make_plan
from raymia.scan.scorer import load_scorer
from tests.conftest import good_members
from tests.replica.damaged import change, copied
from tests.replica.test_adapters import layers, saved
from tests.scan.test_pipeline import make_job, scan

Write = Callable[[str, list[tuple[str, bytes]]], Path]
ATTACKS = {
    "loss": {"timesteps": [100, 300], "draws": 1},
    "secmi": {"timestep": 20},
    "clid": {"timesteps": [400], "draws": 1},
    "pfami": {"timesteps": [100], "crops": [0.8]},
    "random": {},
}
SIGNALS = ["loss", "loss.t=100", "secmi", "clid", "pfami"]


@pytest.fixture(scope="module")
def lora(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = find_pipeline(str(tiny), with_weights=True)
    folder = tmp_path_factory.mktemp("lora")
    tensors = layers(found, "unet") | layers(found, "text_encoder", modules=["q_proj", "k_proj", "v_proj", "out_proj"])
    return saved(tensors, folder / "lora.safetensors")


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in range(5)]


def scores(model: Path, pictures: list[np.ndarray], **more: Any) -> Any:
    captions = [f"picture number {i}" for i in range(len(pictures))]
    options = {"attacks": ATTACKS, "resolution_px": 64, "progress": False, **more}
    return raymia.score(pictures, captions, model=str(model), **options)


def test_a_calibrated_score_is_the_tuned_models_less_the_bases(tiny: Path, lora: Path, pictures: list[np.ndarray]) -> None:
    adapters = [{"path": str(lora)}]
    both = scores(tiny, pictures, adapters=adapters, reference="base")
    tuned, base = scores(tiny, pictures, adapters=adapters), scores(tiny, pictures)
    for name in SIGNALS:
        assert both[name].to_numpy() == pytest.approx(tuned[name].to_numpy(), abs=1e-6)
        assert both[f"calibrated.{name}"].to_numpy() == pytest.approx((tuned[name] - base[name]).to_numpy(), abs=1e-5)
        assert np.abs(both[f"calibrated.{name}"]).min() > 0
    assert "calibrated.random" not in both


def test_another_model_as_reference_gives_what_both_give_apart(
    tiny: Path, lora: Path, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    other = copied(tiny, tmp_path / "other")
    file = other / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, file)
    both = scores(tiny, pictures, adapters=[{"path": str(lora)}], reference={"model": str(other)})
    one, two = scores(tiny, pictures, adapters=[{"path": str(lora)}]), scores(other, pictures)
    for name in SIGNALS:
        assert both[f"calibrated.{name}"].to_numpy() == pytest.approx((one[name] - two[name]).to_numpy(), abs=1e-5)


@pytest.mark.usefixtures("bare_loop")
def test_a_scan_says_and_costs_what_two_would_but_encodes_once(
    tmp_path: Path, write_tar: Write, tiny: Path, lora: Path
) -> None:
    write_tar("m0.tar", good_members(6))
    write_tar("n0.tar", good_members(6, start=100))
    replica = {"model": str(tiny), "dtype": "float32", "resolution_px": 64, "adapters": [{"path": str(lora), "weight": 0.5}]}
    job = make_job(tmp_path, tiny, "run", attacks=ATTACKS, replica=replica, reference="base")
    _, rows = scan(job)
    record = Ledger(job.run).require_scan()
    named = {signal.name: signal for signal in record.signals}
    assert [name for name in rows if name.startswith("calibrated.")] == [n for n in named if n.startswith("calibrated.")]
    raw, above = named["loss.t=100"], named["calibrated.loss.t=100"]
    assert (above.attack, above.access, above.primary) == ("calibrated.loss", raw.access, raw.primary)
    assert above.cost.forwards == 2 * raw.cost.forwards
    assert above.cost.encodes == raw.cost.encodes
    alone = count(job.attacks.values(), make_plan(job).schedule)
    assert record.evaluations.forwards == 12 * 2 * alone.forwards
    assert record.evaluations.encodes == 12 * alone.encodes
    metrics = raymia.evaluate(job.run).metrics
    assert {"loss", "calibrated.loss"} <= metrics.signals.keys()
    changed = make_job(tmp_path, tiny, "run", attacks=ATTACKS, replica=replica)
    with pytest.raises(ConfigError, match="reference"):
        scan(changed)


def test_text_and_noise_that_are_the_same_for_both_are_made_once(
    tiny: Path, tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    unet_alone = saved(layers(find_pipeline(str(tiny), with_weights=True), "unet"), tmp_path / "unet.safetensors")
    replica = {"model": str(tiny), "dtype": "float32", "resolution_px": 64, "adapters": [{"path": str(unet_alone)}]}
    job = make_job(tmp_path, tiny, "run", attacks={"loss": {}}, replica=replica, reference="base")
    scorer = load_scorer(job, "float32", "cpu")
    asked: list[int] = []
    encode = scorer.replica._encode_prompts
    scorer.replica._encode_prompts = lambda prompts: asked.append(len(prompts)) or encode(prompts)
    scorer.score(np.stack(pictures), ["a"] * 5, [str(i) for i in range(5)])
    assert asked == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "base"}, r"replica\.adapters are none; give reference: \{model"),
        ({"reference": {"model": "testbed-flow"}}, "of the family sd3; expected stable_diffusion"),
        ({"reference": {"model": "OTHER"}}, "another noise schedule or prediction type"),
    ],
)
def test_a_reference_that_is_none_is_refused_before_the_scan(
    tmp_path: Path, write_tar: Write, tiny: Path, changes: dict[str, Any], message: str
) -> None:
    write_tar("m0.tar", good_members(1))
    write_tar("n0.tar", good_members(1, start=5))
    other = copied(tiny, tmp_path / "other")
    change(other / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    if changes["reference"] == {"model": "OTHER"}:
        changes = {"reference": {"model": str(other)}}
    with pytest.raises(ConfigError, match=message):
        make_plan(make_job(tmp_path, tiny, "run", attacks={"loss": {}}, **changes))
