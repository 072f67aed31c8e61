"""The plan of a randomised hold-back: which works will be published and which kept back, drawn by lot and committed to."""

from __future__ import annotations

import hashlib
import math
import posixpath
import re
import secrets
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console
from rich.progress import Progress

from raymia.curation.attrition import LISTED
from raymia.curation.folders import printable
from raymia.curation.inputs import find_parts
from raymia.curation.parts import DroppedPart, FilePart, ShardPart
from raymia.curation.samples import Row, file_samples
from raymia.curation.verification import Thumbnail, thumbnail_of
from raymia.data.clusters import components
from raymia.data.images import MAX_PIXELS
from raymia.errors import ConfigError, describe_validation
from raymia.evidence.canary_declared import LATER, Declared
from raymia.evidence.registration import canonical
from raymia.evidence.sets import twins_of
from raymia.run.record import now_text

MINIMUM = 10
"""Units that a plan needs."""
MAX_BYTES = 2**28
SPLIT = "works"
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
HOW = (
    "complete randomisation: this many of the units, each set of them as likely as any other, by the operating system's source "
    "of entropy; no seed was chosen"
)
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Side = Literal["publish", "hold back"]
Unit = Literal["file", "folder"]


class PlannedWork(BaseModel):
    """One work."""

    model_config = ConfigDict(extra="forbid")

    path: str
    """Below the folder of works."""
    sha256: Digest
    """Of the file."""
    unit: str
    """What it is published or held back with."""
    caption: str
    """What a model is told of it: fixed now, so that it cannot be another for what was published."""


class Plan(BaseModel):
    """Contents of the file of a plan."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1, 2] = 2
    """A plan of format 1 fixes attacks and signals by their names alone."""
    planned: str
    """When, in UTC, by this machine's clock."""
    raymia: str
    drawn: str = HOW
    nonce: Digest
    """Random, so that nobody can guess the draw from the plan's hash."""
    unit: Unit
    published_units: int
    works: list[PlannedWork]
    assignment: dict[str, Side]
    """Of each unit."""
    left_out: dict[str, int]
    """Files that are in no half, as they could not be read as images, by reason."""
    test: Declared

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        paths = [work.path for work in self.works]
        for path in paths:
            if path.startswith("/") or ".." in path.split("/") or not path or CONTROL.search(path):
                raise ValueError(f"work {path!r}: expected a path below the folder of works")
        if paths != sorted(set(paths)):
            raise ValueError("works: expected each path once, in order")
        if {work.unit for work in self.works} != set(self.assignment):
            raise ValueError("assignment: its units are not those of the works")
        units: dict[str, str] = {}
        for work in self.works:
            if units.setdefault(work.sha256, work.unit) != work.unit:
                raise ValueError(f"work {work.path!r}: the same file is in another unit, {units[work.sha256]!r}")
        drawn = sum(side == "publish" for side in self.assignment.values())
        if drawn != self.published_units:
            raise ValueError(f"published_units: {drawn} units are assigned to be published, not {self.published_units}")
        _require_power(len(self.assignment), drawn, self.test.alpha)
        return self

    def content(self) -> bytes:
        """The file of the plan, byte for byte."""
        return canonical(self.model_dump(mode="json", exclude={"test": set(LATER)} if self.format == 1 else None))

    def commitment(self) -> str:
        """sha256 of the file: what is published today, and shows later that the draw was made today."""
        return hashlib.sha256(self.content()).hexdigest()

    def side(self, side: Side) -> list[PlannedWork]:
        """The works of one half."""
        return [work for work in self.works if self.assignment[work.unit] == side]


@dataclass(frozen=True)
class Drawn:
    """A plan, and what is to be said of it.

    Attributes:
        plan: the plan.
        lost: every file that could not be read as an image: its name, the reason and more on it.
        joined: by how many there are fewer units, as works in several showed the same.
    """

    plan: Plan
    lost: list[tuple[str, str, str]]
    joined: int


def draw_plan(works: Path, unit: Unit, captions: str | None, share: float, test: Declared, console: Console) -> Drawn:
    """Read the works and draw by lot which of them to publish.

    Files that are the same, and pictures that show the same but for size, quality and a cropped margin, are one unit: what is
    learnt from the one would be known of the other.

    Args:
        works: folder of images.
        unit: what is published or held back as one: each ``file``, or each ``folder`` in `works` with all that is in it.
        captions: table of file and caption; by default captions are those in files beside the images.
        share: of the units that will be published.
        test: what will be tested.
        console: where progress is shown.

    Raises:
        ConfigError: names the file or the option.
    """
    if not works.is_dir():
        raise ConfigError(f"{works}: expected a folder of images, those that you will publish or keep back")
    if not 0 < share < 1:
        raise ConfigError(f"--share {share:g}: expected a share of the units above 0 and below 1")
    seen, lost = _read(works, captions, console)
    units = _units([work.path for work in seen], unit)
    together = _together(units, seen)
    first: dict[int, str] = {}
    for name, group in sorted(zip(units, together.tolist(), strict=True)):
        first.setdefault(group, name)
    named = [first[group] for group in together.tolist()]
    names = sorted(set(named))
    published = math.floor(share * len(names) + 0.5)
    try:
        _require_power(len(names), published, test.alpha)
    except ValueError as error:
        raise ConfigError(f"{works}: {error}") from error
    chosen = set(secrets.SystemRandom().sample(names, published))
    plan = Plan(
        planned=now_text(),
        raymia=version("raymia"),
        nonce=secrets.token_hex(32),
        unit=unit,
        published_units=published,
        works=sorted(
            (
                PlannedWork(path=work.path, sha256=work.sha256, unit=name, caption=work.caption)
                for work, name in zip(seen, named, strict=True)
            ),
            key=lambda work: work.path,
        ),
        assignment={name: "publish" if name in chosen else "hold back" for name in names},
        left_out=dict(Counter(reason for _, reason, _ in lost)),
        test=test,
    )
    return Drawn(plan, lost, len(set(units)) - len(names))


