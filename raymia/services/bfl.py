"""Black Forest Labs' hosted FLUX models."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from pydantic import Field, model_validator

from raymia.errors import ConfigError
from raymia.services.answers import digest_of
from raymia.services.calls import Calls, PassingError, Reply
from raymia.services.hosted import Hosted, Made
from raymia.services.protocol import Capability, Query, ServiceError, ServiceStoppedError

DOMAIN = "bfl.ai"
"""Below which are the machines that a task may be asked of: it is known only to the one that its polling_url names."""
FIRST_POLL_S = 0.5
LONGEST_POLL_S = 5.0
"""Seconds between two looks at a task."""
MODERATED = ("request moderated", "content moderated")
ENDED = ("error", "failed", "task not found")
"""Of a task's status: no image will come of it. Any other but Ready means that it is under way."""
GONE = "task_ended"
"""Reason of such a task, within this file; what is kept is service_failed."""
COUNTED = ("cost", "input_mp", "output_mp", "seed", "duration")
"""Numbers in answers that are kept: the cost is in credits."""
ADDRESS = re.compile(r"[!-\[\]-~]{1,8192}")
"""What an address is made of; no blanks and backslashes, which programs read in different ways."""


@dataclass(frozen=True)
class Route:
    """What one of the models is asked for.

    Attributes:
        as_written: by which it is told to draw the prompt as it is; nothing where it never changes prompts.
        multiple: that sides are multiples of, in px.
        sides: least and most, in px.
        safety: greatest `safety_tolerance`.
        steps: whether it is told the number of steps.
        guidance: least and greatest guidance scale; none where it is told none.
        distilled: whether its guidance is no classifier-free one, but an input of a network that was distilled under it.
    """

    as_written: Mapping[str, bool]
    multiple: int
    sides: tuple[int, int]
    safety: int
    steps: bool = False
    guidance: tuple[float, float] | None = None
    distilled: bool = False


FLUX_1, FLUX_2 = (256, 1440), (64, 2048)
STEPS = (1, 50)
ROUTES: Mapping[str, Route] = {
    "flux-2-pro": Route({"disable_pup": True}, 16, FLUX_2, 5),
    "flux-2-flex": Route({"prompt_upsampling": False}, 16, FLUX_2, 5, steps=True, guidance=(1.5, 10.0)),
    "flux-2-klein-4b": Route({}, 16, FLUX_2, 5),
    "flux-2-klein-9b": Route({}, 16, FLUX_2, 5),
    "flux-pro-1.1": Route({"prompt_upsampling": False}, 32, FLUX_1, 6),
    "flux-dev": Route({"prompt_upsampling": False}, 32, FLUX_1, 6, steps=True, guidance=(1.5, 5.0), distilled=True),
}


@dataclass
class Task:
    """An image that was asked for and is paid.

    Attributes:
        polling_url: where it is asked after.
        counted: numbers that were said when it was taken.
        seen: what was last heard of it, for a person.
    """

    polling_url: str
    counted: dict[str, str] = field(default_factory=dict)
    seen: str = "nothing yet"


_PLACES: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
"""For tasks under way, by the loop that waits for them."""
_LEFT: WeakKeyDictionary[Calls, dict[str, Task]] = WeakKeyDictionary()
"""Tasks of which no image came, by whose calls they are and the digest of the query."""


