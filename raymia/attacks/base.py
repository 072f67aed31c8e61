"""What an attack is: typed parameters, declared signals and cost, and a rule that scores the samples of a trial."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from raymia.attacks.trial import Trial
from raymia.replica.schedule import Schedule


class Access(StrEnum):
    """What an attacker must be able to do, least first."""

    BLACK = "black"
    """Ask for images."""
    GREY = "grey"
    """Run the UNet at chosen latents and timesteps."""
    WHITE = "white"
    """See the weights and take gradients."""
    CONTROL = "control"
    """Nothing: a control that must find no members."""

    def allows(self, other: Access) -> bool:
        """Whether an attacker with this access can run an attack that needs `other`; controls always run."""
        order = [Access.CONTROL, Access.BLACK, Access.GREY, Access.WHITE]
        return order.index(other) <= order.index(self)


Need = Literal["clip", "lpips"]
"""A model beside the attacked one."""


@dataclass(frozen=True)
class Signal:
    """One score column. Higher always means more likely a member."""

    name: str
    primary: bool = False
    """The one signal by which the attack is judged; it has the attack's own name."""


@dataclass(frozen=True)
class Cost:
    """Model evaluations per image when the attack runs alone; the same counts as a trial's `Evaluations`."""

    unet_forwards: int = 0
    unet_backwards: int = 0
    encodes: int = 0
    decodes: int = 0
    queries: int = 0


class Attack(BaseModel, ABC):
    """Base of every attack: a pydantic model whose fields are the attack's parameters, with documented defaults.

    To add one, put a subclass with `name`, `access` and `reference` into a file of this package.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    access: ClassVar[Access]
    reference: ClassVar[str]
    """Paper, with its arXiv number."""
    precise: ClassVar[bool] = False
    """Whether some evaluations must be made in float32 whatever the replica computes in: differences of nearly equal ones."""

    @abstractmethod
    def signals(self) -> list[Signal]:
        """The score columns, the primary one first."""

    @abstractmethod
    def cost(self) -> Cost:
        """Evaluations per image when run alone."""

    @abstractmethod
    def score(self, trial: Trial) -> dict[str, Float[Tensor, " batch"]]:
        """One score per sample and signal, keyed by signal name."""

    def needs(self) -> frozenset[Need]:
        """Models beside the attacked one that the attack, as configured, compares with."""
        return frozenset()

    def check(self, schedule: Schedule) -> None:
        """Refuse parameters that cannot work with this model.

        Raises:
            ConfigError: names the attack, the value and what is expected.
        """


def signal_key(signal: str, attack: Attack, key: str) -> str:
    """The score column of an attack's signal in a job where the attack goes by `key`: its name, or a variant's.

    ``loss.t=100`` of the attack that the job calls ``loss:few`` is ``loss:few.t=100``.
    """
    return key + signal.removeprefix(attack.name)


def registry() -> dict[str, type[Attack]]:
    """Every attack by name: all concrete subclasses found in the files of this package."""
    package = importlib.import_module("raymia.attacks")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"raymia.attacks.{module.name}")
    return {attack.name: attack for attack in sorted(Attack.__subclasses__(), key=lambda attack: attack.name)}
