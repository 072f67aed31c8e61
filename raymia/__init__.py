"""Was this image in the training set of this diffusion model? Membership inference at scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from raymia.evaluation.results import Evaluation

__all__ = ["evaluate"]


def evaluate(table: pd.DataFrame | str, **options: Any) -> Evaluation:
    """Evaluate a score table, in a notebook or a script: intervals, blind baselines and a verdict.

    Args:
        table: `member` (true, false or missing) and one numeric column per signal, higher meaning member; with `caption`,
            image statistics or `clip_embedding` the blind baselines are fitted. Or the path of a run directory.
        options: of `raymia.evaluation.metrics.evaluate_table`, or of `evaluate_run` for a run directory.

    Returns:
        Metrics, and the table with what was computed; shown as a table in notebooks.

    Raises:
        ConfigError: names the column or row that cannot be used.
    """
    from raymia.evaluation.metrics import evaluate_run, evaluate_table
    from raymia.run.ledger import Ledger

    return evaluate_run(Ledger(table), **options) if isinstance(table, str) else evaluate_table(table, **options)
