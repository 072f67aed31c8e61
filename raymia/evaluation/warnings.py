"""What a reader of the metrics must be told beside them."""

from __future__ import annotations

import pandas as pd

from raymia.evaluation.baselines.base import baselines
from raymia.evaluation.controls import ControlComparison, LabelShuffle
from raymia.evaluation.labelled import LabelledSamples
from raymia.evaluation.roc import FPRS
from raymia.run.record import Counts, RunRecord, ScanRecord

MIN_FALSE_ALARMS = 10
"""Fewer non-members than this beyond a threshold make its TPR a matter of luck."""


def label_warnings(labelled: LabelledSamples, unlabelled: int) -> list[str]:
    """Of too few non-members for some FPR, and of samples whose membership is unknown."""
    warnings = []
    others = labelled.n_non_members
    few = [f"{rate:g}" for rate in FPRS if others * rate < MIN_FALSE_ALARMS]
    if few and others:
        warnings.append(
            f"TPR at FPR {', '.join(few)} rests on fewer than {MIN_FALSE_ALARMS} false alarms among {others} non-members: "
            "read it with its interval."
        )
    if unlabelled:
        warnings.append(f"{unlabelled} samples have unknown membership and take no part in the curves.")
    return warnings


def baseline_warnings(rows: pd.DataFrame) -> list[str]:
    """Of blind baselines that are left out because a column that they read is empty in some rows and not in others."""
    warnings = []
    for baseline in baselines():
        if baseline.usable(rows):
            continue
        for column in baseline.columns:
            empty = int(rows[column].isna().sum()) if column in rows else 0
            if 0 < empty < len(rows):
                warnings.append(f"blind.{baseline.name} is left out: {column} is empty for {empty} samples.")
                break
    return warnings


def shuffle_warnings(shuffle: LabelShuffle | None) -> list[str]:
    """Of scores that beat chance under labels that mean nothing."""
    if shuffle is None or not shuffle.alarmed:
        return []
    return [
        f"With labels shuffled at random, {', '.join(shuffle.alarmed)} still beat chance: samples depend "
        "on each other, such as near-duplicates that the manifest names no clusters for."
    ]


def control_warnings(control: ControlComparison) -> list[str]:
    """Of samples that the control model has no scores for."""
    if not control.unmatched:
        return []
    return [f"The control model has no scores for {control.unmatched} samples; it is compared on the others."]


def scan_warnings(counts: Counts, run: RunRecord) -> list[str]:
    """Of scans that did not finish, missed samples, or were made with labels or captions that are not the images' own."""
    warnings = []
    if run.finished is None:
        warnings.append("The scan has not finished: these are the units committed so far.")
    if counts.expected is not None and run.finished is not None and counts.read < counts.expected:
        warnings.append(f"{counts.read} samples were read where the manifest announces {counts.expected}.")
    if not isinstance(run, ScanRecord):
        return warnings
    if not run.labels_hold:
        patterns, model = ", ".join(run.manifest.valid_for_models), run.job.subject
        warnings.append(f"The labels were made for {patterns}, not for {model}: what is told apart here are no known members.")
    source = run.job.caption_source
    if source != "own":
        warnings.append(f"A control scan: the model was told {source} captions, not the images' own.")
    return warnings
