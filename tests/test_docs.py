"""What the documents say is run, and held against the code."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from raymia.attacks.base import ATTACKS
from raymia.run.record import FORMAT, ScanRecord

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = {"add_an_attack.md": 1, "add_a_family.md": 2, "add_a_service.md": 4}
"""Documents with a worked example, and how many tests each example has."""
EXAMPLE = re.compile(r"^`(\S+)/(\w+\.py)`:\n\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
"""A file as a document gives it: where it goes, and what is in it."""
NAMED_FILE = re.compile(r"`((?:raymia|tests|benchmarks|jobs|cluster|data_manifests|docs)/[\w./-]*)`")
NAMED_TEST = re.compile(r"`(test_\w+)`")
RUN = """
import importlib, json, sys
import pytest
from typer.testing import CliRunner

packages, tests = json.loads(sys.argv[1]), sys.argv[2:]
for package, folder in packages.items():
    importlib.import_module(package).__path__.append(folder)
code = pytest.main([*tests, "-v", "-p", "no:cacheprovider"])
from raymia.cli import app
print("listed", json.dumps(json.loads(CliRunner().invoke(app, ["attacks", "--json"]).stdout)))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """All worked examples, their files written where the documents say, in one process."""
    root, packages, tests = tmp_path_factory.mktemp("examples"), {}, []
    for document in EXAMPLES:
        for folder, name, content in EXAMPLE.findall((DOCS / document).read_text()):
            file = root / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
            if folder.startswith("tests/"):
                tests.append(str(file))
            else:
                packages[folder.replace("/", ".")] = str(file.parent)
    command = [sys.executable, "-c", RUN, json.dumps(packages), *tests]
    return subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("document", EXAMPLES)
def test_a_worked_example_is_found_and_passes_its_own_tests(document: str, ran: subprocess.CompletedProcess[str]) -> None:
    files = EXAMPLE.findall((DOCS / document).read_text())
    assert len(files) == len(re.findall("^```python$", (DOCS / document).read_text(), re.MULTILINE)) == 2
    test = next(name for folder, name, _ in files if folder.startswith("tests/"))
    passed = re.findall(rf"{test}::\w+ PASSED", ran.stdout)
    assert len(passed) == EXAMPLES[document], ran.stdout + ran.stderr
    assert ran.returncode == 0, ran.stdout


def test_the_worked_example_of_an_attack_is_listed(ran: subprocess.CompletedProcess[str]) -> None:
    (line,) = re.findall(r"^listed (.*)$", ran.stdout, re.MULTILINE)
    listed = {entry["attack"]: entry for entry in json.loads(line)}
    assert listed["agreement"]["cost"]["forwards"] == 4
    assert set(listed) == {*ATTACKS.all(), "agreement"}


def test_every_attack_is_described() -> None:
    text = (DOCS / "attacks.md").read_text()
    found = re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    sections = {name: " ".join(section.split()) for name, section in found}
    assert set(sections) == set(ATTACKS.all())
    for name, kind in ATTACKS.all().items():
        assert f"<!-- facts:{name} -->" in sections[name], f"{name}: put the markers of its facts below the heading"
        number = re.search(r"arXiv (\d{4}\.\d{5})", kind.reference)
        assert number is None or number[1] in sections[name], name
        for field in kind.model_fields:
            assert f"`{field}`" in sections[name], f"{name}.{field}"


def test_what_the_documents_state_of_the_attacks_is_what_the_code_says() -> None:
    facts: dict[str, Any] = runpy.run_path(str(DOCS / "facts.py"))
    text = (DOCS / "attacks.md").read_text()
    assert facts["with_facts"](text) == text, "docs/attacks.md has other facts than the code; run: python docs/facts.py"


def test_a_document_that_states_other_facts_is_mended_and_an_unknown_attack_refused() -> None:
    facts: dict[str, Any] = runpy.run_path(str(DOCS / "facts.py"))
    text = (DOCS / "attacks.md").read_text()
    assert facts["with_facts"](text.replace("25 forwards", "24 forwards")) == text
    with pytest.raises(SystemExit, match="facts:los: no such attack; did you mean `loss`"):
        facts["with_facts"]("<!-- facts:los -->\n<!-- /facts -->\n")


def test_files_and_tests_that_the_documents_name_are_there() -> None:
    root, defined = DOCS.parent, "\n".join(file.read_text() for file in Path(__file__).parent.rglob("test_*.py"))
    for document in sorted(DOCS.glob("*.md")):
        text = document.read_text()
        examples = {f"{folder}/{name}" for folder, name, _ in EXAMPLE.findall(text)}
        lost = [name for name in NAMED_FILE.findall(text) if name not in examples and not (root / name).exists()]
        lost += [name for name in NAMED_TEST.findall(text) if f"def {name}(" not in defined]
        assert not lost, f"{document.name} names what is not there: {', '.join(lost)}"


def test_every_room_of_the_package_has_its_line_in_the_architecture() -> None:
    text, package = (DOCS / "architecture.md").read_text(), DOCS.parent / "raymia"
    listed = re.findall(r"^\| `raymia/(\w+)/` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(folder.parent.name for folder in package.glob("*/__init__.py"))
    assert {"errors.py", "registry.py", "shipped.py", "config.py"} <= set(re.findall(r"`raymia/(\w+\.py)`", text))


def test_the_architecture_names_every_field_of_a_scans_record() -> None:
    text = (DOCS / "architecture.md").read_text()
    table = text[text.index("`run.json` has") : text.index("What is known of a sample is one list")]
    cells = re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted({*ScanRecord.model_fields} - {"format"})
    assert f"`format: {FORMAT}`" in table


def test_one_version_is_said_everywhere() -> None:
    root = DOCS.parent
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+) \((\S+)\)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert (cited["version"], cited["date-released"]) == newest.groups()
    assert newest[1] == version
