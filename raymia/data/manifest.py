"""Manifests: which shards hold which samples, and what is known of their membership."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from raymia.data.patterns import MAX_FILES, find
from raymia.data.patterns import within as within
from raymia.data.provider import ProviderClaims
from raymia.data.remote import UnreadableError, read_file
from raymia.documents import DocumentError, parse_yaml
from raymia.errors import ConfigError, describe_validation
from raymia.shipped import NAMED, manifest_file
from raymia.urls import public

MAX_MANIFEST_BYTES = 64 * 2**20
"""A manifest of more is not read: a million shards written one by one have that."""
MAX_NAME = 160
"""Characters of a shard's name; files of the run directory are named by it, and names of files have 255 bytes."""
RESERVED = frozenset({"aux", "con", "nul", "prn", *(f"{kind}{i}" for kind in ("com", "lpt") for i in range(10))})
"""Names that some systems keep for devices, whatever ending follows."""
SIGNATURES = re.compile(
    r"x-(amz|goog|oss|ms)-.*|awsaccesskeyid|signature|expires|policy|key-pair-id|googleaccessid|sig|s[erptv]|spr|srt|ss|sk(oid|tid|t|e|s|v)"
    r"|.*(token|secret|password|api[_-]?key|credential).*",
    re.IGNORECASE,
)
"""Names of the parameters of an address that open a door, and change when it is signed anew."""

Label = bool | Literal["unknown", "generated"]
"""Whether the samples of a split are members, as a manifest writes it; or that a model made them, as a control."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""A name that is also fit for a file or folder."""


class UrlTable(BaseModel):
    """A list of images to fetch: what a split has before it is packed into shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str = Field(description="Parquet or CSV: path, fsspec URL (hub sets as `hf://datasets/...`) or glob of several.")
    url_column: str = Field("url", description="Column of the images' URLs.")
    caption_column: str = Field("caption", description="Column of the captions.")
    at_least: dict[str, float] = Field({}, description="Lowest value by column; rows below, or without one, are left out.")
    at_most: dict[str, float] = Field({}, description="Highest value by column; rows above, or without one, are left out.")
    draw: int | None = Field(None, ge=1, description="Rows to draw at random, by `seed`; by default all.")
    seed: int = Field(0, ge=0, description="Seed of the random draw.")


class Split(BaseModel):
    """Shards whose samples share one label, or a list of URLs that `raymia data pack` makes shards of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(description="Letters, digits, `_`, `.` and `-`; names folders of the run directory.")
    member: Label = Field(
        description="Whether the samples were in the model's training set: true, false or `unknown`; or `generated`, which are "
        "images that a model made, as a control."
    )
    shards: tuple[str, ...] = Field(
        (), description="Paths or fsspec URLs with {0000..0003} braces and * globs; relative to the manifest."
    )
    source: UrlTable | None = Field(None, description="Instead of shards: images to fetch.")
    samples: int | None = Field(None, ge=0, description="Expected number of samples; checked where given.")
    sha256: dict[str, str] | None = Field(None, description="Expected digest by shard, as written in `shards` expanded.")

    @model_validator(mode="after")
    def _shards_or_source(self) -> Split:
        if bool(self.shards) == (self.source is not None):
            raise ValueError("expected either `shards` or `source`")
        return self

    @property
    def label(self) -> bool | None:
        """Whether the samples are members; none where that is unknown, or they are a control."""
        return known(self.member)


def known(label: Label) -> bool | None:
    """Whether samples of a label are members; none where that is unknown, or they are a control."""
    return label if isinstance(label, bool) else None


