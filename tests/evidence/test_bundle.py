"""A sealed folder: a changed byte anywhere is named, and scores are what the model gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raymia.cli import app
from raymia.errors import ConfigError
from raymia.evidence.bundle import broken, read_bundle, seal
from raymia.evidence.rescoring import compare, score_again


@pytest.fixture
def copied(audited: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(audited, tmp_path / "audit"))


def test_a_changed_byte_in_any_file_is_named(copied: Path) -> None:
    bundle = read_bundle(copied)
    assert broken(copied, bundle) == []
    assert {"registration.json", "evidence.json", "report/index.html", "run/run.json", "job.yaml"} <= set(bundle.files)
    assert any(name.startswith("run/scores/works/") for name in bundle.files)
    assert any(name.startswith("data/shards/") for name in bundle.files)
    for name in bundle.files:
        content = (copied / name).read_bytes()
        place = len(content) // 2
        (copied / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] if content else b"x")
        assert broken(copied, bundle) == [f"{name}: was changed"]
        (copied / name).write_bytes(content)


def test_a_file_that_is_gone_added_or_a_link_is_named(copied: Path) -> None:
    bundle = read_bundle(copied)
    (copied / "evidence.json").rename(copied / "else.json")
    (copied / "job.yaml").rename(copied.parent / "job.yaml")
    (copied / "job.yaml").symlink_to(copied.parent / "job.yaml")
    assert broken(copied, bundle) == ["else.json: was added", "evidence.json: is gone", "job.yaml: is a link"]


def test_a_bundle_whose_own_bytes_were_changed_is_none(copied: Path) -> None:
    content = (copied / "bundle.json").read_bytes()
    for place in range(0, len(content), 97):
        (copied / "bundle.json").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ConfigError, match=r"bundle\.json: was changed"):
            read_bundle(copied)
    (copied / "bundle.json").unlink()
    with pytest.raises(ConfigError, match="give the folder of a finished"):
        read_bundle(copied)


def test_scores_are_computed_again_and_those_of_another_question_are_found(copied: Path) -> None:
    agreement = score_again(copied)
    assert agreement.holds
    assert agreement.largest < 1e-3
    job = (copied / "job.yaml").read_text()
    (copied / "job.yaml").write_text(job.replace("\nseed: 0\n", "\nseed: 1\n"))
    bundle = read_bundle(copied)
    assert broken(copied, bundle) == ["job.yaml: was changed"]
    seal(copied, bundle.raymia, bundle.fingerprint, bundle.versions)
    assert broken(copied, read_bundle(copied)) == [], "whoever made it up sealed it, too"
    assert not score_again(copied).holds


def test_verify_says_at_the_command_line_which_file_was_changed(copied: Path) -> None:
    def verify(*words: str, code: int) -> str:
        done = CliRunner().invoke(app, ["verify", str(copied), "--no-scores", *words])
        assert done.exit_code == code, done.output
        return " ".join(done.stdout.split())

    digest = read_bundle(copied).digest()
    assert f"in a hash: {digest}" in verify("--digest", digest, code=0)
    with (copied / "evidence.json").open("a") as file:
        file.write(" ")
    assert "evidence.json: was changed" in verify(code=1)
    assert json.loads(CliRunner().invoke(app, ["verify", str(copied), "--no-scores", "--json"]).stdout)["problems"] == [
        "evidence.json: was changed"
    ]


def test_two_parties_scores_of_one_question_are_held_against_each_other(audited: Path, copied: Path) -> None:
    agreement = compare(audited, copied)
    assert (agreement.largest, agreement.samples) == (0.0, agreement.of)
    assert agreement.p is not None
    assert agreement.p[0] == agreement.p[1] < 1e-3
    registration = json.loads((copied / "registration.json").read_text())
    registration["scan"]["job"]["seed"] = 7
    (copied / "registration.json").write_text(json.dumps(registration))
    with pytest.raises(ConfigError, match=r"is an audit of another question than .*job\.seed: 0 -> 7"):
        compare(audited, copied)


def test_another_model_under_the_same_name_is_refused(copied: Path) -> None:
    with pytest.raises(ConfigError, match="is not the model of this audit"):
        score_again(copied, "testbed-tiny")
