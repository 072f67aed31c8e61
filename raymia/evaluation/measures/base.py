"""What a measure is: a number read off a score's ROC curve, and the same number of every bootstrap draw.

To add one, write a file beside this one whose name is the measure's and whose one public class extends `Measure`; or
register such a class under the entry-point group ``raymia.measures``. It then stands, with its 95 % interval, in
`metrics.json`, on the page, in the CSV and in the notebook, and on the terminal if it asks for that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cache
from typing import ClassVar

from raymia.evaluation.bootstrap import Resampled, Statistic
from raymia.evaluation.intervals import Interval, interval
from raymia.evaluation.roc import Floats, Roc
from raymia.registry import Registry


class Measure(ABC):
    """One number made from labelled scores, larger for a score that tells more, with a bootstrap interval."""

    name: ClassVar[str]
    """The file's name, and the key in `metrics.json`."""
    heading: ClassVar[str]
    """Of its column in tables, in at most 16 characters."""
    chance: ClassVar[float]
    """What guessing gives."""
    order: ClassVar[int] = 100
    """Place among the measures, lowest first; equals stand by name."""
    terminal: ClassVar[bool] = False
    """Whether it is shown on the terminal; everywhere else all measures are."""

    @property
    def column(self) -> str:
        """Name of its column in CSV files."""
        return self.name

    @property
    def note(self) -> str:
        """Remark on its heading in tables."""
        return f"guessing gives {self.chance:g}"

    @abstractmethod
    def value(self, curve: Roc) -> float:
        """The measure of the whole sample, from its exact ROC curve."""

    @abstractmethod
    def draws(self, resampled: Resampled) -> Floats:
        """(draws,) the measure of each bootstrap draw: what `value` gives for the ROC curve of the samples drawn."""


class TprAtFpr(Measure):
    """The largest true-positive rate over thresholds whose false-positive rate is at most `fpr`; never interpolated.

    After Carlini et al., Membership Inference Attacks From First Principles, arXiv 2112.03570.
    """

    fpr: ClassVar[float]
    """On 0..1."""

    @property
    def column(self) -> str:
        """Name of its column in CSV files, by the rate."""
        return f"tpr_at_fpr_{self.fpr:g}"

    def value(self, curve: Roc) -> float:
        """See `Roc.tpr_at`."""
        return curve.tpr_at(self.fpr)

    def draws(self, resampled: Resampled) -> Floats:
        """See `Resampled.tpr_at`."""
        return resampled.tpr_at([self.fpr])[:, 0]


MEASURES: Registry[Measure] = Registry(
    "measure",
    "raymia.measures",
    Measure,  # type: ignore[type-abstract]
    "raymia.evaluation.measures",
    beside=("base",),
)
"""Every measure that is installed."""


@cache
def measures() -> tuple[Measure, ...]:
    """Every measure, in the order in which tables have them.

    Raises:
        ConfigError: one of them cannot be imported.
    """
    return tuple(kind() for kind in sorted(MEASURES.all().values(), key=lambda kind: (kind.order, kind.name)))


def tpr_measures() -> tuple[TprAtFpr, ...]:
    """Those of `measures` that are the TPR at some FPR."""
    return tuple(measure for measure in measures() if isinstance(measure, TprAtFpr))


def statistics(of: Iterable[Measure]) -> dict[str, Statistic]:
    """What `raymia.evaluation.bootstrap.bootstrap` takes of each draw for some measures, by their names."""
    return {measure.name: measure.draws for measure in of}


def intervals(curve: Roc, draws: Mapping[str, Floats]) -> dict[str, Interval]:
    """Every measure of a score with its 95 % interval, by the measure's name.

    Args:
        curve: of the whole sample.
        draws: (draws,) of the same score by measure, as `bootstrap` gives them.
    """
    return {measure.name: interval(measure.value(curve), draws[measure.name]) for measure in measures()}
