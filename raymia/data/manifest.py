"""Manifests: which shards hold which samples, and what is known of their membership."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import fsspec
import yaml
from braceexpand import braceexpand
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from raymia.errors import ConfigError, describe_validation, first_line
from raymia.shipped import NAMED, manifest_file

Label = bool | Literal["unknown"]
"""Whether the samples of a split are members, as a manifest writes it."""
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
    member: Label = Field(description="Whether the samples were in the model's training set.")
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
        """Whether the samples are members; none where that is unknown."""
        return None if self.member == "unknown" else self.member


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
    splits: tuple[Split, ...] = Field(min_length=1)

    @property
    def samples(self) -> int | None:
        """The number of samples; none where a split does not announce its own."""
        counts = [split.samples for split in self.splits]
        return None if None in counts else sum(count for count in counts if count is not None)

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
        with fsspec.open(path, "r") as stream:
            content = yaml.safe_load(stream)
    except FileNotFoundError as error:
        raise ConfigError(
            f"manifest {source}: no such file; give a path, a URL or one of {', '.join(NAMED.names())}"
        ) from error
    except (OSError, ValueError, ImportError, yaml.YAMLError) as error:
        raise ConfigError(f"manifest {source}: cannot be read as YAML: {first_line(error)}") from error
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"manifest {source}: {describe_validation(error, Manifest)}") from error
    return manifest, posixpath.dirname(path) if "://" in path else str(Path(path).resolve().parent)


def within(folder: str, path: str) -> str:
    """The path or URL that `path` means where it stands in a manifest.

    Args:
        folder: the manifest's folder, where relative paths start.
        path: a path or URL, which stays as it is where it is absolute.
    """
    if "://" in path or posixpath.isabs(path):
        return path
    scheme, mark, start = folder.rpartition("://")
    joined = posixpath.join(start, path)
    # Object stores know no "..", and names of theirs may hold what a file system would tidy away.
    return scheme + mark + (joined if mark and ".." not in path.split("/") else posixpath.normpath(joined))


def resolve_shards(manifest: Manifest, folder: str) -> list[Shard]:
    """Every shard of every split, splits taking turns so that each part of a scan sees all of them.

    Shards are named by their file names; where a split has two of the same name, a digest of the path is added.

    Args:
        manifest: the manifest, as `load_manifest` gives it.
        folder: where its relative paths start.

    Raises:
        ConfigError: a split's patterns are malformed or match nothing, or name one shard twice.
    """
    unpacked = next((split.name for split in manifest.splits if split.source is not None), None)
    if unpacked is not None:
        raise ConfigError(
            f"splits.{unpacked}: a list of URLs, not shards; fetch and pack it first: raymia data pack MANIFEST --out FOLDER"
        )
    by_split = [name_shards(split.name, split.label, _expand(split, folder)) for split in manifest.splits]
    longest = max(len(shards) for shards in by_split)
    return [shards[i] for i in range(longest) for shards in by_split if i < len(shards)]


def _expand(split: Split, folder: str) -> list[str]:
    urls: list[str] = []
    for pattern in split.shards:
        try:
            expanded = list(braceexpand(pattern))
        except ValueError as error:
            raise ConfigError(f"splits.{split.name}.shards: {pattern!r} is not a brace pattern: {error}") from error
        for path in expanded:
            url = within(folder, path)
            urls += _glob(split, url) if re.search(r"[*?\[]", path) else [url]
    if not urls:
        raise ConfigError(
            f"splits.{split.name}: no shard matches {', '.join(split.shards)} (relative to {folder}); correct the pattern"
        )
    twice = [url for url, count in Counter(urls).items() if count > 1]
    if twice:
        raise ConfigError(f"splits.{split.name}: {twice[0]} is named twice; name each shard once")
    return urls


def _glob(split: Split, url: str) -> list[str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        paths = sorted(str(match) for match in filesystem.glob(path))
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        raise ConfigError(f"splits.{split.name}.shards: {url}: {first_line(error)}") from error
    return [str(filesystem.unstrip_protocol(match)) for match in paths] if "://" in url else paths


def name_shards(split: str, member: bool | None, urls: list[str]) -> list[Shard]:
    """The shards of a split, named by their file names; where two share one, a digest of the path is added."""
    stems = [re.sub(r"[^A-Za-z0-9_.-]", "_", posixpath.basename(url).removesuffix(".tar")) for url in urls]
    counts = Counter(stem.lower() for stem in stems)
    shards = []
    for stem, url in zip(stems, urls, strict=True):
        name = stem if counts[stem.lower()] == 1 else f"{stem}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
        shards.append(Shard(split=split, name=name, url=url, member=member))
    return shards
