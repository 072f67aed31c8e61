"""How often and how long raymia tries again what failed elsewhere: one policy for reading, for storage and for locks."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

T = TypeVar("T")

ATTEMPTS = 6
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 20.0
LONGEST_ASKED_S = 60.0
"""A server that asks to be left alone for longer is asked again after this."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers of the operating system's errors that mean that storage is full."""
LASTING_NUMBERS = (*DISK_FULL, errno.EROFS, errno.ENAMETOOLONG, errno.EFBIG, errno.ELOOP)
"""Numbers of the operating system's errors that another try cannot mend."""
LASTING_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, ValueError)
"""Errors that another try cannot mend."""
LASTING_NAMES = re.compile("Credential|Validation|Invalid|TooManyRedirects|NoRegion|Unknown|Config|ContentEncoding")
"""What stands in the names of clients' errors that another try cannot mend."""
CLIENT_LIBRARIES = ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "httpx", "requests", "urllib3")
"""Libraries whose errors, where they are no OSError, are those of a connection."""
PASSING_STATUSES = (408, 425, 429)
"""Statuses below 500 after which a server may answer another time."""
LASTING_STATUSES = (501, 505)
"""Statuses from 500 that stay."""
LONGEST_CHAIN = 20
"""Errors that are looked at behind one error."""


def patiently(act: Callable[[], T], attempts: int | None = None) -> T:
    """Do something until it succeeds, fails in a way that stays, or has been tried often enough; then its own error is raised.

    Args:
        act: what to do; it may be done several times.
        attempts: how often to try; by default `ATTEMPTS`.
    """
    retrying = Retrying(
        stop=stop_after_attempt(attempts or ATTEMPTS), wait=_wait, retry=retry_if_exception(may_pass), reraise=True
    )
    return retrying(act)


def _wait(state: RetryCallState) -> float:
    """Seconds until the next try: longer each time, and as long as the server asks."""
    growing = wait_exponential_jitter(initial=FIRST_WAIT_S, max=LONGEST_WAIT_S, jitter=FIRST_WAIT_S)(state)
    error = None if state.outcome is None else state.outcome.exception()
    asked = None if error is None else retry_after_of(error)
    return growing if asked is None else max(growing, min(asked, LONGEST_ASKED_S))


def may_pass(error: BaseException) -> bool:
    """Whether another try may succeed where this error was raised."""
    status = status_of(error)
    if status is not None:
        return status in PASSING_STATUSES or (status >= 500 and status not in LASTING_STATUSES)
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        # fsspec says so of whatever kept it from asking for a file's size.
        return may_pass(error.__cause__)
    if isinstance(error, LASTING_ERRORS) or any(LASTING_NAMES.search(type(link).__name__) for link in chain(error)):
        return False
    if isinstance(error, OSError):
        return error.errno not in LASTING_NUMBERS
    return is_of_client(error)


def is_of_client(error: BaseException) -> bool:
    """Whether an error is one of a library that talks to servers."""
    return type(error).__module__.partition(".")[0] in CLIENT_LIBRARIES


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was raised from or after."""
    found: BaseException | None = error
    for _ in range(LONGEST_CHAIN):
        if found is None:
            return
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error, or one behind it, tells of; none where none does."""
    for link in chain(error):
        response = getattr(link, "response", None)
        # What aiohttp's parser raises has a code of its own, and no server said it.
        names = ("status", "status_code", "code") if not type(link).__module__.startswith("aiohttp.") else ("status",)
        candidates = [getattr(link, name, None) for name in names]
        if isinstance(response, Mapping):
            candidates.append(_of_map(response, "ResponseMetadata", "HTTPStatusCode"))
        elif response is not None:
            candidates += [getattr(response, "status_code", None), getattr(response, "status", None)]
        for status in candidates:
            if isinstance(status, int) and not isinstance(status, bool) and 100 <= status < 600:
                return int(status)
    return None


def retry_after_of(error: BaseException) -> float | None:
    """Seconds for which a server asks to be left alone; none where it does not ask."""
    for link in chain(error):
        response = getattr(link, "response", None)
        headers = getattr(link, "headers", None) or getattr(response, "headers", None)
        if isinstance(response, Mapping):
            headers = _of_map(response, "ResponseMetadata", "HTTPHeaders")
        if isinstance(headers, Mapping):
            asked = next((value for name, value in headers.items() if str(name).lower() == "retry-after"), None)
            if asked is not None:
                return seconds_asked(str(asked).strip())
    return None


def seconds_asked(asked: str) -> float | None:
    if asked.isdigit():
        return float(asked)
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _of_map(value: Mapping[Any, Any], *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None  # type: ignore[assignment]
    return value
