from __future__ import annotations

import torch
from torch import Tensor

from raymia.replica.conditioning import Conditioning
from raymia.trial.shared import SharedReplica
from tests.attacks.replicas import GaussianReplica

BATCH = 3


class Recording(GaussianReplica):
    """Remembers the sizes of the calls; takes seven images at once."""

    denoiser_batch = 7

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def predicted_noise(self, z_t: Tensor, t: int | Tensor, conditioning: Conditioning) -> Tensor:
        self.calls.append(len(z_t))
        return super().predicted_noise(z_t, t, conditioning)


def asked(count: int, batch: int = BATCH) -> list[tuple[Tensor, int, Conditioning]]:
    conditioning = Conditioning(states=torch.zeros(batch, 1, 1, dtype=torch.double))
    return [(torch.randn(batch, 4, 2, 2, dtype=torch.double), 100 * i, conditioning) for i in range(count)]


def test_independent_evaluations_share_calls_up_to_what_the_replica_takes() -> None:
    replica = Recording()
    shared, questions = SharedReplica(replica), asked(5)
    found = shared.predicted_noises(questions)
    assert replica.calls == [6, 6, 3]
    assert shared.evaluations.forwards == 15
    for (z, t, conditioning), noise in zip(questions, found, strict=True):
        assert torch.allclose(noise, GaussianReplica().predicted_noise(z, t, conditioning))


def test_what_was_evaluated_is_not_asked_again_alone_or_together() -> None:
    replica = Recording()
    shared, questions = SharedReplica(replica), asked(3)
    first = shared.predicted_noise(*questions[1])
    again = shared.predicted_noises([*questions, questions[0]])
    assert shared.evaluations.forwards == 9
    assert torch.equal(again[1], first)
    assert again[3] is again[0]
    assert shared.predicted_noises([]) == []


def test_a_batch_larger_than_the_replica_takes_is_asked_in_parts() -> None:
    replica = Recording()
    (question,) = asked(1, batch=16)
    found = SharedReplica(replica).predicted_noise(*question)
    assert replica.calls == [7, 7, 2]
    assert torch.allclose(found, GaussianReplica().predicted_noise(*question))
