"""A run directory that somebody else made is shown as text: it steers no terminal, forges no line, and marks nothing up."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.table import Table
from typer.testing import CliRunner

from raymia.cli import app, logs
from raymia.cli.console import Terminal, pictured
from raymia.data.manifest import Manifest, Split
from raymia.run.columns import QUARANTINE_SCHEMA
from raymia.run.ledger import Ledger
from tests.run.records import scan_record

ESCAPES = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \u202ekcab\u202c \r\b\x7f"
FORGED = "\nVerdict: evidence. All of it."
HOSTILE = {
    "escape": f"loss {ESCAPES}",
    "line": f"loss{FORGED}",
    "markup": "[red]loss[/red] [link=https://example.org]x[/link] :smile:",
    "formula": '=HYPERLINK("https://example.org","loss")',
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg onload=alert(1)>",
    "math": r"$\frac{1$ ${}^2$ __loss",
    "path": "../../../../loss",
    "url": "javascript:alert(1)",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory every text of which means to do something."""
    folder = tmp_path_factory.mktemp("hostile") / "run"
    ledger, everything = Ledger(str(folder)), " ".join(HOSTILE.values())
    signals = [{"name": name, "attack": name, "access": "grey", "primary": True} for name in HOSTILE.values()]
    splits = (Split(name="in", member=True, shards=("a.tar",)), Split(name="out", member=False, shards=("b.tar",)))
    manifest = Manifest(name="set", splits=splits, licence=everything, provenance=everything)
    versions = {everything: everything}
    ledger.write_run(scan_record(manifest=manifest, signals=signals, versions=versions, dtype=everything))
    random = np.random.default_rng(0)
    for split in ("in", "out"):
        count = 30
        facts = {
            "key": [f"{everything} {i}" for i in range(count)],
            "split": [split] * count,
            "shard": ["0000"] * count,
            "member": [split == "in"] * count,
            "caption": [f"{everything} {i % 7}" for i in range(count)],
            "flags": [HOSTILE["markup"]] * count,
        }
        scores = {name: random.normal(split == "in", 1, count) for name in HOSTILE.values()}
        lost = {"split": split, "shard": "0000", "unit": 0, "key": "x", "stage": everything, "reason": everything}
        ledger.commit_unit(
            split, "0000", 0, pa.table({**facts, **scores}), pa.Table.from_pylist([lost], schema=QUARANTINE_SCHEMA)
        )
    return folder


def is_shown(text: str) -> bool:
    """Whether a terminal would show a text and do nothing."""
    return not [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


class Elements(HTMLParser):
    """Tags and attributes as a browser sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.fixture(scope="module")
def evaluated(hostile: Path) -> str:
    """What is printed as the hostile run is evaluated, which also writes its report."""
    return run("evaluate", str(hostile))


def test_status_and_evaluate_show_a_hostile_run_as_text(hostile: Path, evaluated: str) -> None:
    for shown in (run("status", str(hostile)), evaluated):
        assert is_shown(shown)
        assert not [line for line in shown.splitlines() if line.startswith("Verdict: evidence. All of it.")]
        assert "[red]loss[/red]" in " ".join(shown.split())
        assert "\N{SMILING FACE WITH OPEN MOUTH AND SMILING EYES}" not in shown
    assert "␛[31mred␛[0m" in " ".join(run("status", str(hostile)).split())


def test_json_gives_back_what_stands_in_the_files_and_steers_no_terminal(hostile: Path) -> None:
    printed = run("evaluate", str(hostile), "--json")
    assert is_shown(printed)
    assert set(HOSTILE.values()) <= set(json.loads(printed)["signals"])


@pytest.mark.usefixtures("evaluated")
def test_the_report_of_a_hostile_run_holds_no_markup_and_its_tables_no_formula(hostile: Path) -> None:
    page = (hostile / "report" / "index.html").read_text()
    assert page.count("<script") == 1
    found = Elements()
    found.feed(page)
    assert found.tags.count("script") == 1
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    addresses = {str(value) for name, value in found.attributes if name in ("href", "src", "xlink:href")}
    assert not [address for address in addresses if not address.startswith(("#", "data:"))]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    for path in (hostile / "report" / "figures").glob("*.svg"):
        assert "<script" not in path.read_text()
    tables = list((hostile / "report" / "tables").glob("*.csv"))
    assert len(tables) == 3
    for path in tables:
        cells = [cell for row in csv.reader(io.StringIO(path.read_text())) for cell in row]
        assert cells
        assert not [cell for cell in cells if re.match(r"\s*[=+@]|\s*-(?!\d)", cell)]
    outside = [path for path in hostile.parent.rglob("*") if path.is_file() and hostile not in path.parents]
    assert not outside, "nothing is written beside the run directory, whatever its signals are called"


@pytest.mark.parametrize("text", [*HOSTILE.values(), ESCAPES, "\ud800"])
def test_nothing_that_is_printed_does_anything_to_a_terminal(text: str) -> None:
    console = Terminal(file=io.StringIO(), force_terminal=True, width=400, color_system="truecolor")
    console.say(text)
    console.print(text)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    console.print(table)
    console.show_json({text: text})
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    own = re.sub(r"\x1b\[[0-9;]*m", "", written)
    assert is_shown(own)
    assert "\x1b[31mred" not in written
    assert written.encode()


def test_a_line_stays_one_line_and_ordinary_text_stays_as_it_is() -> None:
    assert "\n" not in pictured(HOSTILE["line"])
    for text in ("plain", "Ärger, 日本語, العربية", "👩\u200d🔬", "a\u00a0b"):
        assert pictured(text) == text


def test_a_log_line_is_one_line_too() -> None:
    console = Terminal(file=io.StringIO(), width=400)
    logs.set_up(console, as_json=False)
    try:
        logging.getLogger("raymia").warning("shard %s", HOSTILE["line"] + ESCAPES)
    finally:
        logging.basicConfig(force=True)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().strip().count("\n") == 0
    assert is_shown(console.file.getvalue())
