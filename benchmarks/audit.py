"""What an audit finds of works that were trained on and of works that were not, over random sets of one labelled scan.

    python benchmarks/audit.py --manifest testbed --model testbed --out FOLDER [--works 60] [--draws 50]
    python benchmarks/audit.py --manifest testbed-lora --model testbed --adapter testbed-lora --reference base --out FOLDER

All samples of the manifest are scanned once, with the attacks that `raymia audit` chooses. Each draw then takes works and as
many control images at random, without a sample in common, and tests them as the audit does. Of works that were not trained on p
is uniform: beside the shares stands the p of a Kolmogorov-Smirnov test of that.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.stats import kstest

from raymia.engine.start import on_ray
from raymia.evaluation.set_level import set_test
from raymia.evaluation.signals import signals_of
from raymia.evidence.asking import RUN, Asked, job_of
from raymia.run.ledger import Ledger
from raymia.run.record import Access
from raymia.scan.pipeline import run_scan


def p_values(works: np.ndarray, control: np.ndarray, primary: np.ndarray, size: int, draws: int) -> np.ndarray:
    """p of so many audits of `size` works.

    Args:
        works: (n, signals) scores that works are drawn from; the same array as `control` for works that were not trained on.
        control: (n, signals) scores that control images are drawn from.
        primary: (signals,) which signals the mean is of.
    """
    found = []
    for number in range(draws):
        random = np.random.default_rng(number)
        if works is control:
            drawn = random.permutation(len(control))[: 2 * size]
            ours, theirs = works[drawn[:size]], control[drawn[size:]]
        else:
            ours, theirs = (rows[random.permutation(len(rows))[:size]] for rows in (works, control))
        found.append(set_test(ours, theirs, primary, seed=number).p)
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", action="append", default=[])
    parser.add_argument("--reference")
    parser.add_argument("--set", action="append", default=[], help="FIELD=VALUE of the job")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--works", type=int, default=60)
    parser.add_argument("--draws", type=int, default=50)
    given = parser.parse_args()
    asked = Asked(given.model, tuple(given.adapter), given.reference, changes=tuple(given.set))
    job, _ = job_of(asked, given.manifest, f"{given.out}/{RUN}")
    with on_ray("audit"):
        run_scan(job, Console())
    ledger = Ledger(job.run)
    table, record = ledger.frame(), ledger.require_scan()
    described = [signal for signal in record.signals if signal.name in signals_of(Access.WHITE, record.signals)]
    names, primary = [signal.name for signal in described], np.array([signal.primary for signal in described])
    print(f"{given.manifest}, {given.model}: {', '.join(signal.name for signal in described if signal.primary)}")
    member = table["member"].eq(True).to_numpy()
    members, others = (table.loc[chosen, names].to_numpy(float) for chosen in (member, ~member))
    for what, works in ((f"of {len(members)} members", members), (f"of {len(others)} non-members", others)):
        p = p_values(works, others, primary, given.works, given.draws)
        below = ", ".join(f"below {level:g}: {int((p < level).sum())}" for level in (0.001, 0.05, 0.5))
        print(f"{given.works} {what} against {given.works} others, {given.draws} draws: {below}; largest p {p.max():.2g}")
        if works is others:
            print(f"  uniform? Kolmogorov-Smirnov p {kstest(p, 'uniform').pvalue:.2g}")


if __name__ == "__main__":
    main()
