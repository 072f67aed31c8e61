"""`raymia data`: make and check manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from raymia.console import Exit, Json, err, out
from raymia.errors import ConfigError, describe_validation

if TYPE_CHECKING:
    from raymia.data.manifest import Label

data_app = typer.Typer(help="Data sets: make and check manifests.", no_args_is_help=True)


@data_app.command("index")
def data_index(
    output: Annotated[Path, typer.Option("--out", help="Manifest to write.")],
    shards: Annotated[list[str] | None, typer.Argument(help="Shards whose membership is unknown.")] = None,
    member: Annotated[list[str] | None, typer.Option("--member", help="Shards of members.")] = None,
    non_member: Annotated[list[str] | None, typer.Option("--non-member", help="Shards of non-members.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the data set; by default the manifest's file name.")] = None,
) -> None:
    """Write a manifest by reading tars: counts and digests of every shard. Brace patterns and globs are expanded."""
    from raymia.data.index import index_shards

    labels = _by_split(member, non_member, shards, "shards")
    try:
        manifest, summaries = index_shards(name or output.stem, labels, output.parent.resolve())
    except ValidationError as error:
        from raymia.data.manifest import Manifest

        raise ConfigError(f"--name: {describe_validation(error, Manifest)}") from error
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(yaml.safe_dump(manifest.model_dump(mode="json", exclude_none=True), sort_keys=False))
    out.print(f"{output}: {sum(s.samples for s in summaries)} samples in {len(summaries)} shards", highlight=False)
    _print_findings(manifest, summaries, as_json=False)


@data_app.command("verify")
def data_verify(manifest_file: Annotated[str, typer.Argument(metavar="M.yaml")], as_json: Json = False) -> None:
    """Read every shard of a manifest and hold it against the manifest; exit code 1 where something is wrong."""
    from raymia.data.index import summarise_shard
    from raymia.data.manifest import load_manifest
    from raymia.data.selection import shard_readers

    manifest, folder = load_manifest(manifest_file)
    summaries = [summarise_shard(reader) for reader in shard_readers(manifest, folder)]
    if _print_findings(manifest, summaries, as_json):
        raise typer.Exit(Exit.FAILED)


def _by_split(
    member: list[str] | None, non_member: list[str] | None, unknown: list[str] | None, what: str
) -> dict[str, tuple[Label, list[str]]]:
    """What a user names for each split, with its label; splits for which nothing is named are left out."""
    given: dict[str, tuple[Label, list[str] | None]] = {
        "members": (True, member),
        "non_members": (False, non_member),
        "all": ("unknown", unknown),
    }
    found = {split: (label, named) for split, (label, named) in given.items() if named}
    if not found:
        raise ConfigError(f"no {what} given; name them, with --member and --non-member where membership is known")
    return found


def _print_findings(manifest: Any, summaries: list[Any], as_json: bool) -> bool:
    from raymia.data.index import verify
    from raymia.report.terminal import print_findings

    findings = verify(manifest, summaries)
    if as_json:
        out.print_json(json.dumps([finding.model_dump() for finding in findings]))
    elif findings:
        print_findings(out, findings)
    else:
        out.print(
            f"{sum(s.samples for s in summaries)} samples in {len(summaries)} shards: nothing to object to", highlight=False
        )
    return any(finding.fatal for finding in findings)


ManifestFile = Annotated[str, typer.Argument(metavar="M.yaml", help="Manifest.")]
OutFolder = Annotated[str, typer.Option("--out", help="Folder for what is made, with its manifest.yaml.")]
FeaturesFolder = Annotated[str | None, typer.Option(help="Folder of `data embed`; by default features/NAME by the manifest.")]


@data_app.command("pack")
def data_pack(
    out_folder: OutFolder,
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="A manifest; or a folder of images, tars or img2dataset's output."),
    ] = None,
    member: Annotated[list[str] | None, typer.Option("--member", help="The same, of members.")] = None,
    non_member: Annotated[list[str] | None, typer.Option("--non-member", help="The same, of non-members.")] = None,
    captions: Annotated[str | None, typer.Option(help="Parquet or CSV of file and caption, for a folder of images.")] = None,
    per_shard: Annotated[int, typer.Option(min=1, help="Images that go into a shard.")] = 1000,
    name: Annotated[str | None, typer.Option(help="Name of the data set; by default the folder's.")] = None,
    as_json: Json = False,
) -> None:
    """Pack images into shards with a manifest, and a table of what became of each image. The same command resumes."""
    from raymia.curation.inputs import find_parts
    from raymia.curation.pack import pack, pack_manifest

    if sources and len(sources) == 1 and sources[0].endswith((".yaml", ".yml")) and not (member or non_member):
        made, attrition = pack_manifest(sources[0], name, out_folder, err)
    else:
        named = _by_split(member, non_member, sources, "images")
        several = [split for split, (_, places) in named.items() if len(places) > 1]
        if several:
            raise ConfigError(f"{several[0]}: one source for each split; put the images into one folder or table")
        parts = [p for split, (_, places) in named.items() for p in find_parts(split, places[0], captions, per_shard)]
        labels = {split: label for split, (label, _) in named.items()}
        made, attrition = pack(name or Path(out_folder).name, labels, parts, out_folder, err)
    if as_json:
        out.print_json(attrition.model_dump_json())
        return
    counts = ", ".join(f"{split.name} {split.samples}" for split in made.splits)
    out.print(f"{out_folder}/manifest.yaml: {counts}", markup=False, highlight=False, soft_wrap=True)
    out.print(attrition.statement, markup=False, highlight=False)


@data_app.command("embed")
def data_embed(
    manifest_file: ManifestFile,
    clip: Annotated[str, typer.Option(help="Folder, ARCHITECTURE/TAG of open_clip, or `testbed`.")] = "ViT-L-14/openai",
    features: FeaturesFolder = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="By default one per GPU, or one per two CPUs.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
) -> None:
    """Compute CLIP embeddings of images and captions, and image statistics. The same command resumes."""
    from raymia.config import PoolConfig
    from raymia.curation.embed import embed
    from raymia.report.terminal import print_counts

    counts, folder = embed(manifest_file, clip, features, PoolConfig(replicas=replicas, batch_size=batch_size), err)
    print_counts(out, counts)
    out.print(f"Features: {folder}", markup=False, highlight=False, soft_wrap=True)
