"""The same attacks on epsilon and v-prediction, and in float32, bfloat16 and float16."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from raymia.attacks.base import ATTACKS, Attack
from raymia.data.images import decode_image
from raymia.data.tar import RawSample, read_shard
from raymia.replica.families import LoadOptions
from raymia.replica.folder import load_replica
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.protocol import Replica
from raymia.testbed import ASSETS, PIPELINE
from raymia.trial.trial import Trial
from tests.attacks.replicas import GaussianReplica, PixelEmbedder, trial
from tests.services.test_black_box import SquaredDistance

SMALLER: dict[str, Any] = {
    "denoising": {"draws": 1},
    "extraction": {"draws": 1, "steps": 5},
    "generation": {"images": 1, "steps": 5},
    "gradient": {"timesteps": (50, 250, 450), "direction_draws": 2},
    "gradient_masking": {"timesteps": (50, 250, 450)},
    "pfami": {"timesteps": (50, 400), "crops": (0.9, 0.8)},
    "pokemon": {"steps": 4},
}
CASES = [kind.model_validate(SMALLER.get(name, {})) for name, kind in ATTACKS.all().items()]
# Whose arithmetic goes through the output; with v-prediction all others are held in the closed form.
FEW = [
    case for case in CASES if case.name in ("loss", "secmi", "pia", "sima", "clid", "gradient_masking", "noise_optimisation")
]
SAMPLES = 16


class AsVelocity(nn.Module):
    """The UNet of an epsilon model, putting out v = (E - s z) / a: the same function for a v-prediction model."""

    def __init__(self, replica: LatentDiffusion) -> None:
        super().__init__()
        self.unet = replica._denoiser
        self.schedule = replica.schedule

    def forward(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool) -> tuple[Tensor]:
        noise = self.unet(z, t, encoder_hidden_states).sample
        each = t.expand(len(z)).tolist()
        scales = (self.schedule.alpha, self.schedule.sigma)
        alpha, sigma = (torch.tensor(list(map(scale, each)))[:, None, None, None] for scale in scales)
        return ((noise - sigma * z) / alpha,)

    def named_parameters(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        return ((f"unet.{name}", parameter) for name, parameter in self.unet.named_parameters())


def real_trial(replica: Replica) -> Trial:
    images, captions, keys = [], [], []
    for split in ("members", "non_members"):
        shard = sorted((ASSETS / "shards").glob(f"{split}-*.tar"))[0]
        samples = [sample for sample in read_shard(str(shard)) if isinstance(sample, RawSample)][: SAMPLES // 2]
        for sample in samples:
            pixels = decode_image(sample.image, 64, 10**7).pixels
            images.append(torch.tensor(pixels).permute(2, 0, 1).float() / 127.5 - 1)
            captions.append(sample.caption or "")
            keys.append(sample.key)
    return Trial(
        replica, torch.stack(images), captions, keys, 0, clip=PixelEmbedder(), lpips=SquaredDistance(), copies=PixelEmbedder()
    )


@pytest.fixture(scope="module")
def reference() -> dict[str, dict[str, Tensor]]:
    subject = real_trial(load_replica(str(PIPELINE), LoadOptions(resolution_px=64)))
    return {attack.name: attack.score(subject) for attack in CASES}


def ranks_agree(scores: dict[str, Tensor], reference: dict[str, Tensor], at_least: float) -> None:
    for name, expected in reference.items():
        assert torch.isfinite(scores[name]).all(), name
        if expected.std() > 0:
            correlation = spearmanr(scores[name].double().numpy(), expected.double().numpy()).statistic
            assert correlation >= at_least, f"{name}: {correlation:.3f}"


# Their means over timesteps are of errors in the space that a model was trained in.
OVER_LEVELS = (
    *("clid", "clid.words=0.33", "clid.words=0.67", "clid.loss", "loss", "loss.lowpass"),
    *("gradient_masking", "gradient_masking.clean", "gradient_masking.input"),
)


def of_the_same_levels(name: str) -> bool:
    """Whether a signal means the same in every space: it is of one level, or a mean of what is measured elsewhere."""
    errors = name in OVER_LEVELS or (name.startswith("denoising") and name.endswith(".model"))
    return not errors and (not name.startswith("gradient.") or name in ("gradient.direction",)) and name != "gradient"


@pytest.mark.parametrize("kind", ["v_prediction"])
@pytest.mark.parametrize("attack", CASES, ids=lambda attack: attack.name)
def test_scores_of_the_same_function_agree_between_epsilon_and_v_prediction(attack: Attack, kind: str) -> None:
    options = {"clip": PixelEmbedder(), "lpips": SquaredDistance(), "copies": PixelEmbedder()}
    of_epsilon = attack.score(trial(GaussianReplica(per_word=0.05), **options))
    of_velocity = attack.score(trial(GaussianReplica(per_word=0.05, kind=kind), **options))
    for name, score in of_epsilon.items():
        if of_the_same_levels(name):
            assert torch.allclose(score.double(), of_velocity[name].double(), rtol=1e-4, atol=1e-6), name
        elif "gradient" not in name:
            assert (of_velocity[name] - score).abs().max() > 1e-3, f"{name} is weighted by level"


def test_a_real_unet_as_v_prediction_ranks_as_it_does_as_epsilon(
    tmp_path: Path, reference: dict[str, dict[str, Tensor]]
) -> None:
    shutil.copytree(PIPELINE, tmp_path / "v")
    config = tmp_path / "v" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    replica = load_replica(str(tmp_path / "v"), LoadOptions(resolution_px=64))
    assert replica.schedule.prediction_type == "v_prediction"
    replica._denoiser = AsVelocity(replica)
    subject = real_trial(replica)
    for attack in FEW:
        # Over levels, errors of the velocity weigh high levels more.
        at_least = 0.99 if of_the_same_levels(attack.name) else 0.9
        expected = {name: score for name, score in reference[attack.name].items() if "." not in name}
        ranks_agree(attack.score(subject), expected, at_least)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_finite_and_ranks_as_float32_does(dtype: str, reference: dict[str, dict[str, Tensor]]) -> None:
    subject = real_trial(load_replica(str(PIPELINE), LoadOptions(dtype=dtype, resolution_px=64)))
    # Few processors compute in float16: of what the network could overflow, the cheapest of each kind.
    few = ("loss", "secmi", "pia", "gradient_masking")
    for attack in CASES if dtype == "bfloat16" else [attack for attack in FEW if attack.name in few]:
        scores = attack.score(subject)
        ranks_agree(scores, {attack.name: reference[attack.name][attack.name]}, 0.99)
        ranks_agree(scores, reference[attack.name], 0.98)
