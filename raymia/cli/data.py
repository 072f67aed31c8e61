"""`raymia data`: make and check manifests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError

from raymia.cli.console import Exit, Json, err, out
from raymia.documents import write_yaml
from raymia.errors import ConfigError, describe_validation
from raymia.urls import public

if TYPE_CHECKING:
    from raymia.curation.match import Matched
    from raymia.data.manifest import Label, Manifest


data_app = typer.Typer(help="Data sets: make and check manifests.", no_args_is_help=True)


@data_app.command("index")
def data_index(
    output: Annotated[Path, typer.Option("--out", help="Manifest to write.")],
    shards: Annotated[list[str] | None, typer.Argument(help="Shards whose membership is unknown.")] = None,
    member: Annotated[list[str] | None, typer.Option("--member", help="Shards of members.")] = None,
    non_member: Annotated[list[str] | None, typer.Option("--non-member", help="Shards of non-members.")] = None,
    generated: Annotated[
        list[str] | None, typer.Option("--generated", help="Shards of images that a model made, as a control.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the data set; by default the manifest's file name.")] = None,
) -> None:
    """Write a manifest by reading tars: counts and digests of every shard. Brace patterns and globs are expanded."""
    from raymia.data.index import index_shards

    labels = _by_split(member, non_member, generated, shards, "shards")
    try:
        manifest, summaries = index_shards(name or output.stem, labels, output.parent.resolve())
    except ValidationError as error:
        from raymia.data.manifest import Manifest

        raise ConfigError(f"--name: {describe_validation(error, Manifest)}") from error
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(write_yaml(manifest.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    out.say(f"{output}: {sum(s.samples for s in summaries)} samples in {len(summaries)} shards")
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


@data_app.command("prompts")
def data_prompts(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.yaml", help="Job whose replica is {service: folder, path: FOLDER}.")],
    as_json: Json = False,
) -> None:
    """Write the list of images that a person is to make by hand, with their file names, into the folder of a job."""
    from raymia.config import load_job
    from raymia.scan.prompts import write_prompts

    listed = write_prompts(load_job(job_file))
    if as_json:
        out.show_json(listed.model_dump())
        return
    out.say(f"{listed.file}: {listed.images:,} images, of which {listed.made:,} are there", whole=True)


def _by_split(
    member: list[str] | None,
    non_member: list[str] | None,
    generated: list[str] | None,
    unknown: list[str] | None,
    what: str,
) -> dict[str, tuple[Label, list[str]]]:
    """What a user names for each split, with its label; splits for which nothing is named are left out."""
    given: dict[str, tuple[Label, list[str] | None]] = {
        "members": (True, member),
        "non_members": (False, non_member),
        "generated": ("generated", generated),
        "all": ("unknown", unknown),
    }
    by_split = {split: (label, named) for split, (label, named) in given.items() if named}
    if not by_split:
        raise ConfigError(f"no {what} given; name them, with --member and --non-member where membership is known")
    return by_split


def _print_findings(manifest: Any, summaries: list[Any], as_json: bool) -> bool:
    """Print how the shards differ from their manifest; return whether that is more than remarks."""
    from raymia.cli.printing_data import print_findings
    from raymia.data.index import verify

    findings = verify(manifest, summaries)
    if as_json:
        out.show_json([finding.model_dump() for finding in findings])
    elif findings:
        print_findings(out, findings)
    else:
        out.say(f"{sum(s.samples for s in summaries)} samples in {len(summaries)} shards: nothing to object to")
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
    member: Annotated[
        list[str] | None, typer.Option("--member", help="A folder of images, tars or img2dataset's output: the members.")
    ] = None,
    non_member: Annotated[
        list[str] | None,
        typer.Option("--non-member", help="A folder of images, tars or img2dataset's output: the non-members."),
    ] = None,
    generated: Annotated[
        list[str] | None,
        typer.Option("--generated", help="A folder of images, tars or img2dataset's output that a model made: a control."),
    ] = None,
    captions: Annotated[str | None, typer.Option(help="Parquet or CSV of file and caption, for a folder of images.")] = None,
    per_shard: Annotated[int, typer.Option(min=1, help="Images that go into a shard.")] = 1000,
    name: Annotated[str | None, typer.Option(help="Name of the data set; by default the folder's.")] = None,
    as_json: Json = False,
) -> None:
    """Pack images into shards with a manifest, and a table of what became of each image. The same command resumes."""
    from raymia.cli.printing_data import print_attrition
    from raymia.curation.inputs import find_parts
    from raymia.curation.pack import pack, pack_manifest

    if sources and len(sources) == 1 and sources[0].endswith((".yaml", ".yml")) and not (member or non_member or generated):
        made, attrition = pack_manifest(sources[0], name, out_folder, err)
    else:
        named = _by_split(member, non_member, generated, sources, "images")
        several = [split for split, (_, places) in named.items() if len(places) > 1]
        if several:
            raise ConfigError(f"{several[0]}: one source for each split; put the images into one folder or table")
        parts = [p for split, (_, places) in named.items() for p in find_parts(split, places[0], captions, per_shard)]
        labels = {split: label for split, (label, _) in named.items()}
        made, attrition = pack(name or Path(out_folder).name, labels, parts, out_folder, err)
    if as_json:
        out.show_json(attrition)
        return
    _print_made(out_folder, made)
    print_attrition(out, attrition, remarks=False)  # they were told while it was packed


@data_app.command("embed")
def data_embed(
    manifest_file: ManifestFile,
    clip: Annotated[str, typer.Option(help="Folder, ARCHITECTURE/TAG of open_clip, or `testbed`.")] = "ViT-L-14/openai",
    features: FeaturesFolder = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="By default one per GPU, or one per two CPUs.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    as_json: Json = False,
) -> None:
    """Compute CLIP embeddings of images and captions, and image statistics. The same command resumes."""
    from raymia.cli.printing import print_counts
    from raymia.config import PoolConfig
    from raymia.curation.embed import embed

    counts, folder = embed(manifest_file, clip, features, PoolConfig(replicas=replicas, batch_size=batch_size), err)
    if as_json:
        out.show_json(counts)
        return
    print_counts(out, counts)
    out.say(f"Features: {public(folder)}", whole=True)


@data_app.command("dedup")
def data_dedup(
    manifest_file: ManifestFile,
    out_folder: OutFolder,
    features: FeaturesFolder = None,
    max_distance: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="Distance of unit image embeddings below which two images are twins.")
    ] = 0.5,
    verify: Annotated[bool, typer.Option("--verify", help="Twins must agree in their pixels, too.")] = False,
    as_json: Json = False,
) -> None:
    """Name near-duplicates as clusters, and drop non-members with a twin among members. The same command resumes."""
    from raymia.cli.printing_data import print_dedup
    from raymia.curation.dedup import dedup
    from raymia.curation.verification import MIN_AGREEMENT
    from raymia.report.pairs_page import write_pairs_page
    from raymia.run.storage import Storage

    deduplicated = dedup(manifest_file, out_folder, err, features, max_distance, MIN_AGREEMENT if verify else None)
    page = write_pairs_page(deduplicated, Storage(out_folder))
    if as_json:
        out.show_json(deduplicated.summary)
        return
    print_dedup(out, deduplicated.summary)
    out.say(f"Look at the pairs: {page}", whole=True)
    _print_made(out_folder, deduplicated.manifest)


@data_app.command("match")
def data_match(
    manifest_file: ManifestFile,
    out_folder: OutFolder,
    features: FeaturesFolder = None,
    method: Annotated[
        Literal["pairs", "strata"], typer.Option(help="Pairs within a caliper, or strata sampled down to equal numbers.")
    ] = "pairs",
    target_auc: Annotated[
        float | None,
        typer.Option(min=0.5, max=1.0, help="Stop when no blind AUC is above this; by default when none can be told from .5."),
    ] = None,
    size: Annotated[int | None, typer.Option(min=5, help="Members to keep at most, and as many non-members.")] = None,
    fold_captions: Annotated[
        bool, typer.Option("--fold-captions", help="Read captions in lower case, as CLIP's tokenizer does.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Keep members and non-members that are alike in captions, embeddings and image statistics."""
    from raymia.curation.match import match

    matched = match(manifest_file, out_folder, err, features, method, target_auc, size, fold_captions, seed)
    _print_matched(out_folder, matched, as_json)


