"""Values that all processes of a cluster read, kept once on each node."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import ray

T = TypeVar("T")


class Shared(Generic[T]):
    """A value in Ray's object store."""

    def __init__(self, value: T) -> None:
        """Put a value into the object store of the Ray that runs."""
        self._reference: Any = ray.put(value)

    def get(self) -> T:
        """The value, read on this node; arrays in it are not copied, and cannot be written to."""
        value: T = ray.get(self._reference)
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shared) and self._reference == other._reference

    def __hash__(self) -> int:
        return hash(self._reference)


def cpus_of_a_node() -> float:
    """The number of CPUs of the smallest node that has any; 1 where none has."""
    nodes = (node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
    return min((float(cpus) for cpus in nodes if cpus), default=1.0)
