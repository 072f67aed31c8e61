"""What run.json and progress.json hold, as types: whoever reads a run needs neither its attacks nor its model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from raymia.data.manifest import Manifest, Shard

FORMAT = 2
"""Number of the format that this version writes. Format 1 had no number, and its signals no cost."""
RUN_FILE = "run.json"
PROGRESS_FILE = "progress.json"
CONTROL = "control"
"""Name of the control model's run directory within that of the run that it controls."""
FORMER_NAMES = {"unet_forwards": "forwards", "unet_backwards": "backwards"}
"""Today's names of the kinds of evaluation, by the names that format 1 had for them."""


def _as_time(text: str) -> str:
    try:
        known = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        known = False
    if not known:
        raise ValueError("expected a time such as 2026-01-01T00:00:00+00:00")
    return text


Time = Annotated[str, AfterValidator(_as_time)]
"""A moment as text, with its offset from UTC."""


class Access(StrEnum):
    """What an attacker must be able to do, least first."""

    BLACK = "black"
    """The attacker asks the model for images and does nothing else."""
    GREY = "grey"
    """The attacker also runs the denoiser at chosen latents and levels."""
    WHITE = "white"
    """The attacker also sees the weights and takes gradients."""
    CONTROL = "control"
    """No attack but a control, which must find no members."""

    def allows(self, other: Access) -> bool:
        """Whether an attacker with this access can run an attack that needs `other`; controls always run."""
        order = [Access.CONTROL, Access.BLACK, Access.GREY, Access.WHITE]
        return order.index(other) <= order.index(self)


class Evaluations(BaseModel):
    """How often a model runs, in images: a batch of 16 counts 16. For an attack, per image when it runs alone."""

    model_config = ConfigDict(extra="forbid")

    forwards: int = 0
    """Forward passes of the denoiser."""
    backwards: int = 0
    """Backward passes of the denoiser."""
    encodes: int = 0
    """Images that the autoencoder encodes."""
    decodes: int = 0
    """Latents that the autoencoder decodes."""
    queries: int = 0
    """Images asked of image-to-image and text-to-image calls, as a hosted service would count them."""

    def __add__(self, other: Evaluations) -> Evaluations:
        return Evaluations(**{kind: number + getattr(other, kind) for kind, number in self})

    def __sub__(self, other: Evaluations) -> Evaluations:
        return Evaluations(**{kind: number - getattr(other, kind) for kind, number in self})


KINDS = tuple(Evaluations.model_fields)
"""Names of the kinds of evaluation."""


class CallCounts(BaseModel):
    """What became of the calls that a scan made of a hosted service."""

    model_config = ConfigDict(extra="forbid")

    made: int = 0
    answered: int = 0
    """With an image, which is paid for."""
    refused: int = 0
    """With a word that there will be none."""
    failed: int = 0
    """Not at all, or in a way that is tried again."""
    busy: int = 0
    """With the word that too much was asked."""

    def __add__(self, other: CallCounts) -> CallCounts:
        return CallCounts(**{kind: number + getattr(other, kind) for kind, number in self})


class Paid(BaseModel):
    """Images that were made at one price."""

    model_config = ConfigDict(extra="forbid")

    images: int
    price_per_image: float


class ServiceRecord(BaseModel):
    """What a scan asked of a hosted service, over all attempts."""

    model_config = ConfigDict(extra="allow")

    calls: CallCounts = CallCounts()
    """Of attempts that came to their end."""
    images: int = 0
    """That are kept, of this run and of those that it shares its answers with."""
    refusals: int = 0
    """That are kept."""
    price_per_image: float | None = None
    currency: str | None = None
    earlier: list[Paid] = []
    """Images that were made at other prices, before the present one was set."""
    spent: float | None = None
    """Price of the images; none where no price is known."""
    repeats: bool | None = None
    """Whether one question asked twice had the same answer to the byte; none where that was not asked."""
    difference: float | None = None
    """Mean absolute difference of the two answers, on the scale 0 to 1 of pixels."""

    def spent_on(self, images: int) -> float | None:
        """What so many images cost, the first of them at earlier prices; none where no price is known."""
        if self.price_per_image is None:
            return None
        before = sum(paid.images for paid in self.earlier)
        cost = sum(paid.images * paid.price_per_image for paid in self.earlier)
        return round(cost + (images - before) * self.price_per_image, 6)


class SignalRecord(BaseModel):
    """One signal: a score column, and the attack that made it."""

    name: str
    attack: str
    """Name that the job gives the attack: its own, or a variant's."""
    access: str
    """What the attack needs: a value of `Access`, or ``blind`` for a baseline that never sees the model."""
    primary: bool
    """Whether this is the one signal by which its attack is judged."""
    cost: Evaluations | None = None
    """Evaluations per image of the attack alone; none in runs of format 1 and for columns that no attack made."""


class AdapterRecord(BaseModel):
    """An adapter on the attacked model."""

    model_config = ConfigDict(extra="allow")

    path: str


class ReplicaRecord(BaseModel):
    """The job's `replica`: what reading a run needs of it as fields, the rest kept as it is."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    """Folder, URL, hub id or name of the attacked model, or the service's own name of it; none for a service of one model."""
    adapters: list[AdapterRecord] = []
    """On the model."""
    service: str | None = None
    """Name of the hosted service, where one is attacked."""
    resolution_px: int | None = None
    """Side of the images."""


