"""Signals held against what an unseen image of the same looks would score."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from raymia.evaluation.adjusted import MINIMUM, adjusted_scores, expectation
from raymia.evaluation.appearance import appearance
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.metrics import evaluate_table
from raymia.run.record import SignalRecord

SIGNALS = [
    SignalRecord(name=name, attack=attack, access=access, primary=name == attack)
    for name, attack, access in (
        ("loss", "loss", "grey"),
        ("loss.t=100", "loss", "grey"),
        ("gradient", "gradient", "white"),
        ("autoencoder", "autoencoder", "control"),
        ("autoencoder.latent", "autoencoder", "control"),
    )
]


def table_of(n: int = 200, seed: int = 0, shift: float = 0.0) -> pd.DataFrame:
    """As many members as not; how busy an image is explains most of `loss`, and membership raises it by a half."""
    random = np.random.default_rng(seed)
    member = np.arange(2 * n) < n
    busy = random.normal(size=2 * n) + shift * member
    return pd.DataFrame(
        {
            "split": np.where(member, "in", "out"),
            "shard": "0",
            "key": np.arange(2 * n).astype(str),
            "member": member,
            "caption": ["a" * length for length in random.integers(5, 50, 2 * n)],
            "width": 64,
            "height": 64,
            "jpeg_bytes": (3000 * np.exp(0.3 * busy)).astype(int),
            "entropy": random.normal(size=2 * n),
            "autoencoder": -np.exp(random.normal(size=2 * n)),
            "autoencoder.latent": -np.exp(0.1 * random.normal(size=2 * n)),
            "loss": -2 * busy + 0.5 * member + 0.5 * random.normal(size=2 * n),
            "loss.t=100": random.normal(size=2 * n),
            "gradient": random.normal(size=2 * n),
        }
    )


def auc(column: np.ndarray, member: np.ndarray) -> float:
    return float(roc_auc_score(member, column))


def test_what_looks_explain_is_taken_off_and_what_membership_adds_is_left() -> None:
    metrics = evaluate_table(table_of(), SIGNALS).metrics
    raw, adjusted = metrics.signals["loss"], metrics.signals["adjusted.loss"]
    assert raw.auc is not None
    assert adjusted.auc is not None
    table = table_of()
    busy = np.log(table["jpeg_bytes"] / 3000) / 0.3
    assert raw.auc.value < 0.62
    assert adjusted.auc.value == pytest.approx(auc((table["loss"] + 2 * busy).to_numpy(), table["member"].to_numpy()), abs=0.01)
    assert adjusted.auc.value > 0.7
    assert (adjusted.access, adjusted.primary, adjusted.verdict) == ("grey", True, "evidence")
    assert metrics.signals["adjusted.gradient"].access == "white"
    assert adjusted.p_holm is not None
    # loss, loss.t=100, gradient, both adjusted, combined.grey and combined.white
    assert metrics.signals_tried == 7
    assert "adjusted.autoencoder" not in metrics.signals
    assert "adjusted.loss.t=100" not in metrics.signals


def test_no_score_depends_on_the_label_of_its_own_sample() -> None:
    table = table_of()
    of_table = {}
    for change in (1.0, 1000.0):
        changed = table.assign(loss=np.where(table["member"], change * table["loss"], table["loss"]))
        labelled = LabelledSamples.of_table(changed, SIGNALS)
        of_table[change] = adjusted_scores(labelled).labelled["adjusted.loss"][~labelled.member]
    assert np.array_equal(of_table[1.0], of_table[1000.0])  # members' scores take no part in any fit
    labelled = LabelledSamples.of_table(table, SIGNALS)
    scores = table["loss"].to_numpy().copy()
    scores[-1] += 1.0
    moved = LabelledSamples.of_table(table.assign(loss=scores), SIGNALS)
    difference = adjusted_scores(moved).labelled["adjusted.loss"] - adjusted_scores(labelled).labelled["adjusted.loss"]
    assert difference[-1] == pytest.approx(1.0, abs=1e-9)  # its own fit did not see it


def test_twins_stand_on_one_side_of_every_fit() -> None:
    table = pd.concat([table_of(100)] * 3, ignore_index=True)
    table["loss"] = np.tile(np.random.default_rng(1).normal(size=200), 3)
    table["cluster"] = np.tile(np.arange(200), 3)
    scores = table["loss"].to_numpy().copy()
    twins = (table["cluster"] == 199).to_numpy()
    scores[twins] += 1.0
    before = adjusted_scores(LabelledSamples.of_table(table, SIGNALS)).labelled["adjusted.loss"]
    after = adjusted_scores(LabelledSamples.of_table(table.assign(loss=scores), SIGNALS)).labelled["adjusted.loss"]
    assert (after - before)[twins] == pytest.approx(1.0, abs=1e-9)


def test_the_regression_is_the_ridge_of_standardised_facts_on_scores_without_their_tails() -> None:
    random = np.random.default_rng(0)
    looks, scores = random.normal(3, 5, (300, 4)), random.standard_t(1, (300, 1))
    asked = random.normal(3, 5, (20, 4))
    found = expectation(looks, scores, 4, asked)[:, 0]
    centre, spread = looks.mean(0), looks.std(0)
    limited = np.clip(scores[:, 0], *np.quantile(scores, (0.005, 0.995)))
    standard = (looks - centre) / spread
    by_strength = {
        strength: Ridge(strength).fit(standard, limited).predict((asked - centre) / spread)
        for strength in np.geomspace(0.1, 1e4, 11)
    }
    left_out = {}
    for strength in by_strength:  # leave-one-out by its definition
        kept = [np.arange(300) != i for i in range(300)]
        errors = [
            limited[i] - Ridge(strength).fit(standard[k], limited[k]).predict(standard[[i]])[0] for i, k in enumerate(kept)
        ]
        left_out[strength] = np.mean(np.square(errors))
    assert found == pytest.approx(by_strength[min(left_out, key=left_out.__getitem__)], rel=1e-6)


def test_rows_of_unknown_membership_are_adjusted_by_all_non_members() -> None:
    table = table_of().astype({"member": object})
    table.loc[::7, "member"] = None
    evaluation = evaluate_table(table, SIGNALS)
    assert evaluation.table["adjusted.loss"].notna().all()
    unknown = table["member"].isna().to_numpy()
    unseen = (table["member"] == False).to_numpy()  # noqa: E712 - a column of objects
    looks = appearance(table)
    assert looks is not None
    scores = table[["loss"]].to_numpy()
    expected = scores[unknown] - expectation(
        looks.columns[unseen], scores[unseen], looks.facts.shape[1], looks.columns[unknown]
    )
    assert evaluation.table.loc[unknown, "adjusted.loss"].to_numpy() == pytest.approx(expected[:, 0])


def test_generated_images_are_held_against_non_members_by_adjusted_signals_too() -> None:
    table = table_of().astype({"member": object})
    table["generated"] = table.index % 10 == 0
    table.loc[table["generated"], "member"] = None
    found = evaluate_table(table, SIGNALS).metrics.generated
    assert found is not None
    assert {"loss", "adjusted.loss"} <= set(found.signals)


def test_a_shift_of_looks_alone_is_no_evidence() -> None:
    random = np.random.default_rng(5)
    table = table_of(shift=2.0)
    # A parabola that no plane follows: what the regression is wrong about stays in the score.
    busy = np.log(table["jpeg_bytes"] / 3000) / 0.3
    table["autoencoder.latent"] = -np.exp(0.2 * busy)
    table["jpeg_bytes"] = random.integers(2000, 4000, len(table))
    table["loss"] = busy**2 + random.normal(size=len(table))
    metrics = evaluate_table(table, SIGNALS).metrics
    adjusted, looks = metrics.signals["adjusted.loss"], metrics.signals["control.appearance"]
    assert adjusted.auc is not None
    assert looks.auc is not None
    assert adjusted.auc.value > 0.6
    assert looks.auc.value > 0.9
    assert adjusted.verdict == "explained by the data set"
    assert adjusted.statement is not None
    assert "over control.appearance" in adjusted.statement
    assert "control.appearance" in metrics.verdict.statement


def test_a_control_model_that_scores_alike_takes_the_evidence_from_adjusted_signals_too() -> None:
    table = table_of()
    same = table[["split", "shard", "key", "loss", "gradient"]].sample(frac=1.0, random_state=0)
    alike = evaluate_table(table, SIGNALS, control=("untrained", same)).metrics.signals["adjusted.loss"]
    assert alike.excess_over_control is not None
    assert alike.excess_over_control.value == pytest.approx(0.0, abs=1e-12)
    assert alike.verdict == "explained by the data set"
    other = same.assign(loss=np.random.default_rng(3).normal(size=400))
    assert evaluate_table(table, SIGNALS, control=("untrained", other)).metrics.signals["adjusted.loss"].verdict == "evidence"


def test_too_few_non_members_leave_them_out_and_that_is_said() -> None:
    table = table_of(MINIMUM - 1)
    metrics = evaluate_table(table, SIGNALS).metrics
    assert not any(name.startswith("adjusted.") for name in metrics.signals)
    assert "Adjusted scores are left out: 49 non-members; expected at least 50." in metrics.warnings
    twins = pd.concat([table] * 2, ignore_index=True).assign(cluster=np.tile(np.arange(len(table)), 2))
    assert "Adjusted scores are left out: 49 clusters of non-members; expected at least 50." in (
        evaluate_table(twins, SIGNALS).metrics.warnings
    )


def test_a_column_that_some_rows_lack_is_gone_without_and_captions_alone_tell_nothing_of_an_image() -> None:
    table = table_of()
    gap = table.assign(clip_embedding=[[1.0, 2.0]] * 399 + [None])
    metrics = evaluate_table(gap, SIGNALS).metrics
    assert "adjusted.loss" in metrics.signals
    assert "Adjusted scores go without clip_embedding, which is empty for 1 samples." in metrics.warnings
    bare = table[["member", "caption", "loss"]]
    metrics = evaluate_table(bare, SIGNALS[:1]).metrics
    assert set(metrics.signals) == {"loss", "blind.caption"}
    assert not any("djusted" in warning for warning in metrics.warnings)


def test_embeddings_are_read_by_their_principal_components() -> None:
    random = np.random.default_rng(0)
    table = table_of()
    vectors = random.normal(size=(400, 3)) @ random.normal(size=(3, 40)) + 0.1 * random.normal(size=(400, 40))
    table["loss"] = 0.5 * table["member"] + 0.5 * random.normal(size=400) + vectors[:, 0]
    table["clip_embedding"] = list(vectors)
    with_them = evaluate_table(table, SIGNALS).metrics.signals["adjusted.loss"].auc
    without = evaluate_table(table.drop(columns="clip_embedding"), SIGNALS).metrics.signals["adjusted.loss"].auc
    assert with_them is not None
    assert without is not None
    rest = (table["loss"] - vectors[:, 0]).to_numpy()
    assert with_them.value == pytest.approx(auc(rest, table["member"].to_numpy()), abs=0.05)
    assert with_them.value > 0.7
    assert without.value < 0.62


def test_under_labels_that_mean_nothing_the_auc_stays_in_the_noise_floor() -> None:
    member = np.arange(256) < 128
    values = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        table = table_of(128, seed)
        table["loss"] = -2 * np.log(table["jpeg_bytes"] / 3000) + random.standard_t(1.5, 256)
        found = adjusted_scores(LabelledSamples.of_table(table, SIGNALS, seed)).labelled["adjusted.loss"]
        values.append(auc(found, member))
    assert np.mean(values) == pytest.approx(0.5, abs=0.015)
    # The band that a score which knows nothing leaves in 5 % of draws: more than 9 of 60 have a chance below .002.
    assert np.sum((np.array(values) < 0.429) | (np.array(values) > 0.571)) <= 9


def test_an_evaluated_table_is_evaluated_again_without_what_was_computed() -> None:
    once = evaluate_table(table_of(), SIGNALS)
    again = evaluate_table(once.table, access={"loss": "grey"})
    assert not any(
        name.startswith(("adjusted.adjusted", "adjusted.blind", "adjusted.control")) for name in again.metrics.signals
    )