class BlackForestLabs(Hosted):
    """``POST v1/MODEL`` of api.bfl.ai, which takes a task; then its polling_url until it is ready, then the image's address.

    Every model is told to draw the prompt as it is written, and one whose answer names another prompt is quarantined. An image
    can be sent as a reference alone, and at no noise level: only images from text are asked for. flux-2-max is not among the
    models, as it may search the web for what it draws; the guidance of flux-dev is no classifier-free one, so that it is a
    field here and no attack's.

    A task is paid when it is taken. From then on it is only asked after: while that fails it is tried until `ready_within_s` is
    over, and when the same question comes again in this process, the same task is asked after and none is submitted. A process
    that is killed between the two forgets its tasks: they are made and paid, their results are gone 10 minutes later, and a
    resumed scan submits those questions anew, at most `in_flight` of each replica. So may a submission be paid twice that broke
    off before its answer: there is no key by which the service would know it again.

    The key goes to `url` and, as tasks are known to one region's machines alone, over https to machines below bfl.ai, where
    `url` is one; never to the image's address, which is signed and holds for 10 minutes.

    Source: https://api.bfl.ai/openapi.json as of August and September 2026 by its readers (`Flux2Inputs`, `Flux2FlexInputs`,
    `Flux2KleinInputs`, `FluxPro11Inputs`, `FluxDevInputs`); black-forest-labs/skills, `skills/bfl-api/references/endpoints.md`;
    black-forest-labs/blackforest, `types/inputs/flux_dev.py`. All by that documentation, not tried.
    """

    name: ClassVar = "bfl"
    title: ClassVar = "Black Forest Labs' FLUX models"
    capabilities: ClassVar = frozenset(("text_to_image", "steps", "guidance", "seed", "lossless", "prompt"))
    free: ClassVar = Hosted.free | {"ready_within_s"}
    asked_again: ClassVar = True  # after the same task, which is paid
    rewrites_prompts: ClassVar = "unless told not to, as it is; an image of another prompt is quarantined as prompt_changed"
    sizes: ClassVar = "multiples of 16 from 64 to 2048, of 32 from 256 to 1440 for flux-pro-1.1 and flux-dev"

    url: str = Field("https://api.bfl.ai", description="Address below which v1/MODEL is, of all regions or of one.")
    key_env: str | None = Field("BFL_API_KEY", description="Environment variable that holds the key.")
    model: Literal["flux-2-pro", "flux-2-flex", "flux-2-klein-4b", "flux-2-klein-9b", "flux-pro-1.1", "flux-dev"] = Field(
        "flux-2-pro", description="Which of the service's models is asked; steps and guidance can be told some alone."
    )
    safety_tolerance: int = Field(
        2, ge=0, le=6, description="Of its filter: 0 the strictest; to 5 for FLUX.2 and to 6 for the others."
    )
    guidance: float | None = Field(
        None, ge=1.5, le=5.0, description="With flux-dev: the scale that its network is told; none for the service's own."
    )
    ready_within_s: float = Field(600.0, gt=0, le=86400, description="For so long a task may take that was submitted.")

    @model_validator(mode="after")
    def _fits_the_model(self) -> BlackForestLabs:
        if self.safety_tolerance > self.route.safety:
            raise ValueError(f"safety_tolerance: {self.model} takes 0 to {self.route.safety}")
        if self.guidance is not None and not self.route.distilled:
            raise ValueError("guidance: goes with model: flux-dev; others take the attack's `guidance`, or none")
        return self

    @property
    def route(self) -> Route:
        """What the model is asked for."""
        return ROUTES[self.model]

    def offers(self) -> frozenset[Capability]:
        route, known = self.route, super().offers()
        if not route.steps:
            known -= {"steps"}
        return known if route.guidance is not None and not route.distilled else known - {"guidance"}

    def authorization(self, key: str) -> dict[str, str]:
        return {"x-key": key}

    def check(self, kinds: Sequence[Query]) -> None:
        route = self.route
        for query in kinds:
            for side in (query.width, query.height):
                if side % route.multiple or not route.sides[0] <= side <= route.sides[1]:
                    raise ConfigError(
                        f"replica.resolution_px: {side}, but {self.model} makes sides that are multiples of {route.multiple}, "
                        f"{route.sides[0]} to {route.sides[1]} px"
                    )
            if query.steps is not None:
                _require_within("steps", query.steps, STEPS, self.model)
            if query.guidance is not None and route.guidance is not None:
                _require_within("guidance", query.guidance, route.guidance, self.model)

    async def ask(self, query: Query, calls: Calls) -> Made:
        left = _LEFT.setdefault(calls, {})
        asked = digest_of(self.asked(query))
        async with _PLACES.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.in_flight)):
            task = left.pop(asked, None) or await self._submitted(query, calls)
            try:
                async with asyncio.timeout(self.ready_within_s):
                    return await self._fetched(task, calls)
            except TimeoutError:
                left[asked] = task
                why = f"a task was not ready within {self.ready_within_s:g} s (last: {task.seen})"
                raise ServiceError("service_failed", why) from None
            except (ServiceError, ServiceStoppedError) as error:
                if isinstance(error, ServiceStoppedError) or error.reason == "service_failed":
                    left[asked] = task
                raise

    def _body(self, query: Query) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt": query.prompt,
            "width": query.width,
            "height": query.height,
            "seed": self.seed(query),
            "safety_tolerance": self.safety_tolerance,
            "output_format": "png",
            **self.route.as_written,
        }
        guidance = self.guidance if self.route.distilled else query.guidance
        told = {"steps": query.steps, "guidance": guidance}
        return body | {name: value for name, value in told.items() if value is not None}

    async def _submitted(self, query: Query, calls: Calls) -> Task:
        task = await calls("POST", f"v1/{self.model}", _task, json=self._body(query))
        if not _is_own(task.polling_url, self.url):
            raise ServiceStoppedError(
                f"service {self.name} at {self.url}: its polling_url is of another server, to which the key is not sent; "
                "set `replica.url` to the service's own address"
            )
        return task

    async def _fetched(self, task: Task, calls: Calls) -> Made:
        said = await self._ready(task, calls)
        result = said["result"]
        sample = result["sample"]
        if not _is_elsewhere(sample, self.url):
            raise ServiceError("service_failed", "the image's address is none that is fetched: not https, or of no public host")
        try:
            content = await calls("GET", sample, _content, counts=False)
        except ServiceStoppedError:
            raise ServiceError("service_failed", "the image's address was refused; it holds for 10 minutes") from None
        except ServiceError as error:
            if error.reason == "answer_too_large":
                raise
            raise ServiceError("service_failed", f"the image was not fetched: {error.detail}") from None
        prompt = result.get("prompt")
        counted = task.counted | _counted(result) | _counted(said)
        return Made(content, prompt if isinstance(prompt, str) else None, counted)

    async def _ready(self, task: Task, calls: Calls) -> dict[str, Any]:
        """What is said of a task when it is ready; asking after it costs nothing, and goes on while it fails."""
        key = self.key()
        headers = {} if key is None else self.authorization(key)
        wait_s = FIRST_POLL_S
        while True:
            try:
                said = await calls("GET", task.polling_url, _state, headers=headers, counts=False)
            except ServiceError as error:
                if error.reason == "content_filter":
                    raise
                if error.reason != "service_failed":
                    raise ServiceError("service_failed", error.detail) from None
                task.seen = error.detail
            else:
                if said is not None:
                    return said
                task.seen = "under way"
            await asyncio.sleep(wait_s)
            wait_s = min(1.5 * wait_s, LONGEST_POLL_S)

    def verdict(self, reply: Reply) -> ServiceError | ServiceStoppedError | None:
        said = reply.message()
        if reply.status == 404 and "task not found" in said.lower():
            return ServiceError(GONE, said)
        if reply.status == 422 and said.lower().startswith("invalid api key"):
            return ServiceStoppedError("status 422: the key is not accepted; set another")
        return super().verdict(reply)


