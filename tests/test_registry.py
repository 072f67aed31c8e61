"""What can be added is found by its file's name or its entry point, and nothing is dropped in silence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from raymia.attacks.base import ATTACKS
from raymia.attacks.loss import Loss
from raymia.errors import ConfigError
from raymia.registry import Registry
from raymia.replica.families import FAMILIES
from raymia.services.protocol import SERVICES
from raymia.shipped import NAMED

HERE = "from tests.test_registry import Fruit\n"
APPLE = """
class Apple(Fruit):
    name = "apple"
    def taste(self): return "sweet"
"""


class Fruit(ABC):
    name: ClassVar[str]

    @abstractmethod
    def taste(self) -> str: ...


Orchard = Callable[..., Registry[Fruit]]


@pytest.fixture
def orchard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Orchard:
    """A registry over a package of the given files, beside an installed one with the given entry points."""
    package = f"orchard_{tmp_path.name.replace('-', '_')}"

    def plant(files: dict[str, str], points: dict[str, str] | None = None) -> Registry[Fruit]:
        (tmp_path / package).mkdir()
        for name, text in {"__init__": "", **files}.items():
            (tmp_path / package / f"{name}.py").write_text(HERE + text)
        about = tmp_path / "neighbour-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: neighbour\nVersion: 1.0\n")
        lines = [f"{name} = {target}" for name, target in (points or {}).items()]
        (about / "entry_points.txt").write_text("\n".join(["[raymia.test_fruits]", *lines, ""]))
        monkeypatch.syspath_prepend(tmp_path)
        return Registry("fruit", "raymia.test_fruits", Fruit, package, beside=("base",))  # type: ignore[type-abstract]

    return plant


def test_listing_imports_no_entry() -> None:
    code = """
