"""`raymia data claims`: what works and a model's provider say of training, rights and dates."""

from __future__ import annotations

from typing import Annotated

import typer

from raymia.cli.console import Json, err, out
from raymia.urls import public

WORKS = (
    "A manifest, or M.yaml#SPLIT for one of its splits; a folder of images, tars or img2dataset's output; or a table of works."
)


def data_claims(
    works: Annotated[str, typer.Argument(metavar="WORKS", help=WORKS)],
    provider: Annotated[
        str | None,
        typer.Option(
            metavar="CLAIMS.yaml", help="What a model's provider says of its training data; by default the manifest's `claims`."
        ),
    ] = None,
    lookup: Annotated[
        str | None, typer.Option(metavar="FILE.parquet", help="Matches of `data lookup` of the same works.")
    ] = None,
    out_file: Annotated[str | None, typer.Option("--out", metavar="FILE.parquet", help="Table of all that is said.")] = None,
    non_members: Annotated[
        str | None,
        typer.Option(
            metavar="OUT",
            help="Works first published after the provider's cut-off: FILE.parquet for their keys, or a folder for their "
            "images, with a manifest that `audit --control` takes.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what works say of their dates and rights, and hold it against what a model's provider says."""
    from raymia.cli.printing_claims import print_claims
    from raymia.curation.claims import claims
    from raymia.curation.works import Works
    from raymia.data.provider import load_provider

    said = None if provider is None else load_provider(provider)
    found = claims(Works(works), err, said, lookup, out_file, non_members)
    if as_json:
        out.show_json({**found.summary.model_dump(), "listed": found.table.to_pylist()})
        return
    print_claims(out, found)
    late = found.summary.late
    written = {"Claims": out_file, "Certain non-members": non_members if late is None else late.manifest}
    for what, path in written.items():
        if path is not None:
            out.say(f"{what}: {public(path)}", whole=True)
