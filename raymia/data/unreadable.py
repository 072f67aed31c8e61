"""The one error for files elsewhere: what fsspec and its clients raise, as a word and a sentence."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from raymia.data.patience import ATTEMPTS, chain, is_of_client, may_pass, patiently, status_of
from raymia.errors import first_line
from raymia.urls import public

T = TypeVar("T")

REASONS = {
    "missing": "no such file",
    "unauthorised": "the server wants to know who asks; give credentials",
    "forbidden": "access is refused; check credentials and permissions, or whether a signed URL has expired",
    "gone": "the server says that it is gone for good",
    "rate_limited": "the server wants fewer requests; read fewer shards at once, or try again later",
    "server_error": "the server failed; try again later",
    "timeout": "no answer in time; try again later",
    "no_connection": "no connection",
    "no_credentials": "no credentials were found; give them as the storage's own client wants them",
    "unsupported": "cannot be read by this installation",
    "too_large": "more bytes than the limit",
    "unreadable": "cannot be read",
}
"""Why a file cannot be read: each a fixed word, with what it means for a person."""
STATUSES = {401: "unauthorised", 403: "forbidden", 404: "missing", 408: "timeout", 410: "gone", 429: "rate_limited"}
"""Reasons by HTTP status; from 500 it is the server."""
NO_CREDENTIALS = re.compile("Credential")
CONNECTING = re.compile("Connect|Certificate|SSL")
"""What stands in the names of clients' errors that mean that no connection was made, or none that can be trusted."""
NETWORK_NUMBERS = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
MISTAKES = (TypeError, AttributeError, NameError, AssertionError)
"""What a mistake in raymia itself would raise, which must not look like a broken file."""


@dataclass(frozen=True)
class RemoteLimits:
    """What reading a file elsewhere may cost; files on a local disk have an end of their own.

    Attributes:
        max_bytes: a file of more is not read further. A server that cannot give parts of it takes as much of the local disk.
        idle_timeout_s: seconds in which the next mebibyte, or what is left of the file, must be there.
        attempts: how often a block is tried, with growing waits between, before the file counts as unreadable.
    """

    max_bytes: int = 16 * 2**30
    idle_timeout_s: float = 60.0
    attempts: int = ATTEMPTS


LIMITS = RemoteLimits()
"""The limits where none are given."""


class UnreadableError(Exception):
    """A file that cannot be read.

    Attributes:
        reason: a short fixed word, one of `REASONS`.
        detail: what is wrong, in words for a person, without secrets.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Make the error; `reason` and `detail` are kept as attributes."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = public(detail)

    def __str__(self) -> str:
        return self.detail


def ask(url: str, act: Callable[[], T], limits: RemoteLimits = LIMITS) -> T:
    """Ask something of fsspec about a URL, with patience; whatever it or a client of it raises becomes one error.

    Args:
        url: named in the error.
        act: what is asked; nothing but calls of fsspec belongs in it.
        limits: how often.

    Raises:
        UnreadableError: it failed for good.
    """
    try:
        return patiently(act, limits.attempts)
    except UnreadableError:
        raise
    except Exception as error:
        if isinstance(error, MISTAKES) and _raised_here(error):
            raise
        raise unreadable(url, error, limits.attempts) from error


def _raised_here(error: BaseException) -> bool:
    """Whether an error was raised by code of raymia, and not by what it calls."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("raymia.")


def in_time(seconds: float, act: Callable[[], T]) -> T:
    """Do something that may hang, and leave it behind when it does.

    Raises:
        TimeoutError: it is not done in time.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(act())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            failed.append(error)

    thread = threading.Thread(target=run, name="raymia reading", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"nothing came for {seconds:g} s")
    return done[0]


def unreadable(url: str, error: BaseException, attempts: int = 1) -> UnreadableError:
    """The one error that stands for whatever was raised while a URL was read.

    Args:
        url: is named without secrets.
        error: what was raised; a status may stand in an error behind it.
        attempts: how often it was tried, where trying again made sense.
    """
    reason, status = reason_of(error), status_of(error)
    said = "" if reason == "missing" else first_line(error)
    kind = type(error).__name__
    more = [f"status {status}" if status is not None and str(status) not in said else ""]
    more.append(said if kind in said or not said else f"{kind}: {said}")
    more.append(f"tried {attempts} times" if attempts > 1 and may_pass(error) else "")
    shown = "; ".join(part for part in more if part)
    return UnreadableError(reason, f"{public(url)}: {REASONS[reason]}{f' ({shown})' if shown else ''}")


def reason_of(error: BaseException) -> str:
    """The word of `REASONS` for whatever was raised while a file was read."""
    status = status_of(error)
    if status is not None and status >= 400:
        return STATUSES.get(status, "server_error" if status >= 500 else "unreadable")
    links = list(chain(error))
    for kinds, reason in _KINDS:
        if any(isinstance(link, kinds) for link in links):
            return reason
    if any(NO_CREDENTIALS.search(type(link).__name__) for link in links):
        return "no_credentials"
    if isinstance(error, ValueError) and "rotocol not known" in str(error):
        return "unsupported"
    if any(_is_of_connection(link) for link in links):
        return "no_connection"
    return "missing" if isinstance(error, FileNotFoundError) else "unreadable"


def _is_of_connection(error: BaseException) -> bool:
    if is_of_client(error):
        return may_pass(error) or CONNECTING.search(type(error).__name__) is not None
    return isinstance(error, OSError) and error.errno in NETWORK_NUMBERS


_KINDS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((TimeoutError,), "timeout"),
    ((ConnectionError,), "no_connection"),
    ((PermissionError,), "forbidden"),
    ((ImportError, NotImplementedError), "unsupported"),
)
"""Reasons by kind of error, the first that is among an error and those behind it."""
