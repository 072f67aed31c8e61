"""`raymia data`: make and check manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from pydantic import ValidationError

from raymia.console import Exit, Json, out
from raymia.errors import ConfigError, describe_validation

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

    labels: dict[str, tuple[bool | Literal["unknown"], list[str]]] = {}
    for split, label, patterns in (("members", True, member), ("non_members", False, non_member), ("all", "unknown", shards)):
        if patterns:
            labels[split] = (label, patterns)  # type: ignore[assignment]
    if not labels:
        raise ConfigError("no shards given; name them, with --member and --non-member where membership is known")
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
    from raymia.data.manifest import load_manifest, resolve_shards

    manifest, folder = load_manifest(manifest_file)
    summaries = [summarise_shard(shard) for shard in resolve_shards(manifest, folder)]
    if _print_findings(manifest, summaries, as_json):
        raise typer.Exit(Exit.FAILED)


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
