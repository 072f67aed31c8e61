"""Verdicts: whether a score shows membership beyond chance and beyond what the data set alone gives away."""

from __future__ import annotations

from typing import Literal

from raymia.evaluation.intervals import Interval, NoiseFloor

Verdict = Literal["evidence", "explained by the data set", "no signal"]


def signal_verdict(auc: Interval, excess: Interval | None, floor: NoiseFloor) -> Verdict:
    """Verdict of one signal.

    Args:
        auc: of the signal.
        excess: AUC of the signal minus that of the best blind baseline, paired; none where no baseline could be fitted.
        floor: at this number of samples.
    """
    if auc.value <= floor.auc[1] or auc.low <= 0.5:
        return "no signal"
    return "evidence" if excess is not None and excess.low > 0 else "explained by the data set"


def run_verdict(verdicts: dict[str, Verdict], controls: dict[str, Verdict], best_blind: str | None) -> tuple[Verdict, str]:
    """Verdict of the run, from its attacks' primary signals, and the same in words.

    Args:
        verdicts: of attacks.
        controls: of attacks that must find nothing.
        best_blind: name and AUC of the best blind baseline, for the words.
    """
    alarmed = [name for name, verdict in controls.items() if verdict != "no signal"]
    warning = (
        f" Beware: the control {', '.join(alarmed)} separates the splits too, so the images themselves differ."
        if alarmed
        else ""
    )
    blind = (
        f"the best classifier that never sees the model ({best_blind})"
        if best_blind
        else "blind baselines, which could not be fitted,"
    )
    evidence = [name for name, verdict in verdicts.items() if verdict == "evidence"]
    explained = [name for name, verdict in verdicts.items() if verdict == "explained by the data set"]
    if evidence:
        return (
            "evidence",
            f"{_names(evidence)} tell members from non-members better than chance and better than {blind}.{warning}",
        )
    if explained:
        return (
            "explained by the data set",
            f"{_names(explained)} beat chance but not {blind}: the data set alone explains it.{warning}",
        )
    return "no signal", f"No attack tells members from non-members better than chance at this number of samples.{warning}"


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
