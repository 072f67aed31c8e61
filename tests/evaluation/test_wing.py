"""Reading a run needs nothing of what makes one."""

from __future__ import annotations

import subprocess
import sys

READING = """
import sys
MAKING = ("torch", "torchvision", "ray", "diffusers", "transformers", "faiss", "raymia.attacks", "raymia.replica",
          "raymia.scan", "raymia.config", "raymia.engine", "raymia.trial", "raymia.curation", "raymia.services")
class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(name == making or name.startswith(making + ".") for making in MAKING):
            raise ImportError(f"{name} is of the making wing")
sys.meta_path.insert(0, Absent())
import importlib, pkgutil
import raymia.evaluation, raymia.report
for package in (raymia.evaluation, raymia.report):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
import raymia.cli.printing, pandas
from raymia.report.page import render
from raymia.report.plots import run_figures
table = pandas.DataFrame({"member": [True, False] * 20, "caption": ["a", "b", "c", "d"] * 10, "loss": range(40)})
evaluation = raymia.evaluate(table)
render(evaluation, run_figures(evaluation))
print(sorted(set(MAKING) & set(sys.modules)))
"""


def test_every_module_of_evaluation_and_report_works_where_nothing_of_the_making_wing_can_be_imported() -> None:
    done = subprocess.run([sys.executable, "-c", READING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
