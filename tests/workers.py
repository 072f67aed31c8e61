"""A pytest plugin for `make test`, which shares the tests out to two processes: a folder's tests stay together, in their order.

Tests of a folder share what is slow to make: a Ray, a packed data set, a server. Folders that take longest are begun first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

LONGEST = ("faults", "replica", "scan", "cli", "evidence", "evaluation", "run", "curation", "outside", "engine")
"""Folders of tests, the longest first."""
ROOT = Path(__file__).parent


def folder(path: Path) -> str:
    """The folder of tests, or the file beside them, that a path is in."""
    return path.relative_to(ROOT).parts[0] if path.is_relative_to(ROOT) else ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        places = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(folder(item.path), len(LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return folder(config.rootpath / nodeid.partition("::")[0])

    config.option.loadscopereorder = False
    return ByFolder(config, log)
