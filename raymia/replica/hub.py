"""The model hub: files of a repository in the local cache, and what the hub said where it does not give them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from raymia.errors import ConfigError

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
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns), etag_timeout=TIMEOUT_S))
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
