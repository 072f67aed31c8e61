"""Calls of a hosted service over HTTP: in their turn, within limits of time and size, and again where that may help."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from raymia.data.patience import LASTING_STATUSES, PASSING_STATUSES, seconds_asked
from raymia.errors import first_line
from raymia.services.gate import Outcome, Turns
from raymia.services.protocol import ServiceError, ServiceStoppedError

T = TypeVar("T")

BUSY = 429
KEY_STATUSES = (401, 402, 403)
"""By which a server says that the key, or what it pays for, does not do."""
LONGEST_DETAIL = 300
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
KEPT_HEADERS = (
    "content-type", "date", "x-request-id", "request-id", "openai-processing-ms", "openai-version", "openai-model",
    "finish-reason", "seed", "x-credits-consumed",
)  # fmt: skip
"""Headers of an answer that say which request it was, which model answered and what was counted."""


class PassingError(Exception):
    """A call failed in a way that another try may mend."""


@dataclass(frozen=True)
class Reply:
    """What a server said to a call.

    Attributes:
        status: of HTTP.
        headers: by their names in lower case, those that tell what was answered.
        content: all of it.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> dict[str, Any]:
        """The content as a JSON object.

        Raises:
            PassingError: it is none, as where an answer broke off.
        """
        try:
            content = json.loads(self.content)
        except (ValueError, RecursionError) as error:
            raise PassingError(f"an answer that is no JSON ({first_line(error)})") from error
        if not isinstance(content, dict):
            raise PassingError("an answer that is no JSON object")
        return content

    def message(self) -> str:
        """What the server said, in one short line."""
        try:
            said = _words(json.loads(self.content[: 2**16]))
        except (ValueError, RecursionError):
            said = self.content[: 2**12].decode(errors="replace")
        return " ".join(said.split())[:LONGEST_DETAIL] or "no word"


def _words(said: Any) -> str:
    """The message in what a server said, wherever it stands."""
    if isinstance(said, dict):
        names = ("message", "detail", "msg", "error", "errors", "name", "code", "type", "status")
        return ": ".join(_words(said[name]) for name in names if said.get(name)) or json.dumps(said)[:LONGEST_DETAIL]
    if isinstance(said, list):
        return "; ".join(_words(one) for one in said[:3])
    return str(said)


Form = Mapping[str, str | tuple[str, bytes, str]]
"""A form's texts by name, or a file's name, content and type."""


@dataclass(frozen=True)
class Request:
    """A call as it is sent."""

    method: str
    url: str
    json: Any
    form: Form | None
    headers: dict[str, str]
    question: str
    """What names it at the gate, over all processes."""


class Judge(Protocol):
    """What tells refusals of a service from its faults."""

    def verdict(self, reply: Reply) -> ServiceError | ServiceStoppedError | None:
        """What an answer of status 300 or more says: that this image is refused, or that no call can succeed.

        None where neither is said; then the status decides.
        """
        ...

    def authorization(self, key: str) -> dict[str, str]:
        """The headers that a key is sent in."""
        ...


@dataclass(frozen=True)
class CallLimits:
    """Limits of one call.

    Attributes:
        timeout_s: for which one try may take.
        attempts: how often a call is tried that fails in a way that may pass.
        in_flight: calls at a time.
        max_bytes: of an answer.
    """

    timeout_s: float
    attempts: int
    in_flight: int
    max_bytes: int


