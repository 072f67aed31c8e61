"""Whether a model can be told what a job and its attacks tell it."""

from __future__ import annotations

from pathlib import Path

import diffusers

from raymia.config import Job
from raymia.data.shapes import Shapes, square
from raymia.errors import ConfigError
from raymia.replica.adapters import check_adapter
from raymia.replica.documents import read_json
from raymia.replica.folder import PipelineFolder
from raymia.replica.inversions import check_inversion, is_inversion, word_of
from raymia.replica.latent_diffusion import require_sides
from raymia.replica.quantised import require_quantisable


def require_told(job: Job, pipeline: PipelineFolder) -> None:
    """Refuse options of `replica`, a source of captions and attacks that mean nothing to the model.

    Args:
        job: that attacks a model.
        pipeline: the model's folder, which was checked.

    Raises:
        ConfigError: names the field or the attack.
    """
    if job.model.shape == "buckets" and job.model.compile:
        raise ConfigError("replica.compile: goes with replica.shape: square; each further shape would be compiled anew")
    if job.pool.gpus > 1:
        _require_whole(job, "the denoiser on one GPU; set pool.gpus_per_replica: 1")
        if job.model.compile:
            raise ConfigError("replica.compile: goes with pool.gpus_per_replica 1; leave one of them out")
    if job.model.weights != "as_saved":
        require_quantisable(job.model.weights)
        _require_whole(job, "weights as they were saved; leave replica.weights out")
        if job.pool.gpus > 1:
            raise ConfigError("replica.weights: goes with pool.gpus_per_replica 1; leave one of them out")
    _check_adapters(job, pipeline)
    pipeline.family.check_options(pipeline.path, job.model.options())
    side = job.model.resolution_px
    require_sides(side, max(1, side // pipeline.latent_shape(side)[1]) * pipeline.family.grain)
    lacks = pipeline.family.lacks(pipeline.path)
    if "condition" in lacks and job.caption_source != "own":
        raise ConfigError(f"caption_source: {job.caption_source}: {lacks['condition']}; leave it out")
    if "words" in lacks and job.model.text == "stage":
        family = pipeline.family.name
        raise ConfigError(f"replica.text: stage: models of the family {family} have no text encoders; leave it out")
    for name, attack in job.attacks.items():
        for ability in sorted(attack.tells() & lacks.keys()):
            raise ConfigError(f"attacks.{name}: {lacks[ability]}")


def _check_adapters(job: Job, pipeline: PipelineFolder) -> None:
    """Refuse adapters that cannot be put onto the model, as far as their headers and the job tell."""
    options = job.model.options()
    if not options.adapters:
        return
    for field, fits in (
        ("replica.compile", not job.model.compile),
        ("replica.text: stage", job.model.text != "stage"),
        ("replica.weights", job.model.weights == "as_saved"),
        ("pool.gpus_per_replica above 1", job.pool.gpus == 1),
    ):
        if not fits:
            raise ConfigError(f"replica.adapters: go without {field}; leave one of them out")
    kind = pipeline.family.pipelines[0] if pipeline.family.pipelines else ""
    if not hasattr(getattr(diffusers, kind, None), "load_lora_weights"):
        family = pipeline.family.name
        raise ConfigError(f"replica.adapters: models of the family {family} take none in diffusers; leave them out")
    for adapter in options.adapters:
        if is_inversion(adapter.file):
            if adapter.weight != 1:
                raise ConfigError(f"{adapter.file}: a textual inversion has no weight; leave replica.adapters.weight out")
            check_inversion(adapter.file, adapter.token, pipeline.family.name, pipeline.path)
            continue
        if adapter.token is not None:
            raise ConfigError(
                f"{adapter.file}: is no textual inversion, which alone has a word; leave replica.adapters.token out"
            )
        check_adapter(adapter.file, pipeline.family.name)


def _require_whole(job: Job, what: str) -> None:
    """Refuse attacks that need the denoiser as it was saved, on one device."""
    for name, attack in job.attacks.items():
        if attack.precise or attack.cost().backwards:
            how = "computes in float32" if attack.precise else "takes gradients"
            raise ConfigError(f"attacks.{name}: {how}, which needs {what}")


DISTILLED = ("turbo", "lightning", "hyper-sd", "hyper_sd", "lcm", "schnell", "distill", "dmd")
"""What names of models that were distilled to few steps hold."""
OF_FEW_STEPS = ("LCMScheduler", "TCDScheduler")


def distilled(job: Job, pipeline: PipelineFolder) -> bool:
    """Whether a model learnt from another model's answers, as far as its folder, its name or its sampler says so.

    Args:
        job: that attacks a model.
        pipeline: the model's folder, which was checked.
    """
    lacks = pipeline.family.lacks(pipeline.path)
    return ("unconditional" in lacks and "condition" not in lacks) or to_few_steps(job, pipeline)


def to_few_steps(job: Job, pipeline: PipelineFolder) -> bool:
    """Whether a model was distilled to few steps, by its name or sampler."""
    name = Path(job.model.model).name.lower()
    sampler = read_json(pipeline.path / "model_index.json").get("scheduler") or [None, None]
    return any(word in name for word in DISTILLED) or sampler[-1] in OF_FEW_STEPS


def caveats(job: Job, pipeline: PipelineFolder) -> list[str]:
    """What a person should know of the model before its scores are believed, a sentence each.

    Args:
        job: that attacks a model.
        pipeline: the model's folder, which was checked.
    """
    found = []
    side, native = job.model.resolution_px, pipeline.family.native_px(pipeline.path)
    if native and side != native:
        found.append(
            f"replica.resolution_px: {side}, but the model was trained at {native} px; at another size scores tell less"
        )
    if to_few_steps(job, pipeline):
        found.append('replica.model: by its name or sampler distilled to few steps; a "no signal" means little there')
    for adapter in job.model.options().adapters:
        if is_inversion(adapter.file):
            word = word_of(adapter.file, adapter.token)
            found.append(
                f"replica.adapters: {adapter.file} stands for the word {word!r} in captions; those without it are scored as by "
                "the model without the file"
            )
    return found


def shapes_of(job: Job, pipeline: PipelineFolder | None) -> Shapes:
    """The sizes that a job's images are resized to.

    Args:
        job: whose images they are.
        pipeline: of the attacked model; none where a service is attacked.

    Raises:
        ConfigError: the model's family was trained on squares alone, or names no shapes.
    """
    side = job.replica.resolution_px
    if pipeline is None or job.model.shape == "square":
        return square(side)
    shapes = pipeline.family.buckets(side)
    if shapes is None:
        raise ConfigError(f"replica.shape: buckets: {pipeline.family.title} has no shapes that are known; leave it out")
    return shapes
