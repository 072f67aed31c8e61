"""What hosted services share: options, a key from the environment, answers that are kept, and many calls at a time."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from abc import abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from raymia.errors import ConfigError
from raymia.replica.autoencoder import Autoencoder
from raymia.replica.folder import find_pipeline
from raymia.run.files import ANSWERS
from raymia.services.answers import Answer, Answers, digest_of
from raymia.services.calls import CallLimits, Calls, Reply
from raymia.services.checks import image_of, require_prompt
from raymia.services.gate import Gate, Limits, OwnTurns
from raymia.services.protocol import (
    BlackBox,
    Capability,
    LocalModel,
    Queries,
    Query,
    Service,
    ServiceError,
    ServiceStoppedError,
    Surroundings,
)
from raymia.shipped import model_folder

T = TypeVar("T")

REFUSING = (
    "safety", "moderat", "content_policy", "content policy", "content_filter", "nsfw", "flagged as", "sensitive content",
    "sensitive words",
)  # fmt: skip
"""What stands in the words of services whose filter holds an image back."""
LONGEST_PROMPT = 2**16
"""Characters of what a service says of an answer that are kept."""
REFUSED_STATUSES = (400, 403, 422, 451)
"""By which services say that they will not make one image."""
DEAD_AFTER_S = 60.0
"""A call whose outcome is not known so long after its time is one of a process that died."""


@dataclass(frozen=True)
class Made:
    """An image as a service sent it.

    Attributes:
        content: the bytes of its file.
        prompt: under which it was made, where the service says so.
        headers: what else it said that is worth keeping.
    """

    content: bytes
    prompt: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Hosted(Service):
    """Base of services behind HTTP.

    To add one, say what it can do, and how one image is asked for; the rest is done here: calls in their turn, again where that
    may help, answers that are kept, filters, sizes and formats. See docs/add_a_service.md.
    """

    free: ClassVar = frozenset(
        ("key_env", "price_per_image", "currency", "budget", "in_flight", "calls_per_minute", "timeout_s", "attempts")
    ) | {"patience_s", "answers", "max_answer_bytes"}

    asked_again: ClassVar[bool] = False
    """Whether a question that failed every time may be asked once more in the same process, as where that costs nothing."""

    url: str = Field(description="Address of the service, below which its calls are.")
    key_env: str | None = Field(None, description="Environment variable that holds the key, on every machine that asks.")
    price_per_image: float | None = Field(None, ge=0, description="What an image costs, by your contract.")
    currency: str = Field("USD", min_length=1, max_length=12, description="Of price and budget.")
    budget: float | None = Field(
        None, ge=0, description="What all images that its answers hold may cost, with those of runs that share them."
    )
    in_flight: int = Field(8, ge=1, le=1024, description="Calls at a time, of each replica of the pool.")
    calls_per_minute: float | None = Field(None, gt=0, description="At most, over the whole pool; none for as many as go.")
    timeout_s: float = Field(120.0, gt=0, le=3600, description="For which one call may take.")
    attempts: int = Field(6, ge=1, le=100, description="How often a call is tried that fails, waiting longer each time.")
    patience_s: float = Field(600.0, ge=0, le=86400, description="For so long a service may answer nothing before a scan ends.")
    autoencoder: str | None = Field(
        None, description="Pipeline whose autoencoder is the service's own, where that is known: attacks are calibrated by it."
    )
    answers: str | None = Field(None, description="Where answers are kept; by default in RUN/answers.")
    max_answer_bytes: int = Field(2**26, ge=2**10, le=2**31, description="Of a longer answer nothing is read.")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an address that begins with https://, or http:// of a machine of your own")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("expected an address without user, password and query: name the key's variable in key_env")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _goes_together(self) -> Hosted:
        if self.key_env is not None and self.url.startswith("http://") and not _is_near(urlsplit(self.url).hostname or ""):
            raise ValueError("url: would send the key unencrypted; give an address that begins with https://")
        if self.budget is not None and self.price_per_image is None:
            raise ValueError("budget: goes with price_per_image, by which it is counted")
        return self

    @abstractmethod
    async def ask(self, query: Query, calls: Calls) -> Made:
        """Ask for one image.

        Args:
            query: what is asked for.
            calls: by which it is; see `raymia.services.calls.Calls`.

        Raises:
            ServiceError: the service refuses.
        """

    def authorization(self, key: str) -> dict[str, str]:
        """The headers that a key is sent in."""
        return {"Authorization": f"Bearer {key}"}

    def verdict(self, reply: Reply) -> ServiceError | ServiceStoppedError | None:
        """What an answer of status 300 or more says; see `raymia.services.calls.Judge`."""
        if reply.status not in REFUSED_STATUSES:
            return None
        said = reply.message()
        filtered = any(word in said.lower() for word in REFUSING)
        if reply.status == 403 and not filtered:
            return None
        return ServiceError("content_filter" if filtered else "refused_by_service", f"status {reply.status}: {said}")

    def asked(self, query: Query) -> dict[str, Any]:
        """Everything that the answer to a query depends on, JSON-like: under its digest the answer is kept."""
        # Without a seed the answer is whatever comes: one for each sample, draw and seed of the job.
        own = {"key": query.key, "draw": query.draw, "drawn_for": query.seed}
        seed = self.told_seed(query)
        seeded = own if seed is None else {"seed": seed}
        options = {name: value for name, value in self.identity().items() if name not in ("resolution_px", "autoencoder")}
        image = None if query.image is None else hashlib.sha256(pixels_of(query.image).tobytes()).hexdigest()
        return {
            "service": options,
            "prompt": query.prompt,
            **seeded,
            "height": query.height,
            "width": query.width,
            "steps": query.steps,
            "guidance": query.guidance,
            "image": image,
            "strength": query.strength,
        }

    def told_seed(self, query: Query) -> int | None:
        return self.seed(query) if "seed" in self.offers() else None

    def seed(self, query: Query) -> int:
        """The seed that is sent, of 31 bits, as all services take them."""
        return query.seed % 2**31

    def offers(self) -> frozenset[Capability]:
        """What can be asked of it, as it is configured."""
        return self.capabilities if self.autoencoder is None else self.capabilities | {"reconstruction"}

    def price(self) -> float | None:
        return self.price_per_image

    def fingerprint(self) -> str:
        """What identifies the attacked model: a digest of the options, and of the autoencoder's weights where one is known."""
        if self.autoencoder is None:
            return super().fingerprint()
        folder = find_pipeline(model_folder(self.autoencoder), with_weights=True)
        return hashlib.sha256(f"{super().fingerprint()}\n{folder.autoencoder_digest()}".encode()).hexdigest()

    def gate(self, spent: float = 0.0) -> Gate:
        """The gate through which all calls of a scan go.

        Args:
            spent: on images that its answers hold, of the budget.
        """
        images = None
        if self.budget is not None and self.price_per_image:
            images = max(0, int((self.budget - spent) / self.price_per_image + 1e-9))
        return Gate(Limits(self.calls_per_minute, self.patience_s, images, self.timeout_s + DEAD_AFTER_S))

    def key(self) -> str | None:
        """The key, from the environment; none where the service wants none.

        Raises:
            ConfigError: the environment has none.
        """
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise ConfigError(
                f"replica.key_env: no environment variable {self.key_env} on this machine; set it to your key, on every "
                "machine that asks"
            )
        if not key.isascii() or not key.isprintable():
            raise ConfigError(f"replica.key_env: what {self.key_env} holds is no key: it has characters that no header can")
        return key

    def kept(self, run: str | None) -> Answers:
        """Answers that were given before.

        Args:
            run: the run directory; none where there is none.
        """
        return Answers(self.answers or (None if run is None else f"{run}/{ANSWERS}"))

    def open(self, model: LocalModel | None, surroundings: Surroundings) -> BlackBox:
        kept = self.kept(surroundings.run)
        turns = surroundings.turns or OwnTurns(self.gate(kept.images() * (self.price_per_image or 0.0)))
        return Asker(self, kept, turns, self._loaded_autoencoder())

    def _loaded_autoencoder(self) -> Autoencoder | None:
        if self.autoencoder is None:
            return None
        return find_pipeline(model_folder(self.autoencoder), with_weights=True).load_autoencoder()


