"""What an audit says beside scores: said beforehand where it cannot be had, and looked up once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest import mock

import pytest

from raymia.data.provider import load_provider
from raymia.errors import ConfigError
from raymia.evidence import beside as module
from raymia.evidence.asking import Asked
from raymia.evidence.beside import Beside, look, of_scores
from raymia.evidence.sets import Sources
from raymia.evidence.works import prepare
from tests.evidence.conftest import ASKED, QUIET


def beside_of(folder: Path) -> Beside:
    return Beside((str(folder.parent / "list.csv"),), str(folder.parent / "claims.yaml"))


def test_lists_and_claims_are_looked_at_once(looked: Path, tmp_path: Path) -> None:
    provider = load_provider(str(looked.parent / "claims.yaml"))
    with mock.patch.object(module, "lookup", side_effect=AssertionError("was looked up before")):
        said = look(beside_of(looked), provider, str(looked), QUIET)
    assert said.lookup is not None
    assert (said.lookup.found_for_sure, said.lookup.controls_for_sure, said.lookup.rows) == (6, 1, 7)
    assert said.works is not None
    assert said.control is not None
    assert (said.works.sides["suspect"], said.control.sides["non_member"], said.control.sides["suspect"]) == (22, 22, 1)
    assert said.control.contradictions == {"late_and_listed": 1}, "what a list names is not certainly unseen"
    with pytest.raises(ConfigError, match="other lists, claims or images were looked at here"):
        look(Beside((str(looked.parent / "list.csv"),)), None, str(looked), QUIET)
    other = Path(shutil.copytree(looked, tmp_path / "audit"))
    content = json.loads((other / "looked.json").read_text())
    (other / "looked.json").write_text(json.dumps(content | {"shards": {}}))
    with pytest.raises(ConfigError, match="other lists, claims or images"):
        look(beside_of(looked), provider, str(other), QUIET)
    (other / "looked.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"looked\.json: was changed"):
        look(beside_of(looked), provider, str(other), QUIET)


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        (Beside(lists=("gone.csv",)), "table gone.csv: no such file"),
        (Beside(provider="gone.yaml"), "--provider gone.yaml: no such file"),
        (Beside(extract=True), "--copies: give sscd:FILE"),
        (Beside(copies="clip"), "--copies: goes with --extract"),
    ],
)
def test_what_cannot_be_looked_at_is_said_before_an_image_is_packed(beside: Beside, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        prepare(Sources("works", "others"), ASKED, tmp_path / "audit", QUIET, beside)
    assert not (tmp_path / "audit").exists()


def test_changes_of_the_extraction_are_not_the_scans(tmp_path: Path) -> None:
    changes = ("attacks.extraction.draws=3", "attacks.loss.draws=2", "seed=1")
    asked, own = of_scores(Beside(extract=True), Asked("testbed", changes=changes))
    assert (asked.changes, own) == (changes[1:], changes[:1])
    with pytest.raises(ConfigError, match=r"--set attacks\.extraction\.draws=3: goes with --extract"):
        of_scores(Beside(), Asked("testbed", changes=changes))
