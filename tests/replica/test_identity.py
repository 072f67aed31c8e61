"""What identifies a model: every file that a score depends on, and nothing that none does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from raymia.cli import app
from raymia.config import ReferenceConfig, parse_job
from raymia.errors import ConfigError
from raymia.replica.folder import find_pipeline
from raymia.run.ledger import Ledger
from raymia.scan.plan import make_plan, require_same
from raymia.testbed import CLIP
from tests.conftest import good_members, tar_bytes
from tests.hub import COMMIT, Hub
from tests.replica.damaged import UNET, change, copied, rewrite, without
from tests.replica.families.sdxl import euler, save_sdxl
from tests.replica.test_tensors import shard
from tests.run.records import scan_record


def fingerprint(folder: Path) -> str:
    return find_pipeline(str(folder), with_weights=True).fingerprint()


def swapped(file: Path) -> None:
    """Another tokenizer of the same size: two merges change places."""
    content = file.read_text()
    first, second = '["i","n"]', '["a","n"]'
    assert first in content
    assert second in content
    file.write_text(content.replace(first, "\0").replace(second, first).replace("\0", second))


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/tokenizer.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ],
)
def test_each_file_that_is_loaded_identifies_the_model(tiny: Path, tmp_path: Path, name: str) -> None:
    folder = copied(tiny, tmp_path / "p")
    file = folder / name
    if file.suffix == ".json":
        file.write_text(file.read_text() + "\n")
    else:
        tensors = {tensor: value + 1e-3 for tensor, value in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    assert fingerprint(folder) != fingerprint(tiny)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model"])
def test_a_file_of_a_tokenizer_identifies_the_model_whatever_its_kind(tiny: Path, tmp_path: Path, name: str) -> None:
    folder = copied(tiny, tmp_path / "p")
    (folder / "tokenizer" / name).write_text("{}")
    first = fingerprint(folder)
    (folder / "tokenizer" / name).write_text("{} ")
    assert len({first, fingerprint(folder), fingerprint(tiny)}) == 3


def test_what_no_score_depends_on_does_not(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path / "p")
    (folder / "README.md").write_text("a model")
    (folder / "tokenizer" / ".DS_Store").write_text("a mark of the Finder")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    assert fingerprint(folder) == fingerprint(tiny)
    assert fingerprint(Path(shutil.move(folder, tmp_path / "elsewhere"))) == fingerprint(tiny)


def test_the_same_files_in_other_places_are_another_model(tmp_path: Path) -> None:
    folder = save_sdxl(tmp_path / "p", euler())
    change(folder / "tokenizer_2" / "tokenizer_config.json", padding_side="left")
    before = fingerprint(folder)
    (folder / "tokenizer").rename(folder / "kept")
    (folder / "tokenizer_2").rename(folder / "tokenizer")
    (folder / "kept").rename(folder / "tokenizer_2")
    assert fingerprint(folder) != before


def test_shards_and_their_index_identify_the_model(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path / "p")
    index = shard(folder)
    before = fingerprint(folder)
    part = next((folder / "unet").glob("*-00002-of-*"))
    tensors = load_file(part)
    name = min(tensors)
    save_file({**tensors, name: torch.zeros_like(tensors[name])}, part)
    assert fingerprint(folder) != before
    before = fingerprint(folder)
    index.write_text(index.read_text() + " ")
    assert fingerprint(folder) != before
    assert not (folder / UNET).exists()


def job_of(model: str, tmp_path: Path) -> dict[str, Any]:
    """A job that scans two samples."""
    (tmp_path / "m.tar").write_bytes(tar_bytes(good_members(2)))
    splits = [{"name": "members", "member": True, "shards": ["m.tar"]}]
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump({"name": "set", "splits": splits}))
    return {
        "manifest": str(tmp_path / "manifest.yaml"),
        "replica": {"model": model, "dtype": "float32", "resolution_px": 64},
        "attacks": {"loss": {}},
        "run": str(tmp_path / "run"),
    }


def test_a_run_is_not_resumed_with_another_tokenizer(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path / "p")
    job = parse_job(job_of(str(folder), tmp_path), "job")
    plan = make_plan(job)
    ledger = Ledger(job.run)
    ledger.require_writable()
    ledger.write_run(scan_record(**{**plan.identity, "signals": plan.signals}))
    assert require_same(ledger, make_plan(job)) is not None
    swapped(folder / "tokenizer" / "tokenizer.json")
    with pytest.raises(ConfigError, match=r"made by another job; restore these fields .*model\.fingerprint"):
        require_same(ledger, make_plan(job))


@pytest.mark.parametrize("which", ["reference", "clip", "lpips"])
def test_a_run_is_resumed_with_the_models_beside_the_attacked_one_as_they_were_alone(
    tiny: Path, tmp_path: Path, which: str
) -> None:
    other = copied(tiny, tmp_path / "other")
    clip = Path(shutil.copytree(CLIP, tmp_path / "clip"))
    trunk = tmp_path / "trunk.safetensors"
    save_file({"features.0.weight": torch.ones(1)}, trunk)
    metrics = {"attacks": {"pokemon": {"metrics": ["clip", "lpips"]}}, "lpips": {"trunk": str(trunk)}, "clip": str(clip)}
    job = parse_job({**job_of(str(tiny), tmp_path), **metrics, "reference": {"model": str(other)}}, "job")
    plan = make_plan(job)
    ledger = Ledger(job.run)
    ledger.require_writable()
    ledger.write_run(scan_record(**{**plan.identity, "signals": plan.signals}))
    assert require_same(ledger, make_plan(job)) is not None
    if which == "lpips":
        save_file({"features.0.weight": torch.zeros(1)}, trunk)
    else:
        file = clip / "open_clip_model.safetensors" if which == "clip" else other / UNET
        save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ConfigError, match=rf"made by another job; restore these fields .*model\.{which}: [^;]*$"):
        require_same(ledger, make_plan(job))


def test_the_dry_run_of_a_job_names_the_tensor(tiny: Path, tmp_path: Path) -> None:
    folder = copied(tiny, tmp_path / "p")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job_of(str(folder), tmp_path)))
    run = ["scan", str(tmp_path / "job.yaml"), "--dry-run"]
    assert CliRunner().invoke(app, run).exit_code == 0
    rewrite(folder / UNET, without("conv_out.bias"))
    refused = CliRunner().invoke(app, run)
    assert isinstance(refused.exception, ConfigError)
    assert "the weights lack the tensor conv_out.bias" in str(refused.exception)


def test_replicas_load_the_revision_that_was_checked(hub: type[Hub], tiny: Path, tmp_path: Path) -> None:
    hub.folder = tiny
    plan = make_plan(parse_job(job_of("me/model", tmp_path), "job"))
    assert plan.pinned.model.revision == plan.identity["model"]["fingerprint"] == COMMIT
    assert plan.identity["job"]["replica"]["revision"] is None, "another commit is told by the fingerprint alone"
    beside = {"clip": "testbed", "attacks": {"pokemon": {"metrics": ["clip"]}}, "reference": {"model": "me/model"}}
    both = make_plan(parse_job({**job_of(str(tiny), tmp_path), **beside}, "job")).pinned
    assert isinstance(both.reference, ReferenceConfig)
    assert (both.reference.revision, both.clip) == (COMMIT, "testbed")
    local = make_plan(parse_job(job_of(str(tiny), tmp_path), "job"))
    assert local.pinned is local.job
