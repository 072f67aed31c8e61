from __future__ import annotations

import json
import logging

from raymia.cli.logs import JsonFormatter, WithoutSecrets


def test_a_json_line_names_run_shard_and_unit_and_stays_one_line() -> None:
    record = logging.LogRecord("raymia.scan", logging.INFO, "f.py", 1, "unit %s\ncommitted", ("7",), None)
    record.__dict__ |= {"run": "r", "split": "in", "shard": "s", "unit": 7, "samples": 3, "quarantined": 1, "other": 2}
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "unit 7\ncommitted"
    assert {name: line[name] for name in ("run", "split", "shard", "unit")} == {
        "run": "r",
        "split": "in",
        "shard": "s",
        "unit": 7,
    }
    assert line["level"] == "info"
    assert "other" not in line


def test_an_error_is_in_the_line_with_its_trace() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        record = logging.LogRecord("raymia", logging.ERROR, "f.py", 1, "failed", (), (type(error), error, error.__traceback__))
    assert "ValueError: broken" in json.loads(JsonFormatter().format(record))["error"]


def test_what_any_library_logs_has_lost_its_secrets() -> None:
    try:
        raise ValueError("https://user:hunter2@host/x?sig=hunter2 broke")
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
    record = logging.LogRecord("aiohttp", logging.ERROR, "f.py", 1, "at %s", ("https://host/x?sig=hunter2",), trace)
    assert WithoutSecrets().filter(record)
    for formatter in (JsonFormatter(), logging.Formatter("%(message)s")):
        text = formatter.format(record)
        assert "https://host/x" in text
        assert "broke" in text
        assert "hunter2" not in text
