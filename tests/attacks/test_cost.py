"""Declared costs against the trial's counters."""

from __future__ import annotations

import pytest

from raymia.attacks.base import ATTACKS, Attack
from raymia.attacks.clid import CLiD
from raymia.attacks.denoising import PRESETS, Denoising
from raymia.attacks.generation import Generation
from raymia.attacks.gradient import Gradient
from raymia.attacks.loss import Loss
from raymia.attacks.pokemon import Pokemon
from raymia.replica.schedule import VariancePreserving
from raymia.scan.cost import count
from tests.attacks.replicas import BATCH, SD1, PixelEmbedder, trial
from tests.services.test_black_box import SquaredDistance

CASES: list[Attack] = [
    *(kind() for kind in ATTACKS.all().values()),
    Denoising(presets=list(PRESETS), errors=("pixel", "latent", "model"), draws=2),
    Denoising(presets={"partial_renoised": {"guidance": 1.0}}, errors=("model",), draws=1),
    Pokemon(timesteps=(300,), guidance=7.5, draws=3, steps=4),
    Generation(guidance=1.0, images=1),
    Gradient(timesteps=(10,), draws=2, direction_draws=3, micro_batch=2),
]


@pytest.mark.parametrize("attack", CASES, ids=lambda attack: f"{attack.name}")
def test_an_attack_alone_costs_what_it_declares_and_gives_the_signals_it_declares(attack: Attack) -> None:
    subject = trial(clip=PixelEmbedder(), lpips=SquaredDistance(), copies=PixelEmbedder())
    scores = attack.score(subject)
    assert dict(subject.evaluations) == {kind: number * BATCH for kind, number in dict(attack.cost()).items()}
    names = [signal.name for signal in [*attack.signals(), *attack.signals_by_group(subject.model.groups)]]
    assert set(scores) == set(names)
    assert len(names) == len(set(names))
    assert [signal.name for signal in attack.signals() if signal.primary] == [attack.name]


def test_all_attacks_together_cost_what_the_dry_run_counts_and_less_than_each_alone() -> None:
    attacks = [kind() for kind in ATTACKS.all().values()]
    subject = trial(clip=PixelEmbedder(), lpips=SquaredDistance(), copies=PixelEmbedder())
    for attack in attacks:
        attack.score(subject)
    counted = count(attacks, VariancePreserving(SD1))
    assert dict(subject.evaluations) == {kind: number * BATCH for kind, number in dict(counted).items()}
    apart = {kind: sum(dict(attack.cost())[kind] for attack in attacks) for kind in dict(counted)}
    assert counted.forwards < apart["forwards"]
    assert counted.encodes == 11  # the image once, PFAMI's crops
    assert counted.decodes < apart["decodes"]


def test_the_order_of_the_attacks_changes_no_count() -> None:
    attacks = [kind() for kind in ATTACKS.all().values()]
    assert count(attacks, VariancePreserving(SD1)) == count(reversed(attacks), VariancePreserving(SD1))


def test_the_loss_grid_is_shared() -> None:
    attacks = [Loss(), CLiD(), Denoising(presets=["reversed_noising"])]
    # 50 of reversed noising hold the 25 of the loss and, of the nine of CLiD under the caption, draws 0 and 3 of t=400 and 2 of
    # t=500; other captions are 27 more.
    assert count(attacks, VariancePreserving(SD1)).forwards == 50 + 9 - 3 + 27
