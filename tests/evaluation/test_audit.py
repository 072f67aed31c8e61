"""Audits over real run directories whose scores are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from raymia.attacks.base import ATTACKS
from raymia.errors import ConfigError, RaymiaError
from raymia.evaluation.audit import audit
from raymia.evaluation.cdi import FEATURES, FIELDS, cdi_signals
from raymia.evaluation.intervals import delong
from raymia.evaluation.metrics import evaluate_run
from raymia.evaluation.set_level import mean_p
from raymia.evaluation.signals import describe_signals
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.ledger import Ledger
from raymia.run.record import Access, ModelRecord, SignalRecord
from tests.run.records import scan_record

SIGNALS = [
    {"name": "loss", "attack": "loss", "access": "grey", "primary": True},
    {"name": "pokemon", "attack": "pokemon", "access": "black", "primary": True},
    {"name": "random", "attack": "random", "access": "control", "primary": True},
]


def write_run(folder: Path, model: str = "a", **splits: tuple[int, float, str]) -> str:
    """A run with splits of so many samples, whose loss is raised by so much, under captions that start so."""
    ledger = Ledger(str(folder))
    ledger.write_run(scan_record(model=ModelRecord(fingerprint=model), signals=SIGNALS))
    for split, (count, raised, caption) in splits.items():
        random = np.random.default_rng(len(split))
        table = pa.table(
            {
                "key": [f"{i}" for i in range(count)],
                "split": [split] * count,
                "caption": [f"{caption} {random.integers(10**6)}" for _ in range(count)],
                "loss": random.normal(raised, 1, count),
                "pokemon": random.normal(size=count),
                "random": random.normal(5 * (raised > 0), 1, count),
            }
        )
        ledger.commit_unit(split, "0000", 0, table, QUARANTINE_SCHEMA.empty_table())
    return str(folder)


def test_a_set_that_was_trained_on_is_found_and_what_it_shows_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ours=(200, 0.8, "a"), theirs=(240, 0.0, "a"))
    found = audit(f"{run}#ours", f"{run}#theirs")
    assert found.test.p < 0.001
    assert found.test.signals == 2
    assert found.statement.startswith("The suspect set scores higher than the control: an indication that it was trained on")
    assert "certainly not trained on" in found.statement


def test_the_difference_of_captions_alone_is_no_evidence(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ours=(200, 0.8, "OIL PAINTING"), theirs=(240, 0.0, "a photo of"))
    found = audit(f"{run}#ours", f"{run}#theirs")
    assert found.blind["caption"].low > 0.9
    assert "no evidence of training" in found.statement


def test_an_attacker_without_the_signal_finds_nothing_and_controls_take_no_part(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ours=(200, 0.8, "a"), theirs=(240, 0.0, "a"))
    found = audit(f"{run}#ours", f"{run}#theirs", Access.BLACK)
    assert found.test.signals == 1
    assert found.test.p > 0.01
    assert found.statement.startswith("No evidence") == (found.test.p >= 0.05)


def test_runs_of_different_models_small_sets_and_unknown_splits_are_refused(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", ours=(30, 0.0, "a"), few=(9, 0.0, "a"))
    other = write_run(tmp_path / "other", model="b", theirs=(30, 0.0, "a"))
    with pytest.raises(ConfigError, match="differ in `model`"):
        audit(one, other)
    with pytest.raises(RaymiaError, match="9 scored samples or clusters; expected at least 10"):
        audit(f"{one}#few", f"{one}#ours")
    with pytest.raises(ConfigError, match="no split 'nope'"):
        audit(f"{one}#nope", one)
    with pytest.raises(ConfigError, match=r"no run\.json"):
        audit(str(tmp_path / "gone"), one)


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_of_a_few_samples_is_evaluated_without_what_needs_more(tmp_path: Path, count: int) -> None:
    ledger = Ledger(write_run(tmp_path / "run", ours=(count, 0.8, "a"), theirs=(count, 0.0, "b")))
    table = ledger.scores().to_pandas()
    member = (table["split"] == "ours").to_numpy()
    assert delong(table["loss"].to_numpy(), member).low >= 0.0
    for split in ("ours", "theirs"):
        rows = pa.Table.from_pandas(table[table["split"] == split].assign(member=split == "ours", flags=""))
        ledger.commit_unit(split, "0000", 0, rows, QUARANTINE_SCHEMA.empty_table())
    metrics = evaluate_run(ledger).metrics
    assert metrics.transfer == []
    assert metrics.embedding_shift is None
    assert metrics.signals["loss"].auc is not None


def test_twins_of_suspect_works_in_the_control_are_told(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tables = [
        pd.DataFrame({"loss": random.normal(size=40), "cluster": [f"{side}{i // 2}" for i in range(40)]}) for side in "ab"
    ]
    assert "stand in both sets" not in audit(*tables).statement
    tables[1].loc[:3, "cluster"] = ["a0", "a0", "a1", None]
    found = audit(*tables)
    assert "2 clusters of works that belong together stand in both sets" in found.statement
    assert (found.test.n_suspect, found.test.units_suspect, found.test.units_control) == (40, 20, 21)


def cdi_table(attack: str = "loss", raised: float = 0.0) -> pd.DataFrame:
    """Sixty samples with CDI's features, of which those of the loss are raised."""
    random = np.random.default_rng(int(10 * raised))
    named = [f"{attack}.t={t}" for t in range(0, 1000, 100)] + [f"gradient_masking.t={t}" for t in range(0, 1000, 100)]
    named += ["secmi", "pia", "pia.normalised", "noise_optimisation", "noise_optimisation.delta"]
    rows = {name: random.normal(raised * name.startswith("loss"), 1, 60) for name in named}
    return pd.DataFrame({**rows, attack: rows[f"{attack}.t=100"], "gradient_masking": 0.0, "sima": random.normal(size=60)})