class Asker:
    """A hosted service that is asked for many images at a time, and for none twice; see `raymia.services.protocol.BlackBox`."""

    def __init__(self, service: Hosted, answers: Answers, turns: Any, autoencoder: Autoencoder | None) -> None:
        """Make ready; nothing is asked yet.

        Args:
            service: that is asked.
            answers: that were given before.
            turns: in which calls are made; see `raymia.services.gate.Turns`.
            autoencoder: the service's own, where one is known.

        Raises:
            ConfigError: the environment has no key.
        """
        self._service = service
        self._answers = answers
        self._autoencoder = autoencoder
        self._lossless = "lossless" in service.offers()
        limits = CallLimits(service.timeout_s, service.attempts, service.in_flight, service.max_answer_bytes)
        name = f"service {service.service} at {service.url}"
        self._calls = Calls(name, service.url, service.key(), service, limits, turns)
        self._ahead: dict[str, Tensor | ServiceError] = {}
        # A batch in which one sample fails is scored again sample by sample: what failed every time is not tried once more.
        self._failed: dict[str, ServiceError] = {}

    def ask_ahead(self, queries: Sequence[Queries]) -> None:
        """Ask for everything at once, and keep it until the next call; see `raymia.services.protocol.AskedAhead`."""
        wanted = {self._name(query): query for batch in queries if not self._is_local(batch) for query in batch}
        self._ahead = self._found(wanted)

    def answer(self, queries: Queries) -> Float[Tensor, "batch 3 H W"]:
        """See `raymia.services.protocol.BlackBox.answer`."""
        if self._is_local(queries):
            return self._reconstructed(queries)
        named = [(self._name(query), query) for query in queries]
        lacking = {name: query for name, query in named if name not in self._ahead}
        if lacking:
            self._ahead |= self._found(lacking)
        images = []
        for name, _ in named:
            found = self._ahead[name]
            if isinstance(found, ServiceError):
                raise found
            images.append(found)
        device = torch.device("cpu") if queries.images is None else queries.images.device
        return torch.stack(images).to(device)

    def _found(self, wanted: Mapping[str, Query]) -> dict[str, Tensor | ServiceError]:
        """The image of each query by its name, or why there is none."""
        known = {} if self._service.asked_again else self._failed
        fresh = {name: query for name, query in wanted.items() if name not in known}
        found: dict[str, Tensor | ServiceError] = dict(zip(fresh, self._run(self._all(list(fresh.values()))), strict=True))
        self._failed |= {name: outcome for name, outcome in found.items() if isinstance(outcome, ServiceError)}
        return {name: found[name] if name in found else known[name] for name in wanted}

    def ask_first(self, kinds: Sequence[Query]) -> tuple[Tensor, Tensor]:
        """Ask questions of every kind, and the first of them twice; a resumed run need not ask again.

        Refusals are not kept: the job, or the server, can be corrected.

        Args:
            kinds: at least one query.

        Returns:
            The two answers to the first.

        Raises:
            ServiceError: an image is not made.
            ServiceStoppedError: the service cannot be asked.
        """
        again: list[dict[str, Any]] = [{"again": 1}, *({} for _ in kinds)]
        found = self._run(self._all([kinds[0], *kinds], again, keep_refusals=False))
        for outcome in found:
            if isinstance(outcome, ServiceError):
                raise outcome
        return found[1], found[0]

    def kept_as(self, query: Query) -> str | None:
        """See `raymia.services.protocol.Keeps`."""
        known = self._answers.find(self._service.asked(query), self._service.max_answer_bytes)
        return None if known is None else known[0].image

    def _name(self, query: Query) -> str:
        return digest_of(self._service.asked(query))

    @staticmethod
    def _is_local(queries: Queries) -> bool:
        return queries.images is not None and queries.strength == 0.0

    def _reconstructed(self, queries: Queries) -> Tensor:
        """The images after the autoencoder alone, computed here."""
        if self._autoencoder is None or queries.images is None:
            raise ValueError("no autoencoder of the service is known; an attack that needs one is refused before the scan")
        return self._autoencoder.decode(self._autoencoder.encode(queries.images)).to(queries.images.device)

    async def _all(
        self, queries: Sequence[Query], marks: Sequence[dict[str, Any]] | None = None, keep_refusals: bool = True
    ) -> list[Any]:
        """The image of each query, or why there is none.

        Where no call can succeed any more, those that are under way end before that is said.

        Args:
            queries: all different, but for what marks them.
            marks: what tells a query from one that asks the same.
            keep_refusals: for a later run.
        """
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self._service.in_flight))
        async with self._calls:
            marked = zip(queries, marks or [{}] * len(queries), strict=True)
            each = [self._one(query, mark, keep_refusals) for query, mark in marked]
            found = await asyncio.gather(*each, return_exceptions=True)
        for outcome in found:
            if isinstance(outcome, BaseException) and not isinstance(outcome, ServiceError):
                raise outcome
        return found

    async def _one(self, query: Query, mark: dict[str, Any], keep_refusals: bool) -> Tensor:
        asked = {**self._service.asked(query), **mark}
        known = await asyncio.to_thread(self._answers.find, asked, self._service.max_answer_bytes)
        answer, content = known or await self._fresh(query, asked, keep_refusals)
        if answer.reason is not None:
            raise ServiceError(answer.reason, answer.detail)
        require_prompt(query, answer.prompt)
        return await asyncio.to_thread(image_of, content, query, self._lossless)

    async def _fresh(self, query: Query, asked: dict[str, Any], keep_refusals: bool) -> tuple[Answer, bytes]:
        """Ask, and keep the answer before anything is made of it."""
        try:
            made = await self._service.ask(query, self._calls)
        except ServiceError as error:
            if error.reason == "service_failed" or not keep_refusals:
                raise
            return await asyncio.to_thread(self._answers.keep, asked, None, reason=error.reason, detail=error.detail), b""
        clean = self._calls.clean
        prompt = None if made.prompt is None else clean(made.prompt)[:LONGEST_PROMPT]
        headers = {name: clean(told)[:LONGEST_PROMPT] for name, told in made.headers.items()}
        keep = partial(self._answers.keep, asked, made.content, prompt=prompt, headers=headers)
        return await asyncio.to_thread(keep), made.content

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        # In a thread of its own: a notebook's own thread has an event loop already.
        with ThreadPoolExecutor(1, thread_name_prefix="calls") as thread:
            asked = thread.submit(asyncio.run, work)
            try:
                return asked.result()
            except KeyboardInterrupt:
                self._calls.stop()  # what is under way ends and is kept; nothing more is asked
                raise


def pixels_of(image: Float[Tensor, "3 H W"]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W, 3) pixels of an image in [-1, 1]."""
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = (
        ((image.cpu() + 1.0) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    )
    return pixels


def png_of(image: Float[Tensor, "3 H W"]) -> bytes:
    """An image in [-1, 1] as PNG: a lossy format would add an error of its own."""
    file = io.BytesIO()
    Image.fromarray(pixels_of(image)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _is_near(host: str) -> bool:
    """Whether a machine is this one."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