@data_app.command("sanitise")
def data_sanitise(
    manifest_file: ManifestFile,
    out_folder: OutFolder,
    features: FeaturesFolder = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Keep only members whose captions pass for a non-member's: LAION-mi's one-sided rule, for comparison with `match`."""
    from raymia.curation.match import sanitise

    _print_matched(out_folder, sanitise(manifest_file, out_folder, features, seed), as_json)


@data_app.command("attrition")
def data_attrition(
    manifest_file: ManifestFile,
    run: Annotated[str | None, typer.Option(help="A scan of the manifest, for the samples lost there.")] = None,
    as_json: Json = False,
) -> None:
    """Say how many images of each split got how far, and whether the splits lost theirs alike."""
    from raymia.cli.printing_data import print_attrition
    from raymia.curation.attrition import attrition

    losses = attrition(manifest_file, run)
    if as_json:
        out.show_json(losses)
    else:
        print_attrition(out, losses)


@data_app.command("split")
def data_split(
    manifest_file: ManifestFile,
    out_folder: OutFolder,
    groups: Annotated[
        str | None, typer.Option(help="Parquet or CSV of split, key and COLUMN; by default the manifest's clusters.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column that holds the group's name, such as a concept.")] = "cluster",
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the samples that become members.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Draw members and non-members at random, whole groups at a time, to train a model on the members alone."""
    from raymia.curation.assign import assign

    assignment = assign(manifest_file, out_folder, groups, column, share, seed)
    if as_json:
        out.show_json(assignment)
        return
    _print_made(out_folder, assignment.manifest)
    unreadable = f"; {assignment.unreadable} samples without a readable image left out" if assignment.unreadable else ""
    out.say(f"{assignment.groups:,} groups of {column}{unreadable}")


def _print_made(folder: str, made: Manifest) -> None:
    """Print where a new manifest is, and how many samples its splits have."""
    counts = ", ".join(f"{split.name} {split.samples:,}" for split in made.splits)
    out.say(f"{public(folder)}/manifest.yaml: {counts}", whole=True)


def _print_matched(folder: str, matched: Matched, as_json: bool) -> None:
    from raymia.cli.printing_data import print_matched

    if as_json:
        out.show_json(matched.summary)
        return
    print_matched(out, matched.summary)
    _print_made(folder, matched.manifest)