def read_plan(file: Path) -> Plan:
    """Read a plan.

    Raises:
        ConfigError: there is none, it contradicts itself, or it is not byte for byte as it was written.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give what `raymia canary plan` wrote") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{file}: is larger than {MAX_BYTES} bytes, and no plan")
    try:
        plan = Plan.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(f"{file}: is no plan, or was changed: {describe_validation(error, Plan)}") from error
    if plan.content() != content:
        raise ConfigError(f"{file}: was written anew by another program; give the file as `raymia canary plan` wrote it")
    return plan


def lists_of(file: Path) -> dict[Side, Path]:
    """Where the lists of what to publish and of what to hold back lie, beside a plan."""
    return {"publish": file.with_suffix(".publish.txt"), "hold back": file.with_suffix(".hold.txt")}


def require_new(file: Path) -> None:
    """Refuse to draw again where something was drawn.

    Raises:
        ConfigError: names the file that is there.
    """
    for path in (file, *lists_of(file).values()):
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path}: is there already; who draws twice chooses the draw, so nothing is overwritten")
    if not file.parent.is_dir():
        raise ConfigError(f"{file.parent}: no such folder; make it first")


def write_plan(plan: Plan, file: Path) -> None:
    """Write a plan and its two lists, where none are.

    Raises:
        ConfigError: a file is there already, or cannot be written.
    """
    require_new(file)
    contents = {file: plan.content()}
    for side, path in lists_of(file).items():
        contents[path] = "".join(f"{work.path}\n" for work in plan.side(side)).encode()
    for path, content in contents.items():
        try:
            with path.open("xb") as stream:
                stream.write(content)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _require_power(units: int, published: int, alpha: float) -> None:
    if units < MINIMUM:
        raise ValueError(f"{units} units, of which chance could draw too few ways; expected at least {MINIMUM}")
    if not 0 < published < units:
        raise ValueError(f"{published} of {units} units would be published; expected some on both sides")
    if (least := 1 / math.comb(units, published)) > alpha:
        raise ValueError(f"with {published} of {units} units published p is {least:.2g} or more, and alpha is {alpha:g}")


@dataclass(frozen=True)
class _Seen:
    path: str
    sha256: str
    caption: str
    picture: Thumbnail


def _read(works: Path, captions: str | None, console: Console) -> tuple[list[_Seen], list[tuple[str, str, str]]]:
    """The works, and name, reason and detail of every file that could not be read as one."""
    parts = find_parts(SPLIT, str(works), captions, 1)
    if tar := next((part for part in parts if isinstance(part, ShardPart)), None):
        raise ConfigError(f"{printable(tar.reader.shard.url)}: is a tar; a plan is of single files, published or kept back")
    rows: list[Row] = []
    seen: list[_Seen] = []
    lost = [
        (printable(row.source), row.reason, row.detail)
        for part in parts
        if isinstance(part, DroppedPart)
        for row in part.rows
        if row.stage != LISTED
    ]
    with Progress(console=console, transient=True) as progress:
        for part in progress.track([part for part in parts if isinstance(part, FilePart)], description="read"):
            (file,) = part.files
            _require_listable(file.source)
            for sample in file_samples(part, rows, MAX_PIXELS):
                picture = thumbnail_of(sample.content, MAX_PIXELS)
                assert picture is not None, "it was decoded a moment ago"
                seen.append(_Seen(file.source, hashlib.sha256(sample.content).hexdigest(), sample.caption, picture))
    lost += [(row["source"], row["reason"], row["detail"]) for row in rows if row.get("reason")]
    if not seen:
        raise ConfigError(f"{works}: none of its {len(rows)} images could be read")
    return seen, sorted(lost)


def _require_listable(path: str) -> None:
    if CONTROL.search(path) or printable(path) != path:
        raise ConfigError(f"{printable(path)}: its name holds what fits into no list of files; rename it")


def _units(paths: list[str], unit: Unit) -> list[str]:
    """The unit of each work; files beside the folders are units of their own."""
    return [path.split("/")[0] + "/" if unit == "folder" and posixpath.dirname(path) else path for path in paths]


def _together(units: list[str], seen: list[_Seen]) -> NDArray[np.int64]:
    """Number of the unit of each work, where those that show the same are in one."""
    links = [tuple(pair) for pair in twins_of(np.stack([work.picture for work in seen]))]
    for names in (units, [work.sha256 for work in seen]):
        first: dict[str, int] = {}
        links += [(first.setdefault(name, number), number) for number, name in enumerate(names)]
    return components(len(units), np.array(links, np.int64))
