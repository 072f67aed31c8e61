"""One way to find what can be added: attacks, families, services, blind baselines, measures, and named models.

What ships with the package is one file each: the file's name is the entry's name, so that listing imports nothing. Other
packages join through entry points of the registry's group. A name that stands twice is an error, and so is a file whose class
has another name than the file: nothing is dropped in silence.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from raymia.errors import ConfigError, suggest

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where an entry comes from.

    Attributes:
        target: ``module``, whose one class it is, or ``module:attribute``.
        origin: the file or package, for errors.
    """

    target: str
    origin: str


class Registry(Generic[T]):
    """Entries by name, found when they are asked for and imported one at a time.

    Attributes:
        what: an entry is, such as ``attack``.
        group: of entry points, by which other packages join.
    """

    def __init__(
        self,
        what: str,
        group: str,
        kind: type[T],
        package: str | None = None,
        beside: Sequence[str] = (),
        given: Mapping[str, str] | None = None,
    ) -> None:
        """Describe a registry; nothing is looked for yet.

        Args:
            what: names an entry in errors.
            group: of entry points.
            kind: base class of all entries, which are classes of their own with a class variable `name`.
            package: whose modules are entries, one each.
            beside: modules of the package that are none.
            given: further entries as ``module:attribute``, by name.
        """
        self.what = what
        self.group = group
        self._kind = kind
        self._package = package
        self._beside = frozenset(beside)
        self._given = dict(given or {})
        self._loaded: dict[str, type[T]] = {}

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Where each entry comes from, by name, in order.

        Raises:
            ConfigError: two entries have one name.
        """
        entries = [(name, Source(target, f"raymia: {target}")) for name, target in self._given.items()]
        if self._package is not None:
            modules = pkgutil.iter_modules(importlib.import_module(self._package).__path__)
            names = [module.name for module in modules if module.name not in self._beside and not module.name.startswith("_")]
            entries += [(name, Source(f"{self._package}.{name}", f"{self._package}.{name}")) for name in names]
        for point in entry_points(group=self.group):
            package = point.dist.name if point.dist is not None else "an entry point"
            entries.append((point.name, Source(point.value, f"{package}: {point.value}")))
        twice = [name for name, count in Counter(name for name, _ in entries).items() if count > 1]
        if twice:
            origins = sorted(source.origin for name, source in entries if name == twice[0])
            raise ConfigError(
                f"two entries are {self.what} {twice[0]!r}: {' and '.join(origins)}; rename or uninstall one of them"
            )
        return dict(sorted(entries))

    def names(self) -> list[str]:
        """Names of all entries, in order; imports none of them."""
        return list(self.sources)

    def get(self, name: str) -> type[T]:
        """The class of an entry.

        Raises:
            ConfigError: there is none of that name, or it cannot be imported, or is not what it should be.
        """
        if name not in self.sources:
            raise ConfigError(f"{name}: no such {self.what}{suggest(name, self.names())}")
        if name not in self._loaded:
            self._loaded[name] = self._load(name, self.sources[name])
        return self._loaded[name]

    def all(self) -> dict[str, type[T]]:
        """Every entry by name; imports all of them.

        Raises:
            ConfigError: see `get`.
        """
        return {name: self.get(name) for name in self.names()}

    def _load(self, name: str, source: Source) -> type[T]:
        module_name, _, attribute = source.target.partition(":")
        try:
            module = importlib.import_module(module_name)
            found = getattr(module, attribute) if attribute else self._only_class(module)
        except ConfigError:
            raise
        except Exception as error:
            # Whatever an author's file raises when it is imported; `--debug` shows where.
            raise ConfigError(
                f"{self.what} {name!r} of {source.origin} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        if not (inspect.isclass(found) and issubclass(found, self._kind) and not inspect.isabstract(found)):
            lacks = f", which lacks {_missing(found)}" if inspect.isabstract(found) else ""
            raise ConfigError(
                f"{self.what} {name!r} of {source.origin}: expected a class that extends "
                f"{self._kind.__module__}.{self._kind.__qualname__}; found {found!r}{lacks}"
            )
        own = getattr(found, "name", None)
        if own != name:
            says = "has no `name`" if own is None else f"says that its name is {own!r}"
            raise ConfigError(f"{self.what} {name!r} of {source.origin}: {found.__qualname__} {says}; both must be the same")
        return found

    def _only_class(self, module: object) -> type:
        """The one public class of the registry's kind that a module defines."""
        here = getattr(module, "__name__", "")
        own = [
            value
            for name, value in vars(module).items()
            if inspect.isclass(value)
            and issubclass(value, self._kind)
            and value.__module__ == here
            and not name.startswith("_")
        ]
        classes = [found for found in own if not inspect.isabstract(found)]
        if len(classes) != 1:
            names = ", ".join(found.__qualname__ for found in classes) or "none"
            unfinished = [f"{found.__qualname__} lacks {_missing(found)}" for found in own if inspect.isabstract(found)]
            raise ConfigError(
                f"{here}: expected one {self.what}, a class that extends {self._kind.__qualname__}; "
                f"{'; '.join([f'found {names}', *unfinished])}"
            )
        return classes[0]


def _missing(found: object) -> str:
    """Names of the methods that an abstract class leaves open."""
    return ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