def _task(reply: Reply) -> Task:
    """The task that was taken. As it is paid, no answer is one to submit again for."""
    try:
        said = reply.json()
        polling_url = said["polling_url"]
    except (PassingError, KeyError) as error:
        raise ServiceError("service_failed", f"a task was taken, but not said where it is asked after ({error})") from error
    return Task(str(polling_url), _counted(said))


def _state(reply: Reply) -> dict[str, Any] | None:
    """What is said of a task that is ready; none of one that is under way."""
    said = reply.json()
    status = str(said["status"])
    if status.lower() in MODERATED:
        raise ServiceError("content_filter", f"{status}{_details(said)}")
    if status.lower() in ENDED:
        raise ServiceError(GONE, f"a task ended as: {status}{_details(said)}")
    if status.lower() != "ready":
        return None
    result = said.get("result")
    if not isinstance(result, dict) or not isinstance(result.get("sample"), str):
        raise ServiceError(GONE, "a task is ready, but without an image's address")
    return said


def _content(reply: Reply) -> bytes:
    if not reply.content:
        raise ValueError("nothing")
    return reply.content


def _counted(said: Mapping[str, Any]) -> dict[str, str]:
    """Numbers of an answer that are worth keeping."""
    return {name: str(said[name]) for name in COUNTED if isinstance(said.get(name), int | float)}


def _details(said: Mapping[str, Any]) -> str:
    details = said.get("details") or said.get("error")
    return f": {json.dumps(details)[:200]}" if details else ""


def _require_within(name: str, value: float, bounds: tuple[float, float], model: str) -> None:
    """Refuse what a model is not told.

    Raises:
        ConfigError: names the field.
    """
    if not bounds[0] <= value <= bounds[1]:
        raise ConfigError(
            f"{name} {value:g}: {model} takes {bounds[0]:g} to {bounds[1]:g}; change the attack's `{name}`, or set null for "
            "the service's own"
        )


def _is_own(address: str, url: str) -> bool:
    """Whether an address that a service sent may be told its key: of its own origin, or over https at its own domain."""
    if _origin(address) == _origin(url):
        return True
    own = urlsplit(url).hostname or ""
    return _is_below(_public_host(address) or "", DOMAIN if _is_below(own, DOMAIN) else own)


def _is_elsewhere(address: str, url: str) -> bool:
    """Whether an image is fetched from an address that a service sent: of its own origin, or over https at a named host."""
    if _origin(address) == _origin(url):
        return True
    host = _public_host(address)
    if host is None or "." not in host.strip("."):
        return False
    try:
        ip_address(host)
    except ValueError:
        return True
    return False


def _public_host(address: str) -> str | None:
    """The host of an https address on the usual port, without user and password; none of any other."""
    if not ADDRESS.fullmatch(address):
        return None
    try:
        parts = urlsplit(address)
        usual = parts.scheme == "https" and parts.port in (None, 443)
    except ValueError:
        return None
    return parts.hostname if usual and parts.username is None and parts.password is None else None


def _origin(address: str) -> tuple[str, str] | None:
    if not ADDRESS.fullmatch(address):
        return None
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    return parts.scheme, parts.netloc


def _is_below(host: str, domain: str) -> bool:
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))
