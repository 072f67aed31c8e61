"""Every attack on every family as on a card: nothing on a wrong device or of a wrong dtype, and nothing that waits for it.

No card is needed; see `tests/replica/fake_cuda.py` for how far this goes, and `ALLOWED` for where numbers may be read.
"""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import conv2d, normalize
from torchvision.models import alexnet

from raymia.attacks.base import ATTACKS, Attack
from raymia.attacks.sima import SimA
from raymia.features.clip import Clip
from raymia.features.lpips import Lpips
from raymia.replica import backward, folder
from raymia.replica.families import FAMILIES, LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.scan.scorer import Scorer
from raymia.testbed import CLIP
from raymia.trial.trial import Trial
from tests.replica.fake_cuda import COUNT, Allowed, CardError, Watch, card
from tests.replica.test_every_family import cases
from tests.services.test_black_box import SquaredDistance

ALLOWED = (
    Allowed("raymia/scan/scorer.py", ("_score_together",), "scores, and embeddings where there is a CLIP", 2),
    Allowed("raymia/attacks/random.py", ("score",), "the image's bytes are hashed"),
    # What these read is chosen among, and drawn, by the processor; how often depends on the samples.
    Allowed("raymia/attacks/extraction.py", ("score",), "clusters of answers are found by SciPy", None),
    Allowed("raymia/attacks/generation.py", ("shown",), "the closest answer is chosen", None),
    Allowed("raymia/attacks/extraction.py", ("shown", "_place"), "the closest answer and its place are chosen", None),
    Allowed("raymia/scan/shown.py", ("shown_of", "_item", "bounded_png"), "what is shown becomes a picture and a row", None),
    # The first text of a call is waited for; the others find the card idle.
    Allowed("raymia/replica/z_image.py", ("_output",), "each text is seen in its own length", None, (7,)),
    # diffusers' own, once for each call.
    Allowed(
        "diffusers/models/transformers/transformer_qwenimage.py",
        ("compute_text_seq_len_from_mask",),
        "a length for texts without tokens",
        None,
    ),
    Allowed("diffusers/models/transformers/transformer_chroma.py", ("forward",), "places of its modulations", None),
)
"""Where numbers are read that are on the card, or what is brought there is waited for: in a batch, and nowhere else."""
DTYPES = [
    *((name, "bfloat16") for name in FAMILIES.names()),
    ("ddpm", "float32"),
    ("dit", "float16"),
]
TOGETHER = ("dit", "sd3")
"""Families of which gradients of samples are taken together; of the others one after the other, as those of large models."""
PRECISE = ("dit", "sd3")
"""Families of which a copy in float32 is called, too, and beside which stand a real CLIP and a real LPIPS."""
SMALLER: dict[str, dict[str, Any]] = {
    "clid": {"timesteps": (400,), "draws": 1, "words": (0.5,)},
    "denoising": {"presets": {"reversed_noising": {"timesteps": [100, 500]}}, "draws": 1},
    "extraction": {"draws": 2, "steps": 1},
    "generation": {"images": 1, "steps": 2},
    "gradient": {"timesteps": (100,), "direction_timestep": 100, "direction_draws": 2},
    "gradient_masking": {"timesteps": (100,)},
    "loss": {"timesteps": (100, 400), "draws": 1},
    "memorisation": {"draws": 1},
    "noise_optimisation": {"steps": 2},
    "pfami": {"timesteps": (100, 400), "crops": (0.8,)},
    "pokemon": {"timesteps": (200,), "steps": 2, "draws": 1},
    "rediffuse": {"timesteps": (50,), "variations": 2},
    "secmi": {"timestep": 20, "timesteps": (20,)},
    "sima": {"timesteps": (100,)},
}


def attacks_of(found: PipelineFolder) -> dict[str, Attack]:
    """Every attack that the model can be asked for, in a form that is quick."""
    lacks, attacks = found.family.lacks(found.path).keys(), {}
    for name, kind in ATTACKS.all().items():
        for change in ({}, {"guidance": 1.0}, {"words": ()}):
            fields = {field: value for field, value in change.items() if field in kind.model_fields}
            tried = kind.model_validate({**SMALLER.get(name, {}), **fields})
            if not tried.tells() & lacks:
                attacks[name] = tried
                break
    return attacks


@pytest.fixture(scope="module")
def lpips(tmp_path_factory: pytest.TempPathFactory) -> Lpips:
    """With a trunk of no meaning, on the processor: its package unpickles its heads, which are to have numbers."""
    file = tmp_path_factory.mktemp("lpips") / "alexnet.safetensors"
    save_file({f"features.{name}": tensor for name, tensor in alexnet().features.state_dict().items()}, file)
    return Lpips("alex", str(file), torch.device("cpu"))


