"""Was this image in the training set of this diffusion model? Membership inference at scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

    from raymia.evaluation.audit import Audit
    from raymia.evaluation.results import Evaluation
    from raymia.scan.score import ImageLike

__all__ = ["audit", "evaluate", "score"]


def score(
    images: Sequence[ImageLike],
    captions: Sequence[str] | None = None,
    *,
    model: str,
    attacks: Mapping[str, Mapping[str, Any]] | Sequence[str],
    keys: Sequence[str] | None = None,
    member: Sequence[bool | None] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    device: str = "auto",
    clip: str | None = None,
    progress: bool = True,
    **replica: Any,
) -> pd.DataFrame:
    """Score images at hand, without Ray: the same image, caption and key give the same scores as in a scan.

    Args:
        images: paths, PIL images, or arrays (height, width, 3) of 8-bit RGB.
        captions: one per image; by default none.
        model: as in a job: a folder in diffusers' layout, its URL, a hub id, or `testbed`.
        attacks: names, or a map from name to parameters, as in a job.
        keys: with `seed` they determine all noise; by default the file's name up to its first dot, or the image's number.
        member: one per image where it is known, for `evaluate`.
        seed: see `keys`.
        batch_size: images in front of the model at once.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.
        clip: as in a job, for attacks that compare by it and for the blind baseline on embeddings.
        progress: show a bar.
        replica: further fields of a job's `replica`, such as ``resolution_px=64`` or ``dtype="bfloat16"``.

    Returns:
        A row per image, in order: key, caption, member where it is given, what is known of the image, a column per signal, and
        `reason` and `detail` of an image that could not be scored, whose scores are missing.

    Raises:
        ConfigError: the model or the attacks cannot be used, two images have one key, or as many captions, keys or labels as
            images are expected.
    """
    from raymia.scan.score import score as score_images

    return score_images(
        images,
        captions,
        model=model,
        attacks=attacks,
        keys=keys,
        member=member,
        seed=seed,
        batch_size=batch_size,
        device=device,
        clip=clip,
        progress=progress,
        **replica,
    )


def evaluate(table: pd.DataFrame | str, **options: Any) -> Evaluation:
    """Evaluate a score table, in a notebook or a script: intervals, blind baselines and a verdict.

    Args:
        table: of `score`; or any with `member` (true, false or missing) and one numeric column per signal, higher meaning
            member; with `caption`, image statistics or `clip_embedding` the blind baselines are fitted. Or the path of a run
            directory.
        options: of `raymia.evaluation.metrics.evaluate_table`, or of `evaluate_run` for a run directory.

    Returns:
        Metrics, and the table with what was computed; shown as a table in notebooks.

    Raises:
        ConfigError: names the column or row that cannot be used.
    """
    from raymia.evaluation.metrics import evaluate_run, evaluate_table
    from raymia.run.ledger import Ledger

    return evaluate_run(Ledger(table), **options) if isinstance(table, str) else evaluate_table(table, **options)


def audit(
    suspect: pd.DataFrame | str,
    control: pd.DataFrame | str,
    access: Literal["black", "grey", "white"] = "white",
    seed: int = 0,
) -> Audit:
    """Test whether a set of samples was trained on, against samples of the same source that certainly were not.

    Args:
        suspect, control: tables of `score` made by the same model and attacks; or run directories, ``RUN#SPLIT`` for one split.
        access: signals of attacks that need more are left out.
        seed: of the split into samples to fit on and samples to test.

    Returns:
        The test with what it must be read with: p, p against size, blind baselines, and a statement.

    Raises:
        ConfigError: no such run or split, or the two were made with different models or attacks.
        RaymiaError: a set is too small.
    """
    from raymia.evaluation.audit import audit as audit_sets
    from raymia.run.record import Access

    return audit_sets(suspect, control, Access(access), seed)
