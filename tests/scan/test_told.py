"""What a model can be told, and what a person is told of it before a scan."""

from __future__ import annotations

from pathlib import Path

import pytest

from raymia.config import parse_job
from raymia.errors import ConfigError
from raymia.replica.folder import find_pipeline
from raymia.scan.told import caveats, distilled, require_told
from tests.replica.damaged import change, copied
from tests.replica.families.flux import save


def job(
    folder: Path, attacks: dict[str, object] | None = None, pool: dict[str, object] | None = None, **replica: object
) -> object:
    section = {"model": str(folder), "resolution_px": 64, **replica}
    content = {"manifest": "-", "replica": section, "attacks": attacks or {"loss": {}}, "pool": pool or {}, "run": "-"}
    return parse_job(content, "job.yaml")


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("flux") / "p")


@pytest.mark.parametrize(
    ("attacks", "replica", "message"),
    [
        ({"denoising": {}}, {}, r"attacks\.denoising: .* no unconditional prediction .* set guidance: 1"),
        ({"generation:mine": {"metric": "ssim"}}, {}, r"attacks\.generation:mine: .* set guidance: 1"),
        ({"loss": {}}, {"resolution_px": 72}, r"replica\.resolution_px 72 is not a multiple of 16"),
        ({"loss": {}}, {"micro_conditions": "own"}, r"replica\.micro_conditions: .* is told no sizes"),
    ],
)
def test_what_a_model_cannot_be_told_is_refused_by_field_before_it_is_loaded(
    flux: Path, attacks: dict[str, object], replica: dict[str, object], message: str
) -> None:
    pipeline = find_pipeline(str(flux), with_weights=False)
    with pytest.raises(ConfigError, match=message):
        require_told(job(flux, attacks, **replica), pipeline)
    require_told(job(flux, {"loss": {}, "clid": {}, "gradient": {}}, guidance=3.5), pipeline)


@pytest.mark.parametrize(
    ("attacks", "replica", "message"),
    [
        ({"gradient": {}}, {}, r"attacks\.gradient: takes gradients, which needs .* pool\.gpus_per_replica: 1"),
        ({"secmi": {}}, {}, r"attacks\.secmi: computes in float32, which needs the denoiser on one GPU"),
        ({"loss": {}}, {"compile": True}, r"replica\.compile: goes with pool\.gpus_per_replica 1"),
        ({"loss": {}}, {"weights": "int8"}, r"replica\.weights: goes with pool\.gpus_per_replica 1"),
    ],
)
def test_what_needs_the_denoiser_on_one_gpu_is_refused_where_it_is_spread(
    flux: Path, attacks: dict[str, object], replica: dict[str, object], message: str
) -> None:
    pipeline = find_pipeline(str(flux), with_weights=False)
    pool = {"gpus_per_replica": 2}
    with pytest.raises(ConfigError, match=message):
        require_told(job(flux, attacks, pool, **replica), pipeline)
    require_told(job(flux, {"loss": {}, "pia": {}}, pool), pipeline)


@pytest.mark.parametrize("name", ["gradient", "noise_optimisation"])
def test_what_needs_weights_as_they_were_saved_is_refused_where_they_are_rounded(flux: Path, name: str) -> None:
    pipeline = find_pipeline(str(flux), with_weights=False)
    with pytest.raises(ConfigError, match=rf"attacks\.{name}: .* needs weights as they were saved; leave replica\.weights out"):
        require_told(job(flux, {name: {}}, weights="float8"), pipeline)
    require_told(job(flux, {"loss": {}}, weights="float8"), pipeline)


def test_another_size_and_a_distilled_model_are_said(tiny: Path, tmp_path: Path) -> None:
    found = find_pipeline(str(tiny), with_weights=False)
    assert caveats(job(tiny), found) == []
    assert not distilled(job(tiny), found)
    (said,) = caveats(job(tiny, resolution_px=32), found)
    assert "the model was trained at 64 px" in said
    for name, scheduler in (("a-turbo-model", None), ("plain", "LCMScheduler")):
        folder = copied(tiny, tmp_path / name)
        if scheduler:
            change(folder / "model_index.json", scheduler=["diffusers", scheduler])
            change(folder / "scheduler" / "scheduler_config.json", _class_name=scheduler)
        found = find_pipeline(str(folder), with_weights=False)
        (said,) = caveats(job(folder), found)
        assert "distilled to few steps" in said
        assert distilled(job(folder), found)
