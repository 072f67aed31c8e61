"""What holds in every family: held against diffusers' own pipeline, training script and scheduler, on miniatures of each.

A family joins by a file of its name in `tests/replica/families/`. `docs/families.md` has the table of these checks.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from scipy.stats import spearmanr
from torch import Tensor, nn

from raymia.attacks.base import ATTACKS, Attack
from raymia.attacks.loss import Loss
from raymia.replica.families import FAMILIES, LoadOptions
from raymia.replica.folder import PipelineFolder, find_pipeline
from raymia.replica.latent_diffusion import LatentDiffusion
from raymia.replica.schedule import clean_from_noise, ddim_move, mix
from raymia.trial.trial import Trial
from tests.attacks.replicas import PixelEmbedder, random_images
from tests.replica.families.case import Case
from tests.services.test_black_box import SquaredDistance

LEVELS = (0.75, 0.25)
"""Two levels that every flow and every schedule of a thousand steps can stand at, or next to."""
CAPTIONS = ["a small picture", "of no meaning, a picture", ""]
SMALLER: dict[str, dict[str, Any]] = {
    "denoising": {"presets": {"reversed_noising": {"timesteps": [100, 500]}}, "draws": 1},
    "extraction": {"draws": 2, "steps": 2},
    "generation": {"images": 1, "steps": 2},
    "gradient": {"timesteps": (100, 400), "direction_draws": 2},
    "gradient_masking": {"timesteps": (100, 400)},
    "noise_optimisation": {"steps": 2},
    "pfami": {"timesteps": (50, 400), "crops": (0.8,)},
    "pokemon": {"timesteps": (200,), "steps": 2, "draws": 1},
    "rediffuse": {"variations": 2},
    "secmi": {"timestep": 20, "timesteps": (10, 20)},
    "clid": {"timesteps": (400,), "draws": 1},
    "sima": {"timesteps": (100,)},
    "loss": {"timesteps": (100, 400), "draws": 2},
}


@lru_cache
def cases() -> dict[str, Case]:
    """The case of each family."""
    return {name: importlib.import_module(f"tests.replica.families.{name}").CASE for name in FAMILIES.names()}


@pytest.fixture(scope="module", params=FAMILIES.names())
def case(request: pytest.FixtureRequest) -> Case:
    return cases()[request.param]


@pytest.fixture(scope="module")
def found(case: Case, tmp_path_factory: pytest.TempPathFactory) -> PipelineFolder:
    return find_pipeline(str(case.save(tmp_path_factory.mktemp(case.family) / "p")), with_weights=True)


def loaded(found: PipelineFolder, case: Case, **options: Any) -> LatentDiffusion:
    replica = found.load(LoadOptions(**{"device": "cpu", "resolution_px": case.side_px, **options}))
    assert isinstance(replica, LatentDiffusion)
    return replica


@pytest.fixture(scope="module")
def replica(found: PipelineFolder, case: Case) -> LatentDiffusion:
    return loaded(found, case)


@pytest.fixture(scope="module")
def by_own_steps(found: PipelineFolder, case: Case) -> LatentDiffusion:
    """The replica whose timesteps are the model's own."""
    return loaded(found, case, naming="own")


@pytest.fixture(scope="module")
def pipeline(found: PipelineFolder, case: Case) -> Any:
    """diffusers' own, with a scheduler whose levels are as they are asked for."""
    own = case.pipeline.from_pretrained(found.path, use_safetensors=True, torch_dtype=torch.float32)
    if found.schedule().kind == "flow":
        own.scheduler = FlowMatchEulerDiscreteScheduler()
    else:
        own.scheduler = DDIMScheduler.from_config(own.scheduler.config, clip_sample=False, timestep_spacing="leading")
    own.set_progress_bar_config(disable=True)
    return own


def run(case: Case, pipeline: Any, count: int = 2, **more: Any) -> Any:
    """Two steps of diffusers' pipeline over the case's prompts, from its own noise."""
    asked = {case.tells: case.asks(case.prompts[:count])} if case.tells else {"batch_size": count}
    taken = inspect.signature(pipeline.__call__).parameters
    size = {"height": case.side_px, "width": case.side_px} if "height" in taken else {}
    levels = {"sigmas": list(LEVELS)} if isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler) else {}
    steps = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(3)}
    return pipeline(**asked, **size, **levels, **steps, **case.arguments, **more)