import json, sys
from raymia.attacks.base import ATTACKS
from raymia.replica.families import FAMILIES
from raymia.services.protocol import SERVICES
from raymia.shipped import NAMED
listed = {"raymia.attacks": ATTACKS.names(), "raymia.replica": FAMILIES.names()}
NAMED.names(), SERVICES.names()
imported = [f"{room}.{name}" for room, names in listed.items() for name in names if f"{room}.{name}" in sys.modules]
print(json.dumps({"listed": listed, "imported": imported, "testbed": "raymia.testbed" in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert {"gradient", "loss"} <= set(found["listed"]["raymia.attacks"])
    assert {"sdxl", "stable_diffusion"} <= set(found["listed"]["raymia.replica"])
    assert (found["imported"], found["testbed"]) == ([], False)


def test_one_entry_is_imported_without_the_others(orchard: Orchard) -> None:
    fruits = orchard({"apple": APPLE, "rotten": "raise RuntimeError('was imported')"})
    assert fruits.names() == ["apple", "rotten"]
    assert fruits.get("apple")().taste() == "sweet"
    assert fruits.get("apple") is fruits.get("apple")


def test_what_stands_beside_the_entries_is_none(orchard: Orchard) -> None:
    assert orchard({"apple": APPLE, "base": "", "_own": ""}).names() == ["apple"]


@pytest.mark.parametrize(
    ("registry", "asked", "nearest", "what"),
    [
        (ATTACKS, "los", "loss", "attack"),
        (FAMILIES, "sdxxl", "sdxl", "family"),
        (SERVICES, "locale", "local", "service"),
        (NAMED, "test-bed", "testbed", "named model"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known(
    registry: Registry[object], asked: str, nearest: str, what: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{asked}: no such {what}; did you mean `{nearest}`"):
        registry.get(asked)


def test_every_entry_that_ships_loads() -> None:
    for registry in (ATTACKS, FAMILIES, SERVICES, NAMED):
        assert list(registry.all()) == registry.names()


def test_an_entry_point_joins_and_one_of_a_name_that_is_taken_is_refused_with_both_origins(orchard: Orchard) -> None:
    fruits = orchard({"apple": APPLE}, {"pear": "neighbour.pear:Pear"})
    assert fruits.names() == ["apple", "pear"]
    taken = Registry("fruit", fruits.group, Fruit, given={"pear": "elsewhere:Pear"})  # type: ignore[type-abstract]
    with pytest.raises(ConfigError) as refused:
        taken.names()
    assert "two entries are fruit 'pear': neighbour: neighbour.pear:Pear and raymia: elsewhere:Pear" in str(refused.value)
    assert "rename or uninstall" in str(refused.value)


def test_an_entry_point_of_a_shipped_files_name_is_refused_with_both_origins(orchard: Orchard) -> None:
    with pytest.raises(ConfigError, match=r"fruit 'apple': neighbour: neighbour\.apple:Apple and orchard_\w+\.apple;"):
        orchard({"apple": APPLE}, {"apple": "neighbour.apple:Apple"}).get("apple")


def test_an_entry_point_that_cannot_be_imported_is_refused_by_its_package(orchard: Orchard) -> None:
    fruits = orchard({}, {"pear": "no_such_module:Pear", "quince": "json:Quince"})
    with pytest.raises(
        ConfigError, match=r"fruit 'pear' of neighbour: no_such_module:Pear cannot be imported: ModuleNotFoundError: No module"
    ):
        fruits.get("pear")
    with pytest.raises(ConfigError, match=r"fruit 'quince' of neighbour: json:Quince cannot be imported"):
        fruits.get("quince")


FAULTY = {
    "another name": (APPLE.replace('"apple"', '"pear"'), "Apple says that its name is 'pear'; both must be the same"),
    "no name": (APPLE.replace('name = "apple"', ""), "Apple has no `name`; both must be the same"),
    "two classes": (
        APPLE + APPLE.replace("Apple", "Crab"),
        "expected one fruit, a class that extends Fruit; found Apple, Crab",
    ),
    "none": ("", "expected one fruit, a class that extends Fruit; found none"),
    "abstract": (
        'class Apple(Fruit):\n    name = "apple"',
        "expected one fruit, a class that extends Fruit; found none; Apple lacks taste",
    ),
    "of another kind": ("class Apple: ...", "expected one fruit, a class that extends Fruit; found none"),
    "broken": ("import no_such_module", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
    "unreadable": ("def", "cannot be imported: SyntaxError: invalid syntax (apple.py, line 2)"),
    "raising": ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_file_is_refused_by_name(orchard: Orchard, fault: str) -> None:
    text, said = FAULTY[fault]
    with pytest.raises(ConfigError, match=f"{re.escape(said)}$") as refused:
        orchard({"apple": text}).get("apple")
    assert re.search(r"orchard_\w+\.apple", str(refused.value))


def test_an_entry_point_that_names_no_such_class_is_refused(orchard: Orchard) -> None:
    fruits = orchard({"apple": FAULTY["abstract"][0]}, {"pear": "json:JSONDecoder", "quince": "tests.test_registry:Fruit"})
    with pytest.raises(ConfigError, match=r"expected a class that extends tests\.test_registry\.Fruit; found .*JSONDecoder"):
        fruits.get("pear")
    with pytest.raises(ConfigError, match=r"that extends tests\.test_registry\.Fruit; found .*, which lacks taste"):
        fruits.get("quince")


def test_a_subclass_of_a_shipped_attack_in_a_file_of_its_own_is_found_under_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short_loss.py").write_text(
        "from raymia.attacks.loss import Loss\nclass ShortLoss(Loss):\n    name = 'short_loss'\n    draws: int = 1\n"
    )
    monkeypatch.setattr("raymia.attacks.__path__", [*sys.modules["raymia.attacks"].__path__, str(tmp_path)])
    fresh = Registry("attack", ATTACKS.group, ATTACKS._kind, "raymia.attacks", beside=("base",))
    assert issubclass(fresh.get("short_loss"), Loss)
    assert fresh.get("loss") is Loss
    monkeypatch.delitem(sys.modules, "raymia.attacks.short_loss")