class Manifest(BaseModel):
    """A data set: splits, licence, provenance, and the models for which the labels hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    licence: str = Field("unknown", description="Licence of the images.")
    provenance: str = Field("", description="Where the images and the labels come from.")
    valid_for_models: tuple[str, ...] = Field(("*",), description="Patterns of models for which the labels hold.")
    clusters: str | None = Field(
        None,
        description="Parquet or CSV of near-duplicates with columns split, key and cluster; relative to the manifest. Samples "
        "of one cluster never stand on both sides of a fold; a sample that is not named is its own.",
    )
    selection: str | None = Field(
        None,
        description="Parquet or CSV with columns split, shard (its name) and key: the samples that count, the others of the "
        "shards being left out; relative to the manifest. By default all.",
    )
    fold_captions: bool = Field(
        False,
        description="Read captions in lower case and with single spaces: all that CLIP's tokenizer sees of them.",
    )
    features: str | None = Field(
        None,
        description="Folder that `raymia data embed` filled for these samples, and perhaps more; relative to the manifest.",
    )
    attrition: str | None = Field(
        None, description="Parquet of what became of each image on its way into the shards; relative to the manifest."
    )
    claims: ProviderClaims | None = Field(
        None, description="What the model's provider says of its training data; see `raymia data claims`."
    )
    splits: tuple[Split, ...] = Field(min_length=1)

    @property
    def samples(self) -> int | None:
        """The number of samples; none where a split does not announce its own."""
        counts = [split.samples for split in self.splits]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def generated(self) -> list[str]:
        """Names of the splits of images that a model made."""
        return [split.name for split in self.splits if split.member == "generated"]

    @field_validator("splits")
    @classmethod
    def _distinct(cls, splits: tuple[Split, ...]) -> tuple[Split, ...]:
        repeated = [name for name, count in Counter(split.name for split in splits).items() if count > 1]
        if repeated:
            raise ValueError(f"split names must differ; repeated: {', '.join(repeated)}")
        return splits


class Shard(BaseModel):
    """One tar of a split, found by the split's patterns."""

    model_config = ConfigDict(frozen=True)

    split: str
    name: str
    """Distinct within its split and fit for a file name."""
    url: str
    """Absolute path or fsspec URL."""
    member: bool | None
    """Whether the samples are members; none where that is unknown."""


def labels_hold(manifest: Manifest, model: str) -> bool:
    """Whether a manifest's labels hold for a model, by the name that a job gives it.

    A pattern may match the whole name or its last part: `stable-diffusion-v1-*` fits `CompVis/stable-diffusion-v1-4` and
    `models/stable-diffusion-v1-4`. Case does not matter.
    """
    names = {model.lower(), posixpath.basename(model.rstrip("/")).lower()}
    return any(fnmatchcase(name, pattern.lower()) for name in names for pattern in manifest.valid_for_models)


def load_manifest(source: str) -> tuple[Manifest, str]:
    """Read a manifest; return it with the folder that relative shard paths start at.

    Args:
        source: a path, an fsspec URL, or the name of a manifest that comes with the package (``testbed``).

    Raises:
        ConfigError: names the file and field, what was expected and what to do.
    """
    path = manifest_file(source)
    try:
        content = parse_yaml(read_file(path, MAX_MANIFEST_BYTES))
    except UnreadableError as error:
        hint = f"; give a path, a URL or one of {', '.join(NAMED.names())}" if error.reason == "missing" else ""
        raise ConfigError(f"manifest {error.detail}{hint}") from error
    except DocumentError as error:
        raise ConfigError(f"manifest {source}: cannot be read: {error}") from error
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"manifest {source}: {describe_validation(error, Manifest)}") from error
    return manifest, posixpath.dirname(path) if "://" in path else str(Path(path).resolve().parent)


def resolve_shards(manifest: Manifest, folder: str, most: int = MAX_FILES) -> list[Shard]:
    """Every shard of every split, splits taking turns so that each part of a scan sees all of them.

    Shards are named by their file names; see `name_shards`.

    Args:
        manifest: the manifest, as `load_manifest` gives it.
        folder: where its relative paths start.
        most: a manifest of more shards is refused.

    Raises:
        ConfigError: a split's patterns are malformed or match nothing or too much, or name one shard twice.
    """
    unpacked = next((split.name for split in manifest.splits if split.source is not None), None)
    if unpacked is not None:
        raise ConfigError(
            f"splits.{unpacked}: a list of URLs, not shards; fetch and pack it first: raymia data pack MANIFEST --out FOLDER"
        )
    _require_apart(manifest)
    room, by_split = most, []
    for split in manifest.splits:
        urls = _expand(split, folder, room)
        room -= len(urls)
        by_split.append(name_shards(split.name, split.label, urls))
    longest = max(len(shards) for shards in by_split)
    return [shards[i] for i in range(longest) for shards in by_split if i < len(shards)]