def calls(module: nn.Module, ask: Any) -> list[dict[str, Any]]:
    """The arguments of every call of a denoiser, by name, as it would take them; those that are left out are not among them."""
    seen: list[dict[str, Any]] = []
    signature = inspect.signature(module.forward)

    def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        bound = signature.bind(*given, **named).arguments
        seen.append({name: value for name, value in bound.items() if not _silent(value, signature.parameters[name])})

    hook = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        ask()
    finally:
        hook.remove()
    return seen


def _silent(value: Any, parameter: inspect.Parameter) -> bool:
    return parameter.name == "return_dict" or value is None or (isinstance(value, Mapping) and not value)


def same(ours: Any, expected: Any, where: str, rounding: float) -> None:
    """Compare two arguments, number by number; a time for all images is as good as one for each."""
    if isinstance(expected, Mapping):
        given = {name: value for name, value in expected.items() if value is not None}
        assert {name for name, value in ours.items() if value is not None} == given.keys(), where
        for name, value in given.items():
            same(ours[name], value, f"{where}.{name}", rounding)
    elif isinstance(expected, list | tuple):
        assert len(ours) == len(expected), where
        for place, (one, other) in enumerate(zip(ours, expected, strict=True)):
            same(one, other, f"{where}[{place}]", rounding)
    elif isinstance(expected, Tensor):
        assert ours.is_floating_point() == expected.is_floating_point(), f"{where}: {ours.dtype} and {expected.dtype}"
        one, other = torch.broadcast_tensors(ours, expected) if expected.dim() < 2 else (ours, expected)
        assert one.shape == other.shape, f"{where}: {tuple(one.shape)} and {tuple(other.shape)}"
        assert torch.allclose(one.double(), other.double(), atol=rounding, rtol=rounding), where
    else:
        assert ours == expected, where


def shape_of(replica: LatentDiffusion, case: Case) -> tuple[int, int, int]:
    return replica.latent_shape(case.side_px, case.side_px)


def test_the_denoiser_is_called_with_exactly_what_the_pipeline_passes(
    case: Case, by_own_steps: LatentDiffusion, pipeline: Any
) -> None:
    replica = by_own_steps
    steps: list[tuple[Any, Tensor]] = []
    step = pipeline.scheduler.step

    def noted(output: Tensor, t: Any, sample: Tensor, *more: Any, **named: Any) -> Any:
        steps.append((t, sample))
        return step(output, t, sample, *more, **named)

    pipeline.scheduler.step = noted
    try:
        asked = calls(getattr(pipeline, case.denoiser), lambda: run(case, pipeline, output_type="latent"))
    finally:
        del pipeline.scheduler.step
    told = replica.text(list(case.prompts))
    assert len(asked) == len(steps) == 2
    for call, (time, sample) in zip(asked, steps, strict=True):
        z, t = case.unpacked(sample, *shape_of(replica, case)[1:]).float(), own_step(replica, time)
        (ours,) = calls(replica._denoiser, lambda z=z, t=t: replica.predicted_noise(z, t, told))
        given, expected = case.seen(ours), case.seen(call)
        assert given.keys() == expected.keys()
        for name, value in expected.items():
            same(given[name], value, name, case.rounding)


def own_step(replica: LatentDiffusion, time: Any) -> int:
    """The step of a replica whose timesteps are its own, at a time of diffusers' scheduler."""
    if replica.schedule.kind == "variance_preserving":
        return int(time)
    t = replica.schedule.step_of(float(time) / 1000)
    assert replica.schedule.sigma(t) == pytest.approx(float(time) / 1000, abs=1e-7), "a level that the model has no step at"
    return t


def test_encode_and_decode_are_the_pipelines(case: Case, replica: LatentDiffusion, pipeline: Any) -> None:
    images = random_images(2, case.side_px)
    expected = case.encode(pipeline, images)
    assert torch.allclose(replica.encode(images), expected, atol=1e-5)
    assert tuple(expected.shape[1:]) == shape_of(replica, case)
    *_, (_, _, latents) = moves_of(case, pipeline)
    pictures = run(case, pipeline, output_type="pt")[0]
    if isinstance(pictures, np.ndarray):  # of pipelines that know no tensors
        pictures = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    decoded = replica.decode(case.unpacked(latents, *shape_of(replica, case)[1:]))
    assert torch.allclose(decoded, pictures.float() * 2 - 1, atol=1e-4)


