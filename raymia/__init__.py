"""Was this image in the training set of this diffusion model? Membership inference at scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

    from raymia.evaluation.audit import Audit
    from raymia.evaluation.results import Evaluation
    from raymia.scan.score import score

__all__ = ["audit", "evaluate", "score"]


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
    features: Literal["all", "cdi"] = "all",
) -> Audit:
    """Test whether a set of samples was trained on, against samples of the same source that certainly were not.

    Args:
        suspect, control: tables of `score` made by the same model and attacks; or run directories, ``RUN#SPLIT`` for one split.
        access: signals of attacks that need more are left out.
        seed: of the split into samples to fit on and samples to test.
        features: ``all`` signals, or ``cdi``: those of the published set (arXiv 2411.12858).

    Returns:
        The test with what it must be read with: p, p against size, blind baselines, and a statement.

    Raises:
        ConfigError: no such run or split, or the two were made with different models or attacks.
        RaymiaError: a set is too small.
    """
    from raymia.evaluation.audit import audit as audit_sets
    from raymia.run.record import Access

    return audit_sets(suspect, control, Access(access), seed, features)


def __getattr__(name: str) -> Any:
    """`score` stands beside the scan whose scores it gives; it is loaded when it is asked for, with torch."""
    if name == "score":
        from raymia.scan.score import score

        return score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
