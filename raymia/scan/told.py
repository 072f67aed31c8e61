"""Whether a model can be told what a job and its attacks tell it."""

from __future__ import annotations

from raymia.config import Job
from raymia.errors import ConfigError
from raymia.replica.folder import PipelineFolder


def require_told(job: Job, pipeline: PipelineFolder) -> None:
    """Refuse options of `replica`, a source of captions and attacks that mean nothing to the model.

    Args:
        job: that attacks a model.
        pipeline: the model's folder, which was checked.

    Raises:
        ConfigError: names the field or the attack.
    """
    pipeline.family.check_options(pipeline.path, job.model.options())
    lacks = pipeline.family.lacks(pipeline.path)
    if "condition" in lacks and job.caption_source != "own":
        raise ConfigError(f"caption_source: {job.caption_source}: {lacks['condition']}; leave it out")
    for name, attack in job.attacks.items():
        for ability in sorted(attack.tells() & lacks.keys()):
            raise ConfigError(f"attacks.{name}: {lacks[ability]}")