def test_the_loss_is_that_of_diffusers_training_script_on_the_same_noise(
    case: Case, by_own_steps: LatentDiffusion, pipeline: Any
) -> None:
    replica = by_own_steps
    images, schedule = random_images(2, case.side_px), replica.schedule
    trial = Trial(replica, images, list(case.prompts), ["a", "b"], seed=3)
    steps = tuple(schedule.step_of(level) for level in LEVELS)
    scores = Loss(timesteps=steps, draws=1).score(trial)
    z0, noise = case.encode(pipeline, images), trial.noise(0)
    losses = []
    for t in steps:
        if schedule.kind == "flow":
            sigma = float(schedule.sigma(t))
            noisy, target = (1 - sigma) * z0 + sigma * noise, noise - z0
            level, in_noise = sigma, (1 - sigma) ** 2
        else:
            at = torch.tensor([t, t])
            noisy, kind = pipeline.scheduler.add_noise(z0, noise, at), pipeline.scheduler.config.prediction_type
            target = noise if kind == "epsilon" else pipeline.scheduler.get_velocity(z0, noise, at)
            level, in_noise = t, 1.0 if kind == "epsilon" else float(pipeline.scheduler.alphas_cumprod[t])
        with torch.no_grad():
            losses.append((case.predict(pipeline, noisy, level, case.prompts) - target).square().mean(dim=(1, 2, 3)))
        assert torch.allclose(-scores[f"loss.t={t}"], losses[-1] * in_noise, rtol=1e-4), t
    assert torch.allclose(-scores["loss"], torch.stack(losses).mean(0), rtol=1e-4), "over levels in the space of training"


def moves_of(case: Case, pipeline: Any) -> list[tuple[Any, Tensor, Tensor]]:
    """Time, latents and what the scheduler moved them to, of each step of a run."""
    moves: list[tuple[Any, Tensor, Tensor]] = []
    step = pipeline.scheduler.step

    def noted(output: Tensor, t: Any, sample: Tensor, *more: Any, **named: Any) -> Any:
        moved = step(output, t, sample, *more, **named)
        moves.append((t, sample, moved[0] if isinstance(moved, tuple) else moved.prev_sample))
        return moved

    pipeline.scheduler.step = noted
    try:
        run(case, pipeline, output_type="latent")
    finally:
        del pipeline.scheduler.step
    return moves


def test_noise_image_and_move_agree_with_the_schedulers_own_step(
    case: Case, by_own_steps: LatentDiffusion, pipeline: Any
) -> None:
    replica = by_own_steps
    size, told, schedule = shape_of(replica, case)[1:], replica.text(list(case.prompts)), replica.schedule
    (first, before, after), (last, _, end) = moves_of(case, pipeline)
    t, u = own_step(replica, first), own_step(replica, last)
    z = case.unpacked(before, *size)
    moved = ddim_move(schedule, z, replica.predicted_noise(z, t, told), t, u)
    assert torch.allclose(moved, case.unpacked(after, *size), atol=1e-4)
    noise = replica.predicted_noise(moved, u, told)
    clean = clean_from_noise(schedule, moved, noise, u)
    if schedule.kind == "flow" or pipeline.scheduler.final_alpha_cumprod == 1.0:
        assert torch.allclose(clean, case.unpacked(end, *size), atol=1e-4)
    assert torch.allclose(mix(schedule, clean, noise, u), moved, atol=1e-4)


def attacks_of(found: PipelineFolder) -> dict[str, Attack]:
    """Every attack that the model can be asked for, in a form that is quick."""
    lacks = found.family.lacks(found.path)
    attacks = {}
    for name, kind in ATTACKS.all().items():
        for change in ({}, {"guidance": 1.0}, {"words": ()}):
            fields = {field: value for field, value in change.items() if field in kind.model_fields}
            tried = kind.model_validate({**SMALLER.get(name, {}), **fields})
            if not tried.tells() & lacks.keys():
                attacks[name] = tried
                break
    return attacks


def trial_of(replica: LatentDiffusion, case: Case, part: slice = slice(None)) -> Trial:
    captions = [*case.prompts, case.prompts[0]][part]
    images = random_images(3, case.side_px)[part]
    keys = ["a", "b", "c"][part]
    return Trial(replica, images, captions, keys, seed=0, clip=PixelEmbedder(), lpips=SquaredDistance(), copies=PixelEmbedder())


