"""What the documents say is run, and held against the code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from raymia.attacks.base import ATTACKS, Attack

DOCS = Path(__file__).parents[1] / "docs"


def test_the_worked_example_of_an_attack_is_found_and_passes_its_own_test(tmp_path: Path) -> None:
    text = (DOCS / "add_an_attack.md").read_text()
    attack, test = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "agreement.py").write_text(attack)
    (tmp_path / "test_agreement.py").write_text(test)
    beside = f"import sys, raymia.attacks; raymia.attacks.__path__.append({str(tmp_path)!r}); "
    run = "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", beside + run, str(tmp_path / "test_agreement.py"), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    listing = "from raymia.cli import main; sys.argv[1:] = ['attacks', '--json']; main()"
    done = subprocess.run([sys.executable, "-c", beside + listing], capture_output=True, text=True, check=False)
    listed = {entry["attack"]: entry for entry in json.loads(done.stdout)}
    assert listed["agreement"]["cost"]["forwards"] == 4
    assert set(listed) == {*ATTACKS.all(), "agreement"}


def test_every_attack_is_described_with_its_access_and_cost() -> None:
    text = (DOCS / "attacks.md").read_text()
    found = re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    sections = {name: " ".join(section.split()) for name, section in found}
    assert set(sections) == set(ATTACKS.all())
    for name, kind in ATTACKS.all().items():
        assert f"Access: {kind.access}. Cost: {describe_cost(kind())}." in sections[name], name
        number = re.search(r"arXiv (\d{4}\.\d{5})", kind.reference)
        assert number is None or number[1] in sections[name], name
        for field in kind.model_fields:
            assert f"`{field}`" in sections[name], f"{name}.{field}"


def describe_cost(attack: Attack) -> str:
    cost = attack.cost()
    words = {
        "UNet forward": cost.forwards,
        "UNet backward": cost.backwards,
        "encode": cost.encodes,
        "decode": cost.decodes,
        "query": cost.queries,
    }
    plural = {"query": "queries"}
    counted = [f"{n} {word if n == 1 else plural.get(word, word + 's')}" for word, n in words.items() if n]
    return ", ".join(counted) or "none"
