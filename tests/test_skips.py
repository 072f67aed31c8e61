"""What was not tried is said last, and is a failure where it must not be."""

from __future__ import annotations

import re

import pytest

from tests.skips import VARIABLE

pytest_plugins = ["pytester"]

SOME_SKIPPED = """
import pytest

@pytest.fixture
def browser():
    pytest.skip("no browser\\n(install one)")

def test_tried():
    pass

def test_opened(browser):
    pass

@pytest.mark.parametrize("width", [390, 1200])
def test_fits(browser, width):
    pass

@pytest.mark.skip(reason="it rains")
def test_outside():
    pass
"""
WHOLE_FILE_SKIPPED = """
import pytest

pytest.importorskip("no_such_package")

def test_package():
    pass
"""


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def run(pytester: pytest.Pytester, **files: str) -> pytest.RunResult:
    pytester.makepyfile(**files)
    return pytester.runpytest("-p", "tests.skips", "-p", "no:cacheprovider", "-q")


def test_the_last_line_says_what_was_not_tried_and_pytests_own_stands_above_it(pytester: pytest.Pytester) -> None:
    done = run(pytester, test_a=SOME_SKIPPED, test_b=WHOLE_FILE_SKIPPED)
    assert done.ret == pytest.ExitCode.OK
    assert re.fullmatch(r"1 passed, 5 skipped in [\d.]+s", done.outlines[-2])
    assert done.outlines[-1] == (
        "not tried: all tests of test_b.py: could not import 'no_such_package': No module named 'no_such_package'; "
        "3 tests of test_a.py: no browser (install one); 1 test of test_a.py: it rains"
    )


def test_nothing_is_said_where_nothing_was_skipped(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    done = run(pytester, test_a="def test_tried(): pass")
    assert done.ret == pytest.ExitCode.OK
    assert re.fullmatch(r"1 passed in [\d.]+s", done.outlines[-1])


def test_a_session_in_which_nothing_may_be_skipped_fails_and_names_what_was(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    done = run(pytester, test_a=SOME_SKIPPED)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    named = [
        "test_a.py::test_opened",
        "test_a.py::test_fits[390]",
        "test_a.py::test_fits[1200]",
        "test_a.py::test_outside",
    ]
    assert re.fullmatch(r"1 passed, 4 skipped in [\d.]+s", done.outlines[-len(named) - 3])
    assert done.outlines[-len(named) - 1 : -1] == [f"    {name}" for name in named]
    assert done.outlines[-1].startswith("not tried: 3 tests of test_a.py: no browser")


def test_a_session_of_nothing_but_skipped_files_fails_too(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    done = run(pytester, test_b=WHOLE_FILE_SKIPPED)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert "    test_b.py" in done.outlines


def test_a_failure_stays_a_failure(pytester: pytest.Pytester) -> None:
    done = run(pytester, test_a=SOME_SKIPPED + "\ndef test_wrong():\n    raise AssertionError\n")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert done.outlines[-1].startswith("not tried: 3 tests")
