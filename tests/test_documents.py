"""Whatever a YAML or JSON text holds, it is read as it stands, or refused in one line with the place."""

from __future__ import annotations

import codecs
import time
from pathlib import Path

import pytest
import yaml

from raymia import documents
from raymia.documents import MAX_DEPTH, DocumentError, parse_json, parse_yaml, read_document, write_yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(params=["libyaml", "pure"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers of PyYAML: which of them there is must not decide what a job means."""
    if request.param == "pure":
        monkeypatch.setattr(documents, "_PARSER", yaml.SafeLoader)


def refused(text: str | bytes, read: object = parse_yaml) -> str:
    """What is said of a text that is not read; in one line, and at once."""
    start = time.monotonic()
    with pytest.raises(DocumentError) as caught:
        read(text)  # type: ignore[operator]
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return str(caught.value)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("attacks: {loss: {}}\nseed: 0\nattacks: {pia: {}}", "line 3, column 1: the key `attacks` stands in line 1 already"),
        ("pool:\n  replicas: 1\n  replicas: 2", "line 3, column 3: the key `replicas` stands in line 2 already"),
        ('{seed: 1, "seed": 2}', "line 1, column 11: the key `seed`"),
        ("sweep:\n- {a: 1, 'a': 1}", "line 2, column 10: the key `a`"),
        ("a: &k key\nkey: 1\n*k : 2", "line 3, column 1: the key `key` stands in line 2 already"),
    ],
)
def test_a_repeated_key_is_refused_with_both_lines(text: str, place: str) -> None:
    assert place in refused(text)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("scalar", "advice"),
    [
        ("010", "write 10 for the number"),
        ("08", "write 8 for the number"),
        ("-007", "write -7 for the number"),
        ("1:30", "plain decimal number"),
        ("12:30:45.5", "plain decimal number"),
        ("yes", "write true"),
        ("No", "write false"),
        ("on", "write true"),
        ("OFF", "write false"),
        ("y", "write true"),
        ("1_000", "plain decimal number"),
        ("0o10", "plain decimal number"),
        ("0b11", "plain decimal number"),
        ("-0x1F", "plain decimal number"),
        ("1e3", "write 1000.0 for the number"),
        ("1e-5", "write 1.0e-05 for the number"),
        (".5e3", "write 500.0 for the number"),
        ("+.5", "write 0.5 for the number"),
        ("1e5000", "plain decimal number"),
        ("2001-01-01", "a date in YAML 1.1"),
        ("2001-01-01 10:00:00", "a date in YAML 1.1"),
        ("=", "quotes"),
    ],
)
def test_what_yaml_1_1_and_1_2_read_differently_is_refused_with_what_to_write(scalar: str, advice: str) -> None:
    said = refused(f"seed: {scalar}")
    assert said.startswith(f"line 1, column 7: `{scalar}` is ")
    assert advice in said
    assert f'"{scalar}" in quotes for text' in said
    assert parse_yaml(f'seed: "{scalar}"') == {"seed": scalar}
    refused(f"[1, {scalar}, 2]")
    refused(f"{scalar}: 1")
    if "for the number" in said:
        number = said.partition("write ")[2].split()[0]
        assert isinstance(parse_yaml(f"seed: {number}")["seed"], int | float)


@pytest.mark.usefixtures("parser")
def test_what_both_versions_agree_on_is_read() -> None:
    text = "{a: 12, b: -3, c: +4, d: 0.5, e: .5, f: 1.0e+3, g: 0x1F, h: ~, i: null, j: , k: TRUE, l: false}"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("[a b, 1.2.3, s3://b/c]") == ["a b", "1.2.3", "s3://b/c"]
    assert parse_yaml("a: 0362e8620c7f\nb: 00ff\n") == {"a": "0362e8620c7f", "b": "00ff"}
    assert parse_yaml("a: |\n  010\n  yes\nb: >-\n  2001-01-01\n") == {"a": "010\nyes\n", "b": "2001-01-01"}
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    "path", [*(ROOT / "jobs").glob("*.yaml"), *(ROOT / "data_manifests").glob("*.yaml")], ids=lambda p: p.name
)
def test_the_shipped_documents_hold_no_surprise(path: Path) -> None:
    assert parse_yaml(read_document(path)) == yaml.safe_load(path.read_text())


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (".nan", "no number to reckon with"),
        ("-.inf", "no number to reckon with"),
        ("1.0e+999", "no number to reckon with"),
        ("9" * 5000, "5000 digits"),
        ("1: x", "the key `1` is no text"),
        ("null: x", "the key `null` is no text"),
        ("true: x", "the key `true` is no text"),
        ("? [a]\n: x", "keys are text"),
        ("base: &b {c: 1}\na: {<<: *b}", "line 2, column 5: `<<` is a merge"),
        ("!!python/object/apply:os.system [ls]", "reads no tags"),
        ("a: !!str 010", "reads no tags"),
        ("a: !!set {b}", "reads no tags"),
        ("&a [*a]", "stands within what it stands for"),
        ("[*gone]", "stands for nothing"),
        ("a: 1\n---\na: 2", "line 2, column 1: a second document"),
        ('a: "\\ud800"', "line 1"),
        ('a: "\\UFFFFFFFF"', "not YAML"),
        ("a: 1\nb: x\0", "line 2, column 5: the control character '\\x00'"),
        ("a: \x1b[31m", "line 1, column 4: the control character '\\x1b'"),
        ("a:\n\tb: 1", "line 2, column 1"),
        ('a: "open', "line 1"),
        ("a: [1", "not YAML: line"),
        ("%YAML 3.0\n---\na: 1", "line 1"),
    ],
)
def test_what_no_config_means_is_refused_with_its_place(text: str, said: str) -> None:
    assert said in refused(text)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    "text",
    [
        "[" * 3000 + "]" * 3000,
        "{a: " * 3000 + "}" * 3000,
        "- " * 3000 + "x",
        "\n".join(" " * i + "a:" for i in range(3000)),
        "[a," * 100_000,
        bomb(9),
        bomb(40),
        "? " * 50_000,
        "&a " * 50_000,
    ],
    ids=["lists", "maps", "dashes", "indented", "unclosed", "laughs", "more laughs", "keys", "anchors"],
)
def test_a_document_that_would_take_stack_or_memory_is_refused_at_once(text: str) -> None:
    refused(text)


def test_a_document_may_be_as_deep_as_the_limit_and_repeat_what_it_names() -> None:
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    content = parse_yaml("a: &x {draws: 1}\nb: *x")
    content["b"]["draws"] = 2
    assert content["a"] == {"draws": 1}, "an alias is a copy: a change to one place changes one place"


def test_a_document_of_too_many_bytes_or_values_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", 2**20)
    monkeypatch.setattr(documents, "MAX_NODES", 100)
    assert "more than 100 values" in refused("- a\n" * 101)
    with Path("/dev/zero").open("rb") as endless, pytest.raises(DocumentError, match="larger than 1 MiB"):
        read_document(Path(endless.name))
    for read in (parse_yaml, parse_json):
        assert "larger than 1 MiB" in refused(b" " * (2**20 + 1), read)


@pytest.mark.parametrize("read", [parse_yaml, parse_json])
def test_byte_order_marks_and_utf_16_are_read_and_other_bytes_refused_with_their_line(read: object) -> None:
    text = '{"caption": "é", "n": 1}'
    encoded = [
        text,
        "\ufeff" + text,
        text.encode(),
        codecs.BOM_UTF8 + text.encode(),
        text.encode("utf-16"),
        text.encode("utf-32"),
    ]
    for content in (*encoded, codecs.BOM_UTF16_BE + text.encode("utf-16-be")):
        assert read(content) == {"caption": "é", "n": 1}  # type: ignore[operator]
    assert refused(b"{\n" + text[1:].encode("latin-1"), read).startswith("line 2: not UTF-8; save the file as UTF-8")
    assert "not UTF-16" in refused(text.encode("utf-16")[:-1], read)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key `c` stands twice"),
        ('{"a": 1, "\\u0061": 2}', "the key `a` stands twice"),
        ('{"a": NaN}', "nan is no number"),
        ("[-Infinity]", "-inf is no number"),
        ("[1e999]", "inf is no number"),
        ("9" * 5000, "not JSON"),
        ('{"\\ud800": 1}', "half a surrogate"),
        ('[["\\udfff"]]', "half a surrogate"),
        ("[" * 3000 + "]" * 3000, ""),
        ('{"a":' * 100 + "1" + "}" * 100, "nested deeper than 64"),
        ("[" * 1_000_000, "not JSON"),
        ("{", "line 1 column 2"),
        ("\0", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_what_no_json_config_means_is_refused(text: str, said: str) -> None:
    assert said in refused(text, parse_json)


def test_what_stands_beside_a_sample_may_hold_what_pythons_writer_puts_there() -> None:
    content = parse_json('{"caption": "a", "similarity": NaN, "caption": "b"}', strict=False)
    assert content["caption"] == "b"
    with pytest.raises(DocumentError):
        parse_json("[" * 1_000_000, strict=False)


@pytest.mark.parametrize(
    "text", ["08", "1e5", "yes", "1_0", "", "~", "2001-01-01", "<<", "=", "x: y", "#a", "1", "é", "a\nb", " a", "\x1b"]
)
def test_what_is_written_is_read_back_whatever_its_text_looks_like(text: str) -> None:
    content = {text: [text, {"number": 1, "x": 0.25, "none": None, "yes": True}]}
    assert parse_yaml(write_yaml(content)) == content
