"""Verdicts: whether a score shows membership beyond chance and beyond what the data set alone gives away."""

from __future__ import annotations

from typing import Literal

from raymia.evaluation.intervals import Interval, NoiseFloor, shown

Verdict = Literal["evidence", "explained by the data set", "no signal"]


def signal_verdict(auc: Interval, excess: Interval | None, floor: NoiseFloor, over_control: Interval | None = None) -> Verdict:
    """Verdict of one signal.

    Args:
        auc: of the signal.
        excess: AUC of the signal minus that of the best blind baseline, paired; none where no baseline could be fitted.
        floor: at this number of samples.
        over_control: AUC minus that of a control model, paired, where one was scanned: what a model tells apart that cannot
            have seen the samples is the data set's.
    """
    if auc.value <= floor.auc[1] or auc.low <= 0.5:
        return "no signal"
    explained = excess is None or excess.low <= 0 or (over_control is not None and over_control.low <= 0)
    return "explained by the data set" if explained else "evidence"


def signal_statement(
    name: str, verdict: Verdict, auc: Interval, excess: Interval | None, best_blind: str | None, over_control: Interval | None
) -> str:
    """The verdict of one signal in words, with the numbers that it rests on."""
    statement = f"{name}: {verdict}. AUC {shown(auc)}"
    if excess is None or best_blind is None:
        statement += "; no blind baseline could be fitted to hold it against"
    else:
        statement += f", {shown(excess, '+')} over {best_blind}"
    return statement + (f", {shown(over_control, '+')} over the control model." if over_control else ".")


def blind_statement(name: str | None, auc: Interval | None, floor: NoiseFloor) -> str:
    """What the data set alone gives away, in words."""
    if name is None or auc is None:
        return "No blind baseline could be fitted: a class has too few samples, or there is nothing to learn from."
    if auc.value > floor.auc[1] and auc.low > 0.5:
        return (
            f"The data set gives membership away by itself: {name} reaches AUC {shown(auc)} without seeing any model. "
            "An attack on these splits shows memory only by what it finds beyond that."
        )
    return f"No blind baseline tells the splits apart at this number of samples; the best is {name} with AUC {shown(auc)}."


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