def _require_apart(manifest: Manifest) -> None:
    """Names of splits are folders of the run directory: they must stay apart where case does not count, and be possible."""
    seen: dict[str, str] = {}
    for split in manifest.splits:
        if split.name.split(".")[0].lower() in RESERVED or split.name.endswith(".") or len(split.name) > MAX_NAME:
            raise ConfigError(
                f"splits.{split.name[:MAX_NAME]}: cannot be the name of a folder everywhere; expected at most {MAX_NAME} "
                "characters, not a dot at the end, and no name of a device such as con or nul"
            )
        other = seen.setdefault(split.name.lower(), split.name)
        if other != split.name:
            raise ConfigError(f"splits.{split.name}: differs from {other} in case alone, which not every disk can hold apart")


def _expand(split: Split, folder: str, room: int) -> list[str]:
    urls: list[str] = []
    for pattern in split.shards:
        try:
            urls += find(pattern, folder, room - len(urls))
        except ConfigError as error:
            raise ConfigError(f"splits.{split.name}.shards: {error}") from error
    counts = Counter(urls)
    twice = next((url for url, count in counts.items() if count > 1), None)
    if twice is not None:
        raise ConfigError(f"splits.{split.name}: {twice} is named twice; name each shard once")
    return urls


def name_shards(split: str, member: bool | None, urls: list[str]) -> list[Shard]:
    """The shards of a split, named by their file names; where two would share one, a digest of the address is added.

    A name is distinct within the split, also where case does not count, is fit for a file, and holds neither a query nor a
    secret. An address that is signed anew keeps its name, and one whose query says which part is meant has one of its own.
    """
    stems = [_stem(url) for url in urls]
    groups: dict[str, list[int]] = {}
    for i, stem in enumerate(stems):
        groups.setdefault(stem.lower(), []).append(i)
    taken = {key for key, group in groups.items() if len(group) == 1}
    names = list(stems)
    for group in groups.values():
        marks = _told_apart([urls[i] for i in group]) if len(group) > 1 else []
        for i, mark in zip(group, marks, strict=False):
            candidates = (f"{stems[i]}-{_digest(mark)[:length]}" for length in (8, 16, 64))
            names[i] = next(name for name in candidates if name.lower() not in taken)
            taken.add(names[i].lower())
    return [Shard(split=split, name=name, url=url, member=member) for name, url in zip(names, urls, strict=True)]


def _stem(url: str) -> str:
    """What a shard is called by its file's name alone."""
    first = url if re.match("https?://", url, re.IGNORECASE) else url.partition("::")[0]
    base = posixpath.basename(public(first)).removesuffix(".tar")
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", base)
    # A name that begins with a dot is hidden, and one that ends with it is another on some disks.
    stem = re.sub(r"^\.+|\.+$", lambda dots: "_" * len(dots[0]), stem) or "shard"
    if stem.split(".")[0].lower() in RESERVED:
        stem = f"_{stem}"
    return stem if len(stem) <= MAX_NAME else f"{stem[: MAX_NAME - 17]}-{_digest(base)[:16]}"


def _told_apart(urls: list[str]) -> list[str]:
    """For each address what tells it from the others: as little of it as will do, and what changes least."""
    marks: list[str | None] = [None] * len(urls)
    for shown in (public, _unsigned, str):
        texts = [shown(url) for url in urls]
        counts = Counter(texts)
        marks = [mark or (text if counts[text] == 1 else None) for mark, text in zip(marks, texts, strict=True)]
    return [mark or f"{url}\0{i}" for i, (mark, url) in enumerate(zip(marks, urls, strict=True))]


def _unsigned(url: str) -> str:
    """An address with those parameters of its query that say what is meant."""
    kept = [pair for pair in parse_qsl(urlsplit(url).query, keep_blank_values=True) if not SIGNATURES.fullmatch(pair[0])]
    return f"{public(url)}?{urlencode(kept)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
