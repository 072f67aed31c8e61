"""A pytest plugin: no test is skipped silently.

The last line of a session says what was not tried and why. Where RAYMIA_NOTHING_SKIPPED is 1, as in `.ci/run`, a session that
skipped anything fails and names it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator

import pytest

VARIABLE = "RAYMIA_NOTHING_SKIPPED"
MENDABLE = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
"""How a session ends that has nothing worse to say."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Pytest prints its closing line in a wrapper of this hook, so that what the outermost wrapper prints stands below it."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not (skipped := reporter.stats.get("skipped")):
        return
    if os.environ.get(VARIABLE) == "1":
        if session.exitstatus in MENDABLE:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"{VARIABLE}=1, but these were skipped:", red=True)
        for report in skipped:
            reporter.write_line(f"    {report.nodeid}")
    say_what_was_not_tried(reporter, skipped)


def say_what_was_not_tried(reporter: pytest.TerminalReporter, skipped: list[pytest.TestReport | pytest.CollectReport]) -> None:
    groups = Counter((report.nodeid.partition("::")[0], reason(report), report.when == "collect") for report in skipped)
    parts = [
        f"{'all' if whole else count} {'test' if count == 1 and not whole else 'tests'} of {file}: {why}"
        for (file, why, whole), count in groups.items()
    ]
    reporter.write_line(f"not tried: {'; '.join(parts)}", yellow=True)


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """What the test said, on one line."""
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(said.removeprefix("Skipped: ").split())