class Colours:
    """Stands where a CLIP stands: the mean of each colour."""

    def embed_images(self, images: Tensor) -> Tensor:
        return normalize(images.float().mean((2, 3)), dim=1)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    """PyTorch logs what it refuses, beside raising it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


def loaded(found: PipelineFolder, watch: Watch, side_px: int, dtype: str) -> LatentDiffusion:
    """The model on the card, where its batches are tried out. What it predicts is not compared: there are no numbers."""
    watch.loading = True
    with mock.patch.object(folder, "self_test"):
        replica = found.load(LoadOptions(dtype, "cuda", side_px, denoiser_batch=2 * COUNT))
    watch.loading = False
    assert isinstance(replica, LatentDiffusion)
    assert all(isinstance(tensor, FakeTensor) for tensor in replica.parameters().values())
    return replica


@pytest.mark.parametrize(("family", "dtype"), DTYPES)
def test_every_attack_computes_on_a_card_alone_and_never_waits_for_it(
    family: str, dtype: str, tmp_path: Path, lpips: Lpips, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases()[family]
    found = find_pipeline(str(case.save(tmp_path / "p")), with_weights=True)
    if family not in TOGETHER:
        monkeypatch.setattr(backward, "TOGETHER_GIB", 0)
    pixels = np.zeros((COUNT, case.side_px, case.side_px, 3), np.uint8)
    attacks = attacks_of(found)
    assert {"loss", "secmi", "pia", "sima", "pfami", "gradient", "noise_optimisation", "pokemon", "random"} <= attacks.keys()
    with card(family, ALLOWED, family in PRECISE) as watch:
        try:
            replica = loaded(found, watch, case.side_px, dtype)
            beside = besides(lpips, watch) if family in PRECISE else {"clip": Colours(), "lpips": SquaredDistance()}
            beside["copies"] = beside["clip"]
            scorer = Scorer(replica, attacks, 0, **beside, own_sizes=family == "sdxl")
            outcomes = scorer.score(pixels, list(case.prompts), ["a", "b"], [(100, 100, 0, 0)] * COUNT)
        except Exception as error:
            error.add_note(f"{family} in {dtype}, {attack_of(error)}")
            raise
    signals = {one.name for attack in attacks.values() for one in [*attack.signals(), *attack.signals_by_group(replica.groups)]}
    for outcome in outcomes:
        assert isinstance(outcome, dict)
        assert signals <= outcome.keys()


def besides(lpips: Lpips, watch: Watch) -> dict[str, Any]:
    """The models beside the attacked one, on the card."""
    watch.loading = True
    on_card = copy.deepcopy(lpips)
    on_card._model.to("cuda")
    clip = Clip(str(CLIP), torch.device("cuda"))
    watch.loading = False
    return {"clip": clip, "lpips": on_card}


def attack_of(error: Exception) -> str:
    """The attack that an error is of."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    keys = [frame.f_locals["key"] for frame in frames if frame.f_code.co_name == "scores_of"]
    return f"attack {keys[0]}" if keys else "in no attack"


def _halves(trial: Trial) -> Tensor:
    return trial.latents.bfloat16()


PLANTS: dict[str, tuple[Callable[[Trial], Any], str]] = {
    "a tensor on the processor": (lambda trial: trial.latents + torch.ones(trial.latents.shape), "same device"),
    "a number that is read": (lambda trial: trial.latents.mean().item(), "reads numbers"),
    "a truth that is read": (lambda trial: bool((trial.latents > 0).all()), "reads numbers"),
    "a place that is read": (lambda trial: trial.latents[trial.latents[0, 0, 0, 0].long()], "reads numbers"),
    "a tensor that is read": (lambda trial: trial.latents.cpu(), "from the card reads numbers"),
    "elements of a mask": (lambda trial: trial.latents[trial.latents > 0], "by a mask"),
    "numbers that are brought": (lambda trial: torch.tensor([1.0], device=trial.latents.device), "which is waited for"),
    "a tensor that is brought": (lambda trial: torch.ones(2).to(trial.latents.device), "which is waited for"),
    "places that are brought": (lambda trial: trial.latents[[1, 0]], "which is waited for"),
    "another dtype of a product": (lambda trial: _halves(trial) @ trial.latents.mT, "scalar type"),
    "another dtype of weights": (lambda trial: conv2d(_halves(trial), trial.latents[:1, :, :1, :1]), "convolution"),
    "the processor's generator": (
        lambda trial: torch.randn(2, device=trial.latents.device, generator=torch.Generator("cpu")),
        "by a generator of the processor",
    ),
}
"""What may be wrong with an attack, and what is said of it."""


def test_what_is_wrong_with_an_attack_is_found_and_the_attack_named(tmp_path: Path) -> None:
    case = cases()["dit"]
    found = find_pipeline(str(case.save(tmp_path / "p")), with_weights=True)
    pixels = np.zeros((COUNT, case.side_px, case.side_px, 3), np.uint8)
    with card("dit", ALLOWED) as watch:
        replica = loaded(found, watch, case.side_px, "bfloat16")
        for name, (plant, said) in PLANTS.items():

            def score(attack: SimA, trial: Trial, plant: Callable[[Trial], Any] = plant) -> dict[str, Tensor]:
                plant(trial)
                return {"sima": trial.latents.mean((1, 2, 3))}

            with (
                mock.patch.object(SimA, "score", score),
                pytest.raises((CardError, RuntimeError), match=said) as caught,
            ):
                Scorer(replica, {"sima": SimA()}, 0).score(pixels, list(case.prompts), ["a", "b"])
            assert attack_of(caught.value) == "attack sima", name
