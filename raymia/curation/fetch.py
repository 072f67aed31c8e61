"""Lists of URLs to tars, by the program img2dataset.

img2dataset needs pandas below 3 and much else, so it is run as a program from an environment of its own, not imported.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa

from raymia.data.manifest import UrlTable
from raymia.data.tables import read_table
from raymia.data.unreadable import UnreadableError, ask
from raymia.errors import ConfigError, RaymiaError
from raymia.run.storage import Storage
from raymia.urls import public

log = logging.getLogger(__name__)

PROGRAM_VARIABLE = "RAYMIA_IMG2DATASET"
"""Environment variable that names the program, where it is not on PATH."""
LOT = "\0lot"
"""Column of the random numbers by which rows are drawn; no column of a user's has this name."""
URLS_FILE = "urls.parquet"
MARK_FILE = "list.sha256"
"""Digest of the list that a folder is of, and whether all of it was tried."""
COMPLETE = "complete"
IMAGES_PER_SHARD = 1000
FETCH_TIMEOUT_S = 10
FETCH_RETRIES = 2
FETCH_THREADS = 64


def find_program() -> str:
    """The path of img2dataset.

    Raises:
        ConfigError: there is no such program.
    """
    program = shutil.which(os.environ.get(PROGRAM_VARIABLE, "img2dataset"))
    if program is None:
        raise ConfigError(
            "img2dataset not found: lists of URLs are fetched by it; install it in an environment of its own (pipx install "
            f"img2dataset), or name the program in {PROGRAM_VARIABLE}"
        )
    return program


def read_urls(source: UrlTable) -> pd.DataFrame:
    """The rows to fetch, as `url` and `caption`, in the order of the table.

    Raises:
        ConfigError: a table cannot be read, or lacks a column.
    """
    try:
        filesystem, pattern = ask(source.table, lambda: fsspec.core.url_to_fs(source.table))
        paths = sorted(ask(source.table, lambda: filesystem.glob(pattern))) if "*" in pattern else [pattern]
    except UnreadableError as error:
        raise ConfigError(f"table cannot be listed: {error.detail}") from error
    if not paths:
        raise ConfigError(f"table {public(source.table)}: no file matches")
    columns = tuple(dict.fromkeys((source.url_column, source.caption_column, *source.at_least, *source.at_most)))
    parts: list[pd.DataFrame] = []
    for number, path in enumerate(paths):
        url = str(filesystem.unstrip_protocol(path)) if "://" in source.table else str(path)
        part = read_table(url, columns, "table", others=False, text=(source.url_column, source.caption_column))[list(columns)]
        # Rows draw lots, and the lowest are kept after each part: a table of billions never stands in memory.
        part[LOT] = np.random.default_rng([source.seed, number]).random(len(part))
        part = part[part[source.url_column].notna()]
        for column, lowest in source.at_least.items():
            part = part[pd.to_numeric(part[column], errors="coerce") >= lowest]
        for column, highest in source.at_most.items():
            part = part[pd.to_numeric(part[column], errors="coerce") <= highest]
        parts.append(part)
        if source.draw is not None:
            whole = pd.concat(parts, ignore_index=True)
            parts = [whole if len(whole) <= source.draw else whole.nsmallest(source.draw, LOT).sort_index()]
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[[source.url_column, source.caption_column]].astype("string").set_axis(["url", "caption"], axis=1)
    return rows.fillna({"caption": ""}).reset_index(drop=True)


def fetch(source: UrlTable, folder: Path) -> Path:
    """Fetch a list of URLs into tars; what was fetched before is not fetched again.

    Args:
        source: the list of URLs.
        folder: local folder for the list, the tars and img2dataset's tables.

    Returns:
        The folder of img2dataset's output.

    Raises:
        ConfigError: the list cannot be read, img2dataset is not installed, or `folder` holds another list.
        RaymiaError: img2dataset failed.
    """
    rows = read_urls(source)
    program = find_program()
    digest = hashlib.sha256("\n".join(rows["url"] + "\t" + rows["caption"]).encode()).hexdigest()
    storage, out = Storage(str(folder)), folder / "tars"
    known, _, state = (storage.read(MARK_FILE) or b"").decode("utf-8", "replace").strip().partition(" ")
    if known not in ("", digest):
        raise ConfigError(f"{folder}: holds what was fetched for another list; remove it, or choose another --out")
    if state == COMPLETE and out.is_dir():
        return out
    storage.write_table(URLS_FILE, pa.Table.from_pandas(rows, preserve_index=False))
    storage.write(MARK_FILE, f"{digest} begun\n".encode())
    log.info("fetching %d images with %s", len(rows), program)
    done = subprocess.run(
        [program, *(f"--{name}={value}" for name, value in _options(folder / URLS_FILE, out).items())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not out.is_dir():
        last = public(" ".join(done.stderr.strip().splitlines()[-1:]))
        raise RaymiaError(f"img2dataset ended with code {done.returncode}: {last}; run the same command again to resume")
    storage.write(MARK_FILE, f"{digest} {COMPLETE}\n".encode())
    return out


def _options(urls: Path, out: Path) -> dict[str, str]:
    """Options of img2dataset."""
    return {
        "url_list": str(urls),
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "output_folder": str(out),
        # Images are kept as they were sent: size, format and quality are among what a data set may give away.
        "disable_all_reencoding": "True",
        "number_sample_per_shard": str(IMAGES_PER_SHARD),
        "processes_count": str(os.cpu_count() or 1),
        "thread_count": str(FETCH_THREADS),
        "timeout": str(FETCH_TIMEOUT_S),
        "retries": str(FETCH_RETRIES),
        "incremental_mode": "incremental",
        "enable_wandb": "False",
    }
