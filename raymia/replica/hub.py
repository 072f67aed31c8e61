"""The model hub: files of a repository in the local cache, and what the hub said where it does not give them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from raymia.errors import ConfigError, first_line
from raymia.replica.documents import read_json
from raymia.replica.weight_files import Header, choose, join, placed

log = logging.getLogger(__name__)

TIMEOUT_S = 5
STATUS = {
    401: "it wants to know who asks: log in with `hf auth login`, or the id is wrong",
    403: "access is refused: accept the model's terms on its page, and log in with `hf auth login`",
    404: "there is no such repository or file; give a folder in diffusers' layout or the id of a pipeline",
    429: "too many requests; wait, or log in with `hf auth login`",
}
"""What to do about an answer, by its HTTP status."""
SHOWN = 300


def download(model: str, patterns: Sequence[str], revision: str | None) -> Path:
    """The snapshot of a repository in the hub's cache, with the files of some patterns.

    Args:
        model: the hub id.
        patterns: of the files.
        revision: none for the newest.

    Raises:
        ConfigError: the hub does not give them and the cache lacks them; says what the hub said.
    """
    with _asking(model):
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns), etag_timeout=TIMEOUT_S))


def remote_files(model: str, revision: str | None) -> list[str]:
    """The names of all files of a repository; none where it cannot be asked, so that only its cache is at hand."""
    try:
        return HfApi().list_repo_files(model, revision=revision)
    except Exception as error:  # noqa: BLE001 - whatever the hub's client raises; the weights are checked when they are there
        log.info("replica.model %s: the hub is not asked for headers of weights: %s", model, first_line(error))
        return []


def remote_headers(
    model: str, revision: str | None, part: str, stem: str, files: Sequence[str]
) -> tuple[dict[str, Header], bool]:
    """The headers of a part's weights, of which the hub sends nothing else, and whether they are of several files.

    Args:
        model: the hub id.
        revision: none for the newest.
        part: its folder's name.
        stem: of its weight files.
        files: of the repository.

    Raises:
        ConfigError: see `raymia.replica.weight_files`; or the hub does not give them.
    """
    names = [file.removeprefix(f"{part}/") for file in files if file.startswith(f"{part}/")]
    _, name = choose(names, stem, f"{model}/{part}")
    announced = None
    if name.endswith(".json"):
        announced = placed(read_json(download(model, [f"{part}/{name}"], revision) / part / name), f"{model}/{part}/{name}")
    found: dict[str, dict[str, Header]] = {}
    for shard in [name] if announced is None else sorted(set(announced.values())):
        with _asking(model):
            told = HfApi().parse_safetensors_file_metadata(model, f"{part}/{shard}", revision=revision)
        found[shard] = {tensor: Header(tuple(info.shape), info.dtype) for tensor, info in told.tensors.items()}
    return join(found, announced, f"{model}/{part}"), announced is not None


@contextmanager
def _asking(model: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Whatever the hub's client, its HTTP client or its cache raises.
        raise ConfigError(f"replica.model {model!r}: no such folder, and the hub does not give it: {_said(error)}") from error


def _said(error: BaseException) -> str:
    """The hub's status with its words and what to do; where it said nothing, the error's own words."""
    asked: BaseException | None = error
    while asked is not None:
        response = getattr(asked, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            advice = STATUS.get(status, "try again later" if status >= 500 else "see the model's page")
            return f"HTTP {status}, {_words(asked)}; {advice}"
        asked = asked.__cause__
    name = type(error.__cause__ or error).__name__
    if name in ("OfflineModeIsEnabled", "ConnectError", "ConnectTimeout", "ReadTimeout"):
        return (
            f"it cannot be reached ({name}: {_words(error.__cause__ or error)}), and the cache lacks it; fetch it while online"
        )
    return f"{name}: {_words(error)}"


def _words(error: BaseException) -> str:
    # The first line is the status, and what is wrong stands below it.
    words = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return " ".join(words.split())[:SHOWN]
