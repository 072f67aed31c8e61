"""From two folders of pictures to evidence: what is found, what is counted, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from raymia.errors import ConfigError
from raymia.evaluation.evidence import Evidence
from raymia.evidence import works as module
from raymia.evidence.asking import job_of
from raymia.evidence.registration import canonical, read_registration
from raymia.evidence.sets import Sources
from raymia.evidence.works import EVIDENCE_FILE, Prepared, commit_to, conduct, prepare
from raymia.run.ledger import Ledger
from raymia.run.storage import Storage
from raymia.scan.plan import make_plan
from tests.conftest import without_ray
from tests.evidence.conftest import ASKED, CONTROL, QUIET, WORKS


def evidence_of(folder: Path) -> Evidence:
    return Evidence.model_validate_json((folder / EVIDENCE_FILE).read_text())


def test_members_of_the_training_set_are_an_indication_and_every_picture_is_accounted_for(audited: Path) -> None:
    evidence = evidence_of(audited)
    assert evidence.finding == "indication"
    assert evidence.audit.test.p < 1e-3
    assert (evidence.audit.test.n_suspect, evidence.audit.test.units_suspect) == (WORKS + 1, WORKS), "two show the same"
    assert (evidence.audit.test.n_control, evidence.context.twins) == (CONTROL, 1), "a control that shows a work is none"
    assert [(one.split, one.images) for one in evidence.context.lost] == [("works", 1)]
    assert evidence.controls.keys() == {"random"}
    assert len(evidence.works) == WORKS + 1


def test_works_stand_among_the_control_as_counted_one_by_one(audited: Path) -> None:
    evidence = evidence_of(audited)
    table = Ledger(f"{audited}/run").frame()
    names = ["loss", "clid"]
    control = table.loc[table["split"] == "control", names]
    standing = ((table[names] - control.mean()) / control.std()).mean(axis=1)
    theirs = standing[table["split"] == "control"]
    expected = {
        (row.shard, row.key): (stands, float(np.mean([other >= stands for other in theirs])))
        for row, stands in zip(table.itertuples(), standing, strict=True)
        if row.split == "works"
    }
    for work in evidence.works:
        stands, share = expected[work.shard, work.key]
        assert work.standing == pytest.approx(stands, abs=1e-6)
        assert work.as_high == pytest.approx(share)
    assert [work.standing for work in evidence.works] == sorted((work.standing for work in evidence.works), reverse=True)


@pytest.fixture(scope="module")
def prepared(owned: Path, audited: Path) -> Prepared:
    """The audit once more, by the same call."""
    return prepare(Sources(str(owned / "works"), str(owned / "others")), ASKED, audited, QUIET)


def test_the_same_command_again_scores_nothing_and_registers_nothing_new(audited: Path, prepared: Prepared) -> None:
    before = (audited / "registration.json").read_bytes()
    found = evidence_of(audited)
    committed = commit_to(prepared)
    with without_ray(), mock.patch.object(module, "write_evidence_page"):
        again, _, counts = conduct(prepared, *committed, QUIET)
    assert (audited / "registration.json").read_bytes() == before
    assert again == found
    assert Ledger(f"{audited}/run").require_scan().attempts == 2
    assert counts.scored == WORKS + 1 + CONTROL


@pytest.mark.parametrize(
    ("changes", "said"),
    [(("seed=1",), "scan.job.seed: 0 -> 1"), (("attacks.loss.draws=2",), "scan.job.attacks.loss.draws: 1 -> 2")],
)
def test_what_was_registered_is_not_changed(prepared: Prepared, changes: tuple[str, ...], said: str) -> None:
    asked = replace(ASKED, changes=(*ASKED.changes, *changes))
    job, _ = job_of(asked, prepared.sets.manifest, prepared.job.run)
    with pytest.raises(ConfigError, match="another audit was registered") as refused:
        commit_to(replace(prepared, asked=asked, job=job, plan=make_plan(job)))
    assert said in str(refused.value)


def test_scores_without_a_registration_are_not_registered_afterwards(prepared: Prepared, tmp_path: Path) -> None:
    shutil.copytree(prepared.folder / "data", tmp_path / "audit" / "data")
    with pytest.raises(ConfigError, match=r"holds scores and no registration\.json"):
        commit_to(replace(prepared, folder=tmp_path / "audit"))


def test_a_registration_says_all_that_is_tested_and_its_digest_is_of_canonical_json(audited: Path) -> None:
    registration = read_registration(Storage(str(audited)))
    assert registration is not None
    assert registration.samples == {"works": WORKS + 1, "control": CONTROL}
    assert registration.primary == ["loss", "clid"]
    assert set(registration.shards) == {f"shards/{split}-00000.tar" for split in ("works", "control")}
    content = (audited / "registration.json").read_bytes()
    assert canonical(json.loads(content)) == content


def test_pictures_that_cannot_be_had_are_said_before_anything_is_packed(owned: Path, tmp_path: Path) -> None:
    def refused(works: str, control: str) -> str:
        with pytest.raises(ConfigError) as caught:
            prepare(Sources(works, control), ASKED, tmp_path / "audit", QUIET)
        return str(caught.value)

    assert "gone: expected a folder, or a table" in refused(str(tmp_path / "gone"), str(owned / "others"))
    assert "no split 'nothing'; the manifest has members, non_members" in refused("testbed#nothing", str(owned / "others"))
    with pytest.raises(ConfigError, match="--model: give a folder"):
        prepare(Sources("a", "b"), replace(ASKED, model=None), tmp_path / "audit", QUIET)
    (tmp_path / "few").mkdir()
    for file in sorted((owned / "others").glob("*.jpg"))[:9]:
        (tmp_path / "few" / file.name).write_bytes(file.read_bytes())
    assert "works: 9 images are left; a set needs at least 10" in refused(str(tmp_path / "few"), str(owned / "others"))
