"""What an attack is: typed parameters, declared signals and cost, and a rule that scores the samples of a trial."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from raymia.errors import ConfigError
from raymia.registry import Registry
from raymia.replica.families import Ability
from raymia.replica.schedule import Schedule
from raymia.run.record import Access, Evaluations
from raymia.services.protocol import Capability
from raymia.trial.parameters import OWN, Guidance, Steps, asked_of_service, forwards_of, told_under
from raymia.trial.similarity import Need
from raymia.trial.trial import Trial

__all__ = ["ATTACKS", "Access", "Attack", "Evaluations", "FromCaption", "Need", "Shown", "Signal", "signal_key"]


@dataclass(frozen=True)
class Signal:
    """One score column. Higher always means more likely a member."""

    name: str
    primary: bool = False
    """The one signal by which the attack is judged; it has the attack's own name."""


@dataclass(frozen=True)
class Shown:
    """What is to be shown of each sample beside its scores: the answer that is closest to it, and how close all of them are.

    Attributes:
        images: (batch, 3, H, W) in [-1, 1], the closest answer to each sample's caption.
        draws: number of that answer among the sample's.
        steps, guidance: by which answers were asked for; none leaves them to a service.
        similarity: (batch,) of sample and closest answer, by the attack's own measure.
        within_work: the part of the sample that is most like the whole answer, by its word, and how alike, where that is known.
        within_image: the part of the answer that is most like the whole sample, likewise.
        work: (batch, width) unit descriptors of the samples, where there are such.
        answers: (batch, draws, width) unit descriptors of all answers, likewise.
    """

    images: Float[Tensor, "batch 3 H W"]
    draws: Sequence[int]
    steps: int | None
    guidance: float | None
    similarity: Float[Tensor, " batch"]
    within_work: Sequence[tuple[str, float]] | None = None
    within_image: Sequence[tuple[str, float]] | None = None
    work: Float[Tensor, "batch width"] | None = None
    answers: Float[Tensor, "batch draws width"] | None = None


class Attack(BaseModel, ABC):
    """Base of every attack: a pydantic model whose fields are the attack's parameters, with documented defaults.

    To add one, put a subclass with `name`, `access` and `reference` into a file of this package that has the attack's name. See
    docs/add_an_attack.md.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    access: ClassVar[Access]
    reference: ClassVar[str]
    """Paper, with its arXiv number."""
    precise: ClassVar[bool] = False
    """Whether some evaluations must be made in float32 whatever the replica computes in: differences of nearly equal ones."""
    spares: ClassVar[Mapping[Capability, tuple[str, Any]]] = {}
    """What the attack can do without in front of a service: a field, and the value by which it does, for each capability."""
    exhibits: ClassVar[bool] = False
    """Whether answers are to be shown beside the scores; see `shown`."""
    shows: ClassVar[bool] = False
    """Whether that is what the attack is for, so that it is a question of its own and none of those that tell members."""

    @abstractmethod
    def signals(self) -> list[Signal]:
        """The score columns, the primary one first."""

    def signals_by_group(self, groups: Sequence[str]) -> list[Signal]:
        """Further score columns, one for each part of the denoiser; which there are depends on the model's family.

        Args:
            groups: of the denoiser's parameters.
        """
        return []

    @abstractmethod
    def cost(self) -> Evaluations:
        """Evaluations per image when run alone."""

    @abstractmethod
    def score(self, trial: Trial) -> dict[str, Float[Tensor, " batch"]]:
        """One score per sample and signal, keyed by signal name."""

    def shown(self, trial: Trial) -> Shown:
        """Which answers are to be shown of a trial that was scored; asked of attacks that say so alone.

        Raises:
            NotImplementedError: the attack shows none.
        """
        raise NotImplementedError(f"{self.name} shows no answers")

    def needs(self) -> frozenset[Need]:
        """Models beside the attacked one that the attack, as configured, compares with."""
        return frozenset()

    def asks(self) -> frozenset[Capability]:
        """What the attack, as configured, asks of a service; nothing where it evaluates the model itself."""
        return frozenset()

    def as_offered(self, offered: frozenset[Capability]) -> Self:
        """The attack in front of a service that offers less than it asks for; fields that a job sets stay as they are."""
        lacking = [spared for capability, spared in self.spares.items() if capability not in offered]
        changed = {name: value for name, value in lacking if name not in self.model_fields_set}
        return self.model_copy(update=changed) if changed else self

    def tells(self) -> frozenset[Ability]:
        """What the attack, as configured, must be able to tell a model, or the model must have; nothing where any will do."""
        return frozenset()

    def check(self, schedule: Schedule) -> None:
        """Refuse parameters that cannot work with this model.

        Raises:
            ConfigError: names the attack, the value and what is expected.
        """


class FromCaption(Attack):
    """Base of attacks that ask for images of a sample's caption, and for nothing else."""

    spares: ClassVar = OWN

    steps: Steps | None
    guidance: Guidance | None

    def tells(self) -> frozenset[Ability]:
        return told_under(self.guidance) | {"condition"}

    def asks(self) -> frozenset[Capability]:
        return asked_of_service("text_to_image", "prompt", steps=self.steps, guidance=self.guidance)

    def check(self, schedule: Schedule) -> None:
        if self.steps is not None and self.steps >= schedule.timesteps:
            raise ConfigError(f"steps {self.steps}: expected fewer than the model's {schedule.timesteps} timesteps")

    def cost_of(self, images: int) -> Evaluations:
        """Evaluations of so many images of a caption."""
        return Evaluations(forwards=forwards_of(images, self.steps, self.guidance), decodes=images, queries=images)


ATTACKS: Registry[Attack] = Registry(
    "attack",
    "raymia.attacks",
    Attack,  # type: ignore[type-abstract]
    "raymia.attacks",
    beside=("base",),
)
"""Every attack."""


def signal_key(signal: str, attack: Attack, key: str) -> str:
    """The score column of an attack's signal in a job where the attack goes by `key`: its name, or a variant's.

    ``loss.t=100`` of the attack that the job calls ``loss:few`` is ``loss:few.t=100``.
    """
    return key + signal.removeprefix(attack.name)