def test_every_attack_runs_and_costs_what_it_declares(case: Case, found: PipelineFolder, replica: LatentDiffusion) -> None:
    attacks = attacks_of(found)
    assert {"loss", "secmi", "pia", "sima", "pfami", "gradient", "noise_optimisation", "pokemon"} <= attacks.keys()
    for name, attack in attacks.items():
        trial = trial_of(replica, case)
        scores = attack.score(trial)
        assert set(scores) == {one.name for one in [*attack.signals(), *attack.signals_by_group(replica.groups)]}, name
        assert all(torch.isfinite(score).all() for score in scores.values()), name
        assert dict(trial.evaluations) == {kind: number * 3 for kind, number in dict(attack.cost()).items()}, name


def test_scores_depend_neither_on_the_batch_nor_on_how_calls_are_folded(
    case: Case, found: PipelineFolder, replica: LatentDiffusion
) -> None:
    folded, attacks = loaded(found, case, denoiser_batch=2), attacks_of(found)
    for attack in (attacks[name] for name in ("loss", "pia", "gradient_masking", "pokemon")):
        together = attack.score(trial_of(replica, case))
        in_twos = attack.score(trial_of(folded, case))
        alone = [attack.score(trial_of(replica, case, slice(i, i + 1))) for i in range(3)]
        for signal, score in together.items():
            apart = torch.cat([one[signal] for one in alone])
            assert torch.allclose(score, apart, rtol=1e-3, atol=1e-5), signal
            assert torch.allclose(score, in_twos[signal], rtol=1e-3, atol=1e-5), signal


def test_bfloat16_ranks_as_float32(case: Case, found: PipelineFolder, replica: LatentDiffusion) -> None:
    half = loaded(found, case, dtype="bfloat16")
    images = torch.cat([random_images(8, case.side_px) * scale for scale in (0.25, 1.0)])
    captions, keys = (list(case.prompts) * 8), [f"k{i}" for i in range(16)]
    both = [Loss(draws=2).score(Trial(one, images, captions, keys, seed=0))["loss"] for one in (replica, half)]
    # Random weights tell images apart by little, and rounding exchanges neighbours.
    assert spearmanr(*both).statistic > 0.95


def test_every_parameter_has_a_group_and_every_group_a_parameter(replica: LatentDiffusion) -> None:
    groups = {name: replica.parameter_group(name) for name in replica.parameters()}
    assert {group for group in groups.values() if group is not None} == set(replica.groups)


def test_every_image_may_have_a_timestep_of_its_own(case: Case, replica: LatentDiffusion) -> None:
    z = torch.randn(2, *shape_of(replica, case), generator=torch.Generator().manual_seed(0))
    told = replica.text(list(case.prompts))
    together = replica.predicted_noise(z, torch.tensor([100, 900]), told)
    alone = [replica.predicted_noise(z[i : i + 1], t, told[i : i + 1]) for i, t in enumerate((100, 900))]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


CHECKS = {
    "calls": test_the_denoiser_is_called_with_exactly_what_the_pipeline_passes,
    "latents": test_encode_and_decode_are_the_pipelines,
    "loss": test_the_loss_is_that_of_diffusers_training_script_on_the_same_noise,
    "moves": test_noise_image_and_move_agree_with_the_schedulers_own_step,
    "attacks": test_every_attack_runs_and_costs_what_it_declares,
    "batches": test_scores_depend_neither_on_the_batch_nor_on_how_calls_are_folded,
    "bfloat16": test_bfloat16_ranks_as_float32,
    "groups": test_every_parameter_has_a_group_and_every_group_a_parameter,
    "times": test_every_image_may_have_a_timestep_of_its_own,
}
"""What the table in the documents calls each check."""


def test_every_family_has_a_case_and_the_documents_the_table_of_checks() -> None:
    assert {case.family for case in cases().values()} == set(FAMILIES.names())
    here = [value for name, value in globals().items() if name.startswith("test_")]
    assert set(CHECKS.values()) == set(here) - {test_every_family_has_a_case_and_the_documents_the_table_of_checks}
    rows = [f"| `{name}` |" + " yes |" * len(CHECKS) for name in FAMILIES.names()]
    table = "\n".join([f"| family | {' | '.join(CHECKS)} |", "|---|" + "---|" * len(CHECKS), *rows])
    assert table in (Path(__file__).parents[2] / "docs" / "families.md").read_text(), f"expected in docs/families.md:\n{table}"