class JobRecord(BaseModel):
    """The resolved job: what reading a run needs of it as fields, the rest kept as it is."""

    model_config = ConfigDict(extra="allow")

    replica: ReplicaRecord
    caption_source: str = "own"
    copies: str | None = None
    """The copy detector that signals compare by."""
    seed: int = 0

    @property
    def subject(self) -> str:
        """Name of what is attacked: a model with its adapters, or a service."""
        if self.replica.service is not None or self.replica.model is None:
            return served_name(self.replica.service, self.replica.model)
        return tuned_name(self.replica.model, [adapter.path for adapter in self.replica.adapters])


COPY_DETECTORS = ("sscd", "dinov2", "clip")
"""Kinds of copy detectors."""


def copy_detector(spec: str) -> tuple[str, str]:
    """The kind of the detector that a job's `copies` names, and where its weights are; nothing for the job's CLIP.

    Raises:
        ValueError: it names none.
    """
    kind, colon, source = spec.partition(":")
    if kind not in COPY_DETECTORS or (kind == "clip") == bool(colon) or (kind != "clip" and not source):
        raise ValueError(f"{spec!r}: expected sscd:FILE, dinov2:FOLDER-OR-ID, or clip")
    return kind, source


def served_name(service: str | None, model: str | None) -> str:
    """How a service is called, with the one of its models that is asked."""
    return f"service {service}" if model is None else f"{model} of service {service}"


def tuned_name(model: str, adapters: Sequence[str]) -> str:
    """How a model with adapters is called."""
    return f"{model} with {', '.join(adapters)}" if adapters else model


class ModelRecord(BaseModel):
    """What identifies the attacked model."""

    fingerprint: str
    """Revision on the hub, or digest of a local model's files or of a hosted service's options."""
    errors: str = "noise"
    """What means over levels are of errors of: the ``noise``, or the ``velocity`` that a model was trained on."""
    reference: str | None = None
    """Fingerprint of the model that scores are held against, where it is one of its own."""
    clip: str | None = None
    """Digest of the files of the CLIP that signals compare by, or its repository and revision on the hub."""
    lpips: str | None = None
    """What identifies the trunk and the heads of the LPIPS that signals compare by."""
    copies: str | None = None
    """Kind of the copy detector that signals compare by, and what identifies its weights."""


class Bottleneck(BaseModel):
    """The stage that a scan waited for, and why it is that one."""

    stage: str
    why: str


class Counts(BaseModel):
    """How many samples became what: scored + quarantined = read.

    A shard that could not be read to its end counts as one more read and quarantined, for the rest of it.
    """

    read: int
    scored: int
    quarantined: int
    by_reason: dict[str, int]
    """Quarantined samples by reason."""
    flagged: dict[str, int]
    """Scored samples by remark, such as ``no_caption``."""
    expected: int | None
    """Samples that the manifest announces, where it does for every split."""

    @property
    def quarantined_fraction(self) -> float:
        """Share of samples that are not scored, among those read or, where there are more, those the manifest announces."""
        total = max(self.read, self.expected or 0)
        return (total - self.scored) / total if total else 0.0


class RunRecord(BaseModel):
    """What the run.json of every run says: which samples it is of, and how far it has come."""

    format: int = FORMAT
    manifest: Manifest
    shards: list[Shard] = []
    selection: str | None = None
    """sha256 over the keys of the samples that count; none where all do."""
    signals: list[SignalRecord] = []
    expected: int | None
    """Samples that the manifest announces; none where it does not."""
    started: Time
    """When the first attempt began, in UTC."""
    attempted: Time | None = None
    """When the last attempt began, in UTC."""
    attempts: int = 1
    finished: Time | None
    """When the run was done, in UTC; none until then."""
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
    service: ServiceRecord | None = None
    """Where a hosted service is attacked over a network."""


class FeaturesRecord(RunRecord):
    """Contents of the run.json of features, which `raymia data embed` makes."""

    clip: str


class Progress(BaseModel):
    """Contents of progress.json: a scan's last sign of life."""

    time: Time
    """When this was written, in UTC by the driver's clock."""
    samples: int
    """Samples scored and quarantined so far, by earlier attempts too."""
    expected: int | None
    units: int
    by_reason: dict[str, int]
    images_per_s: float
    """Rate of this attempt since its first batch came back."""
    seconds: float
    """Seconds since this attempt began."""
    stages: dict[str, float]
    """Seconds spent in each stage, over all processes."""


def parse_record(content: Mapping[str, Any]) -> RunRecord:
    """Read the contents of a run.json of this format or an earlier one.

    Args:
        content: the file, parsed as JSON.

    Returns:
        A `ScanRecord` where there is a job, otherwise a `FeaturesRecord`.

    Raises:
        ValueError: the format is a later one, or a field is missing or of another kind; names it.
    """
    number = content.get("format", 1)
    if not isinstance(number, int) or isinstance(number, bool) or number > FORMAT:
        raise ValueError(
            f"format {number!r}, where this version of raymia reads formats up to {FORMAT}; read it with a later one"
        )
    kind = ScanRecord if "job" in content else FeaturesRecord
    return kind.model_validate(content if number == FORMAT else _from_first_format(content))


def _from_first_format(content: Mapping[str, Any]) -> dict[str, Any]:
    evaluations = content.get("evaluations", {})
    if isinstance(evaluations, Mapping):
        evaluations = {FORMER_NAMES.get(kind, kind): number for kind, number in evaluations.items()}
    return {**content, "format": 1, "evaluations": evaluations}


def now_text() -> str:
    """The time, in UTC, to the second."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