@pytest.mark.parametrize("attack", ["loss", "loss:many"])
def test_features_of_cdi_are_chosen_by_name_and_variants_of_an_attack_count(attack: str) -> None:
    tables = cdi_table(attack, 0.5), cdi_table(attack)
    found = audit(*tables, features="cdi")
    assert (found.features, found.test.signals, found.test.primary) == ("cdi", 25, 25)
    chosen = cdi_signals(describe_signals(tables[0]), Access.WHITE, "table")
    assert len(set(chosen)) == 25
    assert {f"{attack}.t=100", "pia.normalised", "noise_optimisation.delta"} <= set(chosen)
    assert not {attack, "gradient_masking", "sima"} & set(chosen)
    assert found.test.p_mean == pytest.approx(mean_p(*(table[chosen].to_numpy() for table in tables)))
    assert audit(*tables).test.signals == 28


def test_lacking_features_of_cdi_are_named_with_what_a_job_must_have() -> None:
    lacking = cdi_table().drop(columns=["loss.t=0", "loss.t=900", "noise_optimisation.delta"])
    with pytest.raises(ConfigError) as caught:
        audit(lacking, lacking, features="cdi")
    assert "has no loss.t=0, loss.t=900, noise_optimisation.delta;" in str(caught.value)
    snippet = str(caught.value).split("`")[1]
    attacks = yaml.safe_load(snippet)["attacks"]
    assert list(attacks) == ["loss", "noise_optimisation"]
    made = {name: ATTACKS.get(name)(**fields) for name, fields in attacks.items()}
    there = {signal.name for attack in made.values() for signal in attack.signals()}
    assert {"loss.t=0", "loss.t=900", "noise_optimisation.delta"} <= there
    with pytest.raises(ConfigError, match="expected --access white"):
        audit(cdi_table(), cdi_table(), Access.GREY, features="cdi")


def test_a_job_with_what_is_asked_for_has_every_feature() -> None:
    made = {name: ATTACKS.get(name)(**yaml.safe_load(FIELDS.get(name, "{}"))) for name in FEATURES}
    records = [
        SignalRecord(name=signal.name, attack=name, access=str(attack.access), primary=signal.primary)
        for name, attack in made.items()
        for signal in attack.signals()
    ]
    assert len(cdi_signals(records, Access.WHITE, "run")) == 25
