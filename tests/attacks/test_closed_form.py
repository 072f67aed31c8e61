"""Grey attacks against a replica whose noise prediction is exact for data z_0 ~ N(m, v I)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from raymia.attacks.autoencoder import Autoencoder
from raymia.attacks.loss import Loss
from raymia.attacks.pia import PIA
from raymia.attacks.random import Random
from raymia.attacks.secmi import SecMI
from raymia.attacks.trial import Trial
from raymia.replica.schedule import Schedule

SD1 = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
BATCH = 3


class GaussianReplica:
    """E(z, t) = s (z - a m) / (a^2 v + s^2); images are latents of four channels."""

    device = torch.device("cpu")

    def __init__(self, mean: float, variance: float) -> None:
        self.schedule = Schedule(SD1)
        self.mean, self.variance = mean, variance

    def encode(self, images: Tensor) -> Tensor:
        return images.repeat(1, 2, 1, 1)[:, :4].double()

    def text(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), 1, 1)

    def predicted_noise(self, z_t: Tensor, t: int, states: Tensor) -> Tensor:
        a, s = self.schedule.alpha(t), self.schedule.sigma(t)
        return s * (z_t - a * self.mean) / (a * a * self.variance + s * s)

    def decode(self, z0: Tensor) -> Tensor:
        return z0[:, :3]


def trial(mean: float = 0.3, variance: float = 0.5, memorised: bool = False) -> Trial:
    images = (
        torch.full((BATCH, 3, 4, 4), mean)
        if memorised
        else torch.randn(BATCH, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    )
    return Trial(GaussianReplica(mean, variance), images, ["c"] * BATCH, [f"k{i}" for i in range(BATCH)], seed=7)


def closed_form_gain(schedule: Schedule, t: int, variance: float) -> tuple[float, float, float]:
    a, s = schedule.alpha(t), schedule.sigma(t)
    return a, s, s / (a * a * variance + s * s)


def test_loss_is_the_closed_form() -> None:
    subject = trial()
    scores = Loss(timesteps=(100, 400), draws=3).score(subject)
    per_t = []
    for t in (100, 400):
        a, s, gain = closed_form_gain(subject.schedule, t, 0.5)
        errors = [subject.noise(k) * (1 - gain * s) - gain * a * (subject.latents - 0.3) for k in range(3)]
        per_t.append(-torch.stack([e.square().flatten(1).mean(1) for e in errors]).mean(0))
        assert torch.allclose(scores[f"loss.t={t}"], per_t[-1], rtol=1e-5)
    assert torch.allclose(scores["loss"], torch.stack(per_t).mean(0), rtol=1e-5)


def test_secmi_is_the_closed_form() -> None:
    subject = trial()
    schedule = subject.schedule

    def move(offset: Tensor, t: int, u: int) -> Tensor:
        # In offsets d = z - a m from the data mean, a DDIM move is linear: x0 - m = d (1 - s g) / a, noise = g d.
        a, s, gain = closed_form_gain(schedule, t, 0.5)
        return offset * (schedule.alpha(u) * (1 - s * gain) / a + schedule.sigma(u) * gain)

    offset = subject.latents - schedule.alpha(0) * 0.3
    for t in range(0, 100, 10):
        offset = move(offset, t, t + 10)
    back = move(move(offset, 100, 110), 110, 100)
    expected = -(back - offset).square().flatten(1).sum(1)
    assert torch.allclose(SecMI().score(subject)["secmi"], expected, rtol=1e-5)


@pytest.mark.parametrize("p", [2.0, 4.0])
def test_pia_and_its_normalised_form_are_the_closed_form(p: float) -> None:
    subject = trial()
    _, _, gain0 = closed_form_gain(subject.schedule, 0, 0.5)
    a, s, gain = closed_form_gain(subject.schedule, 200, 0.5)
    e0 = gain0 * (subject.latents - subject.schedule.alpha(0) * 0.3)
    pian = e0 * math.sqrt(2 / math.pi) / e0.abs().flatten(1).mean(1)[:, None, None, None]
    scores = PIA(timestep=200, p=p).score(subject)
    for name, noise in (("pia", e0), ("pia.normalised", pian)):
        error = noise - gain * (a * subject.latents + s * noise - a * 0.3)
        expected = -error.abs().pow(p).flatten(1).sum(1).pow(1 / p)
        assert torch.allclose(scores[name], expected, rtol=1e-5), name


def test_a_memorised_point_has_no_loss_and_no_secmi_error() -> None:
    subject = trial(variance=0.0, memorised=True)
    assert Loss().score(subject)["loss"].abs().max() < 1e-5
    # z_0 stands at timestep 0, a distance s_0 off the noiseless mean; SecMI carries that through and back.
    assert SecMI().score(subject)["secmi"].abs().max() < 1e-5


def test_noise_depends_on_seed_key_and_draw_alone() -> None:
    images = torch.zeros(2, 3, 4, 4)
    replica = GaussianReplica(0.0, 1.0)
    one = Trial(replica, images, ["", ""], ["a", "b"], seed=1)
    other = Trial(replica, images.flip(0)[:1], ["x"], ["b"], seed=1)
    assert torch.equal(one.noise(2)[1], other.noise(2)[0])
    assert not torch.equal(one.noise(2)[0], one.noise(2)[1])
    assert not torch.equal(one.noise(0), one.noise(1))
    assert not torch.equal(Trial(replica, images, ["", ""], ["a", "b"], seed=2).noise(0), one.noise(0))


def test_pia_and_secmi_share_their_first_evaluation() -> None:
    alone = 0
    for attack in (PIA(), SecMI()):
        subject = trial()
        attack.score(subject)
        assert subject.evaluations.unet_forwards == attack.cost().unet_forwards * BATCH
        alone += subject.evaluations.unet_forwards
    together = trial()
    PIA().score(together)
    SecMI().score(together)
    assert together.evaluations.unet_forwards == alone - BATCH
    assert together.evaluations.encodes == BATCH


def test_autoencoder_control_never_touches_the_unet() -> None:
    subject = trial()
    assert torch.allclose(Autoencoder().score(subject)["autoencoder"], torch.zeros(BATCH).double(), atol=1e-9)
    assert subject.evaluations.unet_forwards == 0


def test_random_control_is_reproducible_and_differs_between_images_of_one_key() -> None:
    replica = GaussianReplica(0.0, 1.0)
    images = torch.rand(2, 3, 4, 4)
    scores = Random().score(Trial(replica, images, ["", ""], ["same", "same"], seed=3))["random"]
    again = Random().score(Trial(replica, images, ["", ""], ["same", "same"], seed=3))["random"]
    assert torch.equal(scores, again)
    assert scores[0] != scores[1]
