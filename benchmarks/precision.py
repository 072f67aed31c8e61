"""What a dtype, rounded weights or a compiled denoiser do to the scores: every signal on the test bed, against float32.

    python benchmarks/precision.py --samples 256 --dtype bfloat16
    python benchmarks/precision.py --samples 256 --dtype float32 --weights int8 --model testbed-flow

Prints each signal's rank correlation (Spearman's) with its float32 self, its largest move in standard deviations, and the
AUC of both.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from raymia.attacks.base import ATTACKS, Access
from raymia.bench.attacks import load_samples, score_all, testbed_job
from raymia.config import Job, LpipsConfig
from raymia.scan.scorer import load_scorer
from raymia.testbed.alexnet import build_trunk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--weights", default="as_saved", help="what the denoiser's weights are kept in, such as int8")
    parser.add_argument("--model", default="testbed")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--attacks", nargs="*", help="by default all that need nothing but the replica's own noise predictions")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    whole = options.weights == "as_saved"
    grey = [name for name, kind in ATTACKS.all().items() if kind.access == Access.GREY and (whole or not kind.precise)]
    with tempfile.TemporaryDirectory() as folder:
        job = job_of(options.attacks or grey, Path(folder))
        pixels, captions, keys, member = load_samples(options.samples)
        plain = scored(job, "float32", {"model": options.model}, pixels, captions, keys)
        changed = {"model": options.model, "compile": options.compile, "weights": options.weights}
        other = scored(job, options.dtype, changed, pixels, captions, keys)
    rows = {}
    for name, scores in plain.items():
        rows[name] = {
            "rank_correlation": float(spearmanr(scores, other[name]).statistic),
            "largest_move_in_deviations": float(np.abs(other[name] - scores).max() / scores.std()),
            "auc_float32": float(roc_auc_score(member, scores)),
            "auc": float(roc_auc_score(member, other[name])),
        }
    if options.json:
        print(json.dumps({"options": vars(options), "signals": rows}, indent=2))
        return
    print(f"{options.model}, {options.samples} images, {options.dtype}, weights {options.weights}, compiled: {options.compile}")
    print(f"{'':44}{'rank':>9}{'move':>9}{'float32':>9}{'AUC':>7}")
    for name, row in rows.items():
        rank, move, before, after = row.values()
        print(f"{name:44}{rank:9.5f}{move:9.4f}{before:9.3f}{after:7.3f}")


def job_of(attacks: list[str], folder: Path) -> Job:
    job = testbed_job(attacks)
    if "lpips" not in job.needs():
        return job
    trunk = folder / "alexnet.safetensors"
    build_trunk(trunk)
    return job.model_copy(update={"lpips": LpipsConfig(trunk=str(trunk))})


def scored(
    job: Job, dtype: str, changed: dict[str, object], pixels: np.ndarray, captions: list[str], keys: list[str]
) -> dict[str, np.ndarray]:
    replica = job.model.model_copy(update=changed)
    scorer = load_scorer(job.model_copy(update={"replica": replica}), dtype, "auto", os.cpu_count())
    return score_all(scorer, pixels, captions, keys)


if __name__ == "__main__":
    main()
