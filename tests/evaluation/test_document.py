"""What docs/evaluation.md says is run, and held against the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from raymia.evaluation.baselines.base import BASELINES
from raymia.evaluation.measures.base import measures

TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()

BOTH_ADDED = """
import sys
import numpy as np, pandas as pd, pytest
import raymia, raymia.evaluation.baselines, raymia.evaluation.measures
raymia.evaluation.measures.__path__.append(sys.argv[1] + "/measures")
raymia.evaluation.baselines.__path__.append(sys.argv[1] + "/baselines")
from raymia.evaluation.bootstrap import bootstrap, resamples
from raymia.evaluation.measures.base import measures, statistics
from raymia.evaluation.roc import exact_roc
random, member = np.random.default_rng(0), np.arange(400) < 200
scores = np.round(random.normal(size=400) + member, 1)
added = measures()[-1]
draws = bootstrap({"s": scores}, member, statistics([added]), draws=20)["s"][added.name]
counts = [pair for part in resamples(200, 200, 0, 20) for pair in zip(*part)]
for draw, (members, others) in zip(draws, counts, strict=True):
    rows = np.r_[np.repeat(scores[member], members), np.repeat(scores[~member], others)]
    assert draw == pytest.approx(added.value(exact_roc(rows, member)), abs=1e-12)
captions = ["x" * length for length in random.integers(1, 9, 400) + 4 * member]
metrics = raymia.evaluate(pd.DataFrame({"member": member, "caption": captions, "loss": scores})).metrics
assert metrics.signals["loss"].measures["balanced_accuracy"].value > 0.6
assert metrics.signals["blind.caption_length"].auc.value > 0.7
"""


def test_the_worked_examples_of_a_measure_and_a_baseline_are_found_and_measured(tmp_path: Path) -> None:
    blocks = re.findall(r"`raymia/evaluation/(\w+/\w+\.py)`:\n\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert [name for name, _ in blocks] == ["measures/balanced_accuracy.py", "baselines/caption_length.py"]
    for name, code in blocks:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(code)
    done = subprocess.run([sys.executable, "-c", BOTH_ADDED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_measure_and_every_baseline_is_described() -> None:
    for name in [*(measure.name for measure in measures()), *BASELINES.names()]:
        assert f"`{name}`" in TEXT, name