class Calls:
    """Calls of one service, within ``async with``, by which connections are opened and closed."""

    def __init__(self, name: str, url: str, key: str | None, judge: Judge, limits: CallLimits, turns: Turns) -> None:
        """Say what is called; nothing is yet.

        Args:
            name: of the service and where it is, for errors.
            url: that addresses of calls are below.
            key: that is sent to addresses of the same server alone; none where it wants none.
            judge: of the service's answers.
            limits: of a call.
            turns: in which calls are made.
        """
        self._name = name
        self._url = url.rstrip("/") + "/"
        self._key = key
        self._judge = judge
        self._limits = limits
        self._turns = turns

    async def __aenter__(self) -> Calls:
        """Open what connections are made with."""
        self._stopped: ServiceStoppedError | None = None
        self._places = asyncio.Semaphore(self._limits.in_flight)
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._limits.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=self._limits.in_flight),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close connections."""
        await self._session.close()

    async def __call__(
        self,
        method: str,
        address: str,
        read: Callable[[Reply], T],
        json: Any = None,
        form: Form | None = None,
        headers: Mapping[str, str] | None = None,
        counts: bool = True,
    ) -> T:
        """Make a call, and make it again while that may help.

        Args:
            method: of HTTP.
            address: below the service's URL, or a URL.
            read: makes of the answer what is wanted of it. An answer that it cannot read is asked for again; it raises a
                `ServiceError` where the answer is a refusal.
            json: body, as JSON.
            form: body, as a form: texts, or a file's name, content and type.
            headers: further ones.
            counts: whether it asks for an image; asking how far one has come does not.

        Returns:
            What `read` made of an answer of a status below 300.

        Raises:
            ServiceError: the service refuses, or failed every time.
            ServiceStoppedError: it cannot be asked any more.
        """
        asked = Request(method, urljoin(self._url, address), json, form, dict(headers or {}), uuid.uuid4().hex)
        if self._key is not None and _origin(asked.url) == _origin(self._url):
            asked.headers.update(self._judge.authorization(self._key))
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._limits.attempts),
            wait=wait_exponential_jitter(initial=FIRST_WAIT_S, max=LONGEST_WAIT_S, jitter=FIRST_WAIT_S),
            retry=retry_if_exception_type(PassingError),
            reraise=True,
        )
        try:
            async with self._places:
                return await retrying(self._once, asked, read, counts)
        except PassingError as error:
            raise ServiceError("service_failed", f"{self._name}: {error} (tried {self._limits.attempts} times)") from None

    async def _once(self, asked: Request, read: Callable[[Reply], T], counts: bool) -> T:
        """What is wanted, by one call; where its end says nothing of the question, by the next that has a turn."""
        again = True
        while again:
            if counts:
                await self._turn(asked.question)
            outcome, wait_s, why, found = await self._tried(asked, read)
            if counts:
                again = await self._turns.report(asked.question, outcome, wait_s, why)
            else:
                again = False
                if wait_s is not None:
                    await asyncio.sleep(min(wait_s, self._limits.timeout_s))
        if counts and isinstance(found, ServiceStoppedError):
            self._stopped = found
        if isinstance(found, Exception):
            raise found
        return found

    async def _tried(self, asked: Request, read: Callable[[Reply], T]) -> tuple[Outcome, float | None, str, T | Exception]:
        """What became of a call: its outcome, the seconds that the server asks to be left alone, why, and what was found."""
        try:
            reply, wait_s = await self._sent(asked)
        except TimeoutError:
            why = f"no answer within {self._limits.timeout_s:g} s"
            return "failed", None, why, PassingError(why)
        except aiohttp.ClientConnectorError as error:
            why = self.clean(f"{type(error).__name__}: {first_line(error)}")
            return "unreachable", None, why, PassingError(why)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = self.clean(f"{type(error).__name__}: {first_line(error)}")
            return "failed", None, why, PassingError(why)
        except ServiceError as error:
            return "refused", None, "", error
        return self._read(reply, read) if 200 <= reply.status < 300 else self._judged(reply, wait_s)

    def _judged(self, reply: Reply, wait_s: float | None) -> tuple[Outcome, float | None, str, Exception]:
        """What an answer of status 300 or more comes to."""
        verdict = self._judge.verdict(reply)
        why = f"status {reply.status}: {self.clean(reply.message())}"
        if isinstance(verdict, ServiceError):
            return "refused", None, "", ServiceError(verdict.reason, self.clean(verdict.detail))
        if verdict is None and reply.status == BUSY:
            return "busy", wait_s, why, PassingError(why)
        if verdict is None and may_pass_status(reply.status):
            return "failed", wait_s, why, PassingError(why)
        if verdict is not None:
            why = self.clean(str(verdict))
        elif reply.status in KEY_STATUSES:
            # What the server says of a key may hold the key.
            why = f"status {reply.status}: the key is not accepted, or what it pays for is used up; set another, or pay"
        else:
            why = f"{why}; correct `replica` in the job"
        return "stopped", None, why, self._end(why)

    def _end(self, why: str) -> ServiceStoppedError:
        return ServiceStoppedError(f"{self._name} cannot be asked any more: {why}; answers so far are kept")

    def _read(self, reply: Reply, read: Callable[[Reply], T]) -> tuple[Outcome, float | None, str, T | Exception]:
        try:
            return "answered", None, "", read(reply)
        except ServiceError as error:
            return "refused", None, "", ServiceError(error.reason, self.clean(error.detail))
        except ServiceStoppedError as error:
            why = self.clean(str(error))
            return "stopped", None, why, self._end(why)
        except PassingError as error:
            why = self.clean(str(error))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            # It came whole, and the image that it does not hold was made: another would be paid for, and be no better.
            why = self.clean(f"{self._name}: an answer that cannot be read ({type(error).__name__}: {first_line(error)})")
            return "answered", None, "", ServiceError("service_failed", why)
        return "failed", None, why, PassingError(why)

    def stop(self) -> None:
        """Make no further call; those that are under way come to their end."""
        self._stopped = ServiceStoppedError(f"{self._name}: stopped; answers so far are kept")

    async def _turn(self, question: str) -> None:
        """Wait for a turn.

        Raises:
            ServiceStoppedError: there will be none.
        """
        if self._stopped is not None:
            raise self._stopped
        while (turn := await self._turns.take(question)).wait_s is not None or turn.over is not None:
            if turn.over is not None:
                raise ServiceStoppedError(f"{self._name} {self.clean(turn.over)}; answers so far are kept")
            await asyncio.sleep(turn.wait_s or 0.0)

    async def _sent(self, asked: Request) -> tuple[Reply, float | None]:
        """The answer to one try, and for how many seconds the server asks to be left alone."""
        body: dict[str, Any] = {"json": asked.json} if asked.form is None else {"data": _form(asked.form)}
        body |= {"headers": asked.headers, "allow_redirects": False, "proxy": proxy_of(asked.url)}
        request = self._session.request(asked.method, asked.url, **body)
        async with request as answer:
            parts, size = [], 0
            async for part in answer.content.iter_chunked(2**16):
                parts.append(part)
                size += len(part)
                if size > self._limits.max_bytes:
                    raise ServiceError("answer_too_large", f"{self._name}: more than {self._limits.max_bytes} bytes")
            kept = {name: self.clean(answer.headers[name])[:LONGEST_DETAIL] for name in KEPT_HEADERS if name in answer.headers}
            wait = answer.headers.get("Retry-After")
            content = b"".join(parts)
            if answer.status >= 300:  # words, which are cut later: a key must not be cut in the middle
                content = self.clean(content.decode(errors="replace")).encode()
            return Reply(answer.status, kept, content), None if wait is None else seconds_asked(wait.strip())

    def clean(self, text: str) -> str:
        """A text that can be written, without the key in whatever form a server may send it back."""
        text = text.encode(errors="replace").decode()
        if not self._key:
            return text
        encoded = base64.b64encode(self._key.encode()).decode()
        for form in {self._key, quote(self._key, safe=""), json.dumps(self._key)[1:-1], encoded, encoded.rstrip("=")}:
            text = text.replace(form, "...")
        return text


def may_pass_status(status: int) -> bool:
    """Whether a server that answers with this status may answer otherwise another time."""
    return status in PASSING_STATUSES or (status >= 500 and status not in LASTING_STATUSES)


def _form(parts: Form) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in parts.items():
        if isinstance(value, str):
            # A part of its own, as files are: some servers read no other kind of form.
            form.add_field(name, value, content_type="text/plain")
        else:
            filename, content, kind = value
            form.add_field(name, content, filename=filename, content_type=kind)
    return form


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for an address; passwords that it has for servers (.netrc) are for none of ours."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc.rpartition("@")[2]) else getproxies().get(parts.scheme)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
