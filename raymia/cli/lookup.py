"""`raymia data lookup`: works that a public training list names."""

from __future__ import annotations

from typing import Annotated

import typer

from raymia.cli.console import Json, err, out
from raymia.errors import ConfigError
from raymia.urls import public

WORKS = (
    "A manifest, or M.yaml#SPLIT for one of its splits; a folder of images, tars or img2dataset's output; or a table of files, "
    "URLs, digests or perceptual hashes."
)


def data_lookup(
    works: Annotated[str, typer.Argument(metavar="WORKS", help=WORKS)],
    tables: Annotated[
        list[str], typer.Option("--in", metavar="TABLE", help="Parquet or CSV of the list: path, URL or glob; may be repeated.")
    ],
    control: Annotated[
        str | None, typer.Option(help="Other people's images, like WORKS: what is found of them is found wrongly.")
    ] = None,
    out_file: Annotated[
        str | None, typer.Option("--out", metavar="FILE.parquet", help="Table of the matches to write.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(help="Folder of `data embed` for works or control, by the model that made the list's embeddings."),
    ] = None,
    embeddings: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE.npy", help="Embeddings whose rows are the tables', a file or glob for each --in."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT=NAME", help="Column of the list for url, text, sha256, md5, phash or embedding."),
    ] = None,
    url_column: Annotated[str | None, typer.Option(help="Column or JSON field of WORKS and control that holds URLs.")] = None,
    as_json: Json = False,
) -> None:
    """Look for works in a public training list, by URL, digest, look and embedding. Exit code 0 with none found, too."""
    from raymia.cli.printing_lookup import print_lookup
    from raymia.curation.lookup import lookup
    from raymia.curation.works import Works

    pairs = [_named(text) for text in column or ()]
    named = dict(pairs)
    if len(named) < len(pairs):
        raise ConfigError("--column: names two columns for one thing; name each once")
    others = None if control is None else Works(control, url_column)
    found = lookup(Works(works, url_column), tables, err, others, features or (), embeddings or (), named, out_file)
    if as_json:
        out.show_json(found.summary)
        return
    print_lookup(out, found)
    if out_file is not None:
        out.say(f"Matches: {public(out_file)}", whole=True)


def _named(text: str) -> tuple[str, str]:
    role, mark, name = text.partition("=")
    if not mark or not name:
        raise ConfigError(f"--column {text}: expected WHAT=NAME, such as url=image_link")
    return role, name
