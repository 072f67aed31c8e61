"""Manifests made from tars, and tars held against their manifest."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

from pydantic import BaseModel

from raymia.data.manifest import Label, Manifest, Shard, Split
from raymia.data.patterns import escaped
from raymia.data.remote import UnreadableError, open_file
from raymia.data.selection import ShardReader, shard_readers
from raymia.data.tar import NO_CAPTION, RawSample
from raymia.urls import public


class ShardSummary(BaseModel):
    """What one tar holds, by reading its headers, captions and images' bytes, without decoding images."""

    shard: Shard
    samples: int
    sha256: str | None
    faults: dict[str, int]
    """How many samples cannot be scored, by reason, as far as that shows without decoding."""
    without_caption: int
    shard_fault: str | None
    """Why the tar could not be read to its end; none where it could."""
    keys: tuple[str, ...]


def summarise_shard(reader: ShardReader) -> ShardSummary:
    """Read one tar to its end, and count what it holds."""
    faults: Counter[str] = Counter()
    keys: list[str] = []
    without_caption, samples, shard_fault = 0, 0, None
    for item in reader.read():
        if isinstance(item, RawSample):
            keys.append(item.key)
            without_caption += NO_CAPTION in item.flags
            if item.fault is not None:
                faults[item.fault.reason] += 1
        else:
            samples = item.samples
            shard_fault = None if item.fault is None else f"{item.fault.reason}: {item.fault.detail}"
    return ShardSummary(
        shard=reader.shard,
        samples=samples,
        sha256=_digest(reader.shard.url),
        faults=dict(faults),
        without_caption=without_caption,
        shard_fault=shard_fault,
        keys=tuple(keys),
    )


def _digest(url: str) -> str | None:
    try:
        with open_file(url) as stream:
            digest = hashlib.sha256()
            while chunk := stream.read(2**20):
                digest.update(chunk)
            return digest.hexdigest()
    except UnreadableError:
        return None


class Finding(BaseModel):
    """One respect in which the shards are damaged, or differ from their manifest."""

    split: str
    shard: str
    problem: str
    fatal: bool
    """Whether the manifest is wrong or samples are lost, as against a mere remark."""


def verify(manifest: Manifest, summaries: list[ShardSummary]) -> list[Finding]:
    """Hold the shards against the manifest: counts, digests, damage, and keys that stand in more than one shard.

    Args:
        manifest: what is expected.
        summaries: what each of its shards holds; see `summarise_shard`.

    Returns:
        The findings; none where nothing is wrong.
    """
    findings: list[Finding] = []
    for summary in summaries:
        where = {"split": summary.shard.split, "shard": summary.shard.name}
        if summary.shard_fault:
            findings.append(Finding(**where, problem=summary.shard_fault, fatal=True))
        for reason, count in summary.faults.items():
            findings.append(Finding(**where, problem=f"{count} samples cannot be scored: {reason}", fatal=True))
        if summary.without_caption:
            findings.append(Finding(**where, problem=f"{summary.without_caption} samples have no caption", fatal=False))
    for split in manifest.splits:
        of_split = [summary for summary in summaries if summary.shard.split == split.name]
        samples = sum(summary.samples for summary in of_split)
        if split.samples is not None and samples != split.samples:
            problem = f"{samples} samples found, {split.samples} expected"
            findings.append(Finding(split=split.name, shard="(all)", problem=problem, fatal=True))
        findings += _wrong_digests(split, of_split)
        shards_of = Counter(key for summary in of_split for key in set(summary.keys))
        repeated = sorted(key for key, count in shards_of.items() if count > 1)
        if repeated:
            problem = (
                f"{len(repeated)} keys stand in several shards, such as {repeated[0]!r}; each counts as a sample of its own"
            )
            findings.append(Finding(split=split.name, shard="(all)", problem=problem, fatal=False))
    # A selection may draw the samples of two splits from one shard.
    return findings + (_same_bytes(summaries) if manifest.selection is None else [])


def _wrong_digests(split: Split, summaries: list[ShardSummary]) -> list[Finding]:
    findings = []
    for path, expected in (split.sha256 or {}).items():
        summary = _named(path, summaries)
        if summary is None:
            problem = f"sha256 names {public(path)}, which is none of the split's shards"
            findings.append(Finding(split=split.name, shard=public(path), problem=problem, fatal=True))
        elif summary.sha256 is None or summary.sha256.lower() != expected.lower():
            problem = f"sha256 of {public(path)} is {summary.sha256}, expected {expected}"
            findings.append(Finding(split=split.name, shard=summary.shard.name, problem=problem, fatal=True))
    return findings


def _named(path: str, summaries: list[ShardSummary]) -> ShardSummary | None:
    """The shard that a path of the manifest means: the one that stands nearest, where the end of several is the same."""
    tail = "/" + re.sub(r"^(\.{1,2}/)+", "", path)
    found = [summary for summary in summaries if summary.shard.url == path or summary.shard.url.endswith(tail)]
    return min(found, key=lambda summary: len(summary.shard.url), default=None)


def _same_bytes(summaries: list[ShardSummary]) -> list[Finding]:
    """Shards that are copies of others, of which one label must be wrong where they have two."""
    findings = []
    first: dict[str, ShardSummary] = {}
    for summary in summaries:
        other = first.setdefault(summary.sha256, summary) if summary.sha256 is not None else summary
        if other is not summary:
            shard = summary.shard
            problem = f"holds the same bytes as {other.shard.split}/{other.shard.name}"
            fatal = other.shard.member is not shard.member
            findings.append(Finding(split=shard.split, shard=shard.name, problem=problem, fatal=fatal))
    return findings


def index_shards(name: str, splits: dict[str, tuple[Label, list[str]]], folder: Path) -> tuple[Manifest, list[ShardSummary]]:
    """Make a manifest by reading tars.

    Args:
        name: name of the data set.
        splits: label and shard patterns by split name; relative patterns start at the working directory.
        folder: where the manifest will stand; shards below it are written relative to it.

    Returns:
        The manifest, and the summary of each shard.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    draft = Manifest(
        name=name, splits=tuple(Split(name=key, member=label, shards=tuple(p)) for key, (label, p) in splits.items())
    )
    summaries = [summarise_shard(reader) for reader in shard_readers(draft, str(Path.cwd()))]
    final = []
    for split in draft.splits:
        of_split = [summary for summary in summaries if summary.shard.split == split.name]
        paths = {_relative(summary.shard.url, folder): summary for summary in of_split}
        final.append(
            Split(
                name=split.name,
                member=split.member,
                shards=tuple(escaped(path) for path in paths),
                samples=sum(summary.samples for summary in of_split),
                sha256={path: summary.sha256 for path, summary in paths.items() if summary.sha256},
            )
        )
    return Manifest(name=name, provenance="indexed from the shards", splits=tuple(final)), summaries


def _relative(url: str, folder: Path) -> str:
    return str(Path(url).relative_to(folder)) if "://" not in url and Path(url).is_relative_to(folder) else url
