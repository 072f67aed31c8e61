"""What run.json and progress.json hold, as types: whoever reads a run needs neither its attacks nor its model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from raymia.data.manifest import Manifest, Shard

FORMAT = 2
"""Of the files that this version writes. Format 1 had no number, and its signals no cost."""
RUN_FILE = "run.json"
PROGRESS_FILE = "progress.json"
CONTROL = "control"
"""Name of the control model's run directory within that of the run that it controls."""
FORMER_NAMES = {"unet_forwards": "forwards", "unet_backwards": "backwards"}
"""Of evaluations, in format 1."""


class Access(StrEnum):
    """What an attacker must be able to do, least first."""

    BLACK = "black"
    """Ask for images."""
    GREY = "grey"
    """Run the denoiser at chosen latents and noise levels."""
    WHITE = "white"
    """See the weights and take gradients."""
    CONTROL = "control"
    """Nothing: a control that must find no members."""

    def allows(self, other: Access) -> bool:
        """Whether an attacker with this access can run an attack that needs `other`; controls always run."""
        order = [Access.CONTROL, Access.BLACK, Access.GREY, Access.WHITE]
        return order.index(other) <= order.index(self)


class Evaluations(BaseModel):
    """How often a model runs, in images: a batch of 16 counts 16. Of an attack, per image when it runs alone."""

    model_config = ConfigDict(extra="forbid")

    forwards: int = 0
    """Of the denoiser."""
    backwards: int = 0
    """Of the denoiser."""
    encodes: int = 0
    decodes: int = 0
    queries: int = 0
    """Images asked of image-to-image and text-to-image calls, as a hosted service would count them."""

    def __add__(self, other: Evaluations) -> Evaluations:
        return Evaluations(**{kind: number + getattr(other, kind) for kind, number in self})

    def __sub__(self, other: Evaluations) -> Evaluations:
        return Evaluations(**{kind: number - getattr(other, kind) for kind, number in self})


KINDS = tuple(Evaluations.model_fields)
"""Of evaluations."""


class SignalRecord(BaseModel):
    """A score column."""

    name: str
    attack: str
    """As the job calls it: an attack's name, or a variant's."""
    access: str
    """What the attack needs: one of `Access`; or ``blind``, of a baseline that never sees the model."""
    primary: bool
    """The one signal by which its attack is judged."""
    cost: Evaluations | None = None
    """Of the attack alone, per image; none in runs of format 1 and for columns that no attack made."""


class ReplicaRecord(BaseModel):
    """Of the attacked model, what reading needs; the rest is kept as it is."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    """A folder, URL, hub id or name; none for a hosted service."""
    service: str | None = None
    """Name of the hosted service, where one is attacked."""


class JobRecord(BaseModel):
    """Of the resolved job, what reading needs; the rest is kept as it is."""

    model_config = ConfigDict(extra="allow")

    replica: ReplicaRecord
    caption_source: str = "own"

    @property
    def subject(self) -> str:
        """What is attacked, in a word."""
        return self.replica.model or f"service {self.replica.service}"


class ModelRecord(BaseModel):
    """What identifies the attacked model."""

    fingerprint: str


class Bottleneck(BaseModel):
    """The stage that a scan waited for, and why it is that one."""

    stage: str
    why: str


class Counts(BaseModel):
    """Every sample accounted for: scored + quarantined = read.

    A shard that could not be read to its end counts as one more read and quarantined, for the rest of it.
    """

    read: int
    scored: int
    quarantined: int
    by_reason: dict[str, int]
    flagged: dict[str, int]
    """Scored samples by remark, such as ``no_caption``."""
    expected: int | None
    """Samples that the manifest announces, where it does for every split."""

    @classmethod
    def of_table(cls, rows: int) -> Counts:
        """Counts of a table that no scan made: every row is a scored sample."""
        return cls(read=rows, scored=rows, quarantined=0, by_reason={}, flagged={}, expected=None)

    @property
    def quarantined_fraction(self) -> float:
        """Share of samples not scored, of those read or, where more, of those the manifest announces."""
        total = max(self.read, self.expected or 0)
        return (total - self.scored) / total if total else 0.0


class RunRecord(BaseModel):
    """What every run directory says of itself: which samples, and how far it has come."""

    format: int = FORMAT
    manifest: Manifest
    shards: list[Shard] = []
    selection: str | None = None
    """sha256 over the keys of the samples that count; none where all do."""
    signals: list[SignalRecord] = []
    expected: int | None
    started: str
    attempted: str | None = None
    attempts: int = 1
    finished: str | None
    counts: Counts | None = None


class ScanRecord(RunRecord):
    """Contents of the run.json of a scan."""

    job: JobRecord
    model: ModelRecord
    dtype: str
    free: dict[str, Any] = {}
    """Fields of the job that may change from attempt to attempt."""
    labels_hold: bool = True
    versions: dict[str, str] = {}
    evaluations: Evaluations = Evaluations()
    stages: dict[str, float] = {}
    """Seconds spent in each stage, over all processes and attempts."""
    seconds: float = 0.0
    bottleneck: Bottleneck | None = None


class FeaturesRecord(RunRecord):
    """Contents of the run.json of features, which `raymia data embed` makes."""

    clip: str


class Progress(BaseModel):
    """Contents of progress.json: a scan's last sign of life."""

    time: str
    """UTC, by the driver's clock."""
    samples: int
    """Scored and quarantined so far, by earlier attempts too."""
    expected: int | None
    units: int
    by_reason: dict[str, int]
    images_per_s: float
    """Since the first batch of this attempt came back."""
    seconds: float
    """Since this attempt began."""
    stages: dict[str, float]
    """Seconds spent in each stage, over all processes."""


def parse_record(content: Mapping[str, Any]) -> RunRecord:
    """The contents of a run.json of this format or an earlier one.

    Raises:
        ValueError: of a later format, or a field is missing or of another kind; names it.
    """
    number = content.get("format", 1)
    if not isinstance(number, int) or number > FORMAT:
        raise ValueError(
            f"format {number!r}, where this version of raymia reads formats up to {FORMAT}; read it with a later one"
        )
    kind = ScanRecord if "job" in content else FeaturesRecord
    return kind.model_validate(content if number == FORMAT else _from_first_format(content))


def _from_first_format(content: Mapping[str, Any]) -> dict[str, Any]:
    evaluations = {FORMER_NAMES.get(kind, kind): number for kind, number in content.get("evaluations", {}).items()}
    return {**content, "format": 1, "evaluations": evaluations}


def now_text() -> str:
    """The time, in UTC, to the second."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
