"""What a service answered, kept beside the run under a digest of what was asked: nothing is asked and paid for twice."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from raymia.run.record import now_text
from raymia.run.storage import Storage

MAX_RECORD_BYTES = 2**20
ENDING = ".json"
AT_ONCE = 64
"""Files that a process writes at a time."""
ASKED, REFUSED, IMAGES = "asked", "refused", "images"
"""Folders: of records of images and of refusals, by the digest of the query; and of images, by their own."""


class Answer(BaseModel):
    """What a service said to one query: an image, or a refusal that will stay.

    Attributes:
        asked: everything that the answer depends on: service, model, prompt, seed, digest of the image that was sent, ..
        time: when it came, in UTC.
        image: sha256 of the image's bytes; none where there is no image.
        bytes: of the image.
        reason: why there is no image, in a fixed word; none where there is one.
        detail: what the service said of it.
        prompt: under which the image was made, where the service says so.
        headers: of the answer, as far as they tell which model answered and what was counted.
    """

    model_config = ConfigDict(extra="forbid")

    asked: dict[str, Any]
    time: str
    image: str | None = None
    bytes: int = 0
    reason: str | None = None
    detail: str = ""
    prompt: str | None = None
    headers: dict[str, str] = {}


def digest_of(asked: dict[str, Any]) -> str:
    """The name of a query: sha256 of everything that its answer depends on."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Answers:
    """Answers by the digest of what was asked, at most once each; several processes may keep them at once.

    An image lies in a file named by its own digest, and its record in a second one that is written after it: an answer whose
    record is there is whole.
    """

    def __init__(self, place: str | None) -> None:
        """Open the place where answers are kept.

        Args:
            place: folder or fsspec URL; none keeps them in memory, for this process alone.
        """
        self._storage = None if place is None else Storage(place)
        self._held: dict[str, bytes] = {}
        self._locks = [threading.Lock() for _ in range(AT_ONCE)]

    def find(self, asked: dict[str, Any], max_bytes: int) -> tuple[Answer, bytes] | None:
        """What was answered to a query before, with the image's bytes.

        A record that cannot be read, or whose image is another than it says, is as if there were none.

        Args:
            asked: everything that the answer depends on.
            max_bytes: of an image.

        Raises:
            StorageError: storage failed for good.
        """
        digest = digest_of(asked)
        content = self._read(_name(ASKED, digest), MAX_RECORD_BYTES) or self._read(_name(REFUSED, digest), MAX_RECORD_BYTES)
        if content is None:
            return None
        try:
            answer = Answer.model_validate_json(content)
        except ValidationError:
            return None
        if answer.asked != asked:
            return None
        if answer.image is None:
            return answer, b""
        if answer.bytes > max_bytes:
            return answer.model_copy(update={"image": None, "reason": "answer_too_large", "detail": _too_large(answer)}), b""
        image = self._read(_name(IMAGES, answer.image), max_bytes)
        if image is None or hashlib.sha256(image).hexdigest() != answer.image:
            return None
        return answer, image

    def keep(self, asked: dict[str, Any], image: bytes | None, **said: Any) -> Answer:
        """Keep an answer; it is on the disk when this returns.

        Args:
            asked: everything that the answer depends on.
            image: the image's bytes; none for a refusal.
            said: further fields of `Answer`.

        Raises:
            StorageError: storage failed for good.
        """
        digest = None if image is None else hashlib.sha256(image).hexdigest()
        answer = Answer(asked=asked, time=now_text(), image=digest, bytes=len(image or b""), **said)
        if image is not None and digest is not None:
            self._write(_name(IMAGES, digest), image)
        content = answer.model_dump_json(indent=1, exclude_defaults=True) + "\n"
        self._write(_name(REFUSED if image is None else ASKED, digest_of(asked)), content.encode())
        return answer

    def images(self) -> int:
        """How many queries had an image for an answer.

        Raises:
            StorageError: storage failed for good.
        """
        return self._count(ASKED)

    def refusals(self) -> int:
        """How many queries had a refusal for an answer.

        Raises:
            StorageError: storage failed for good.
        """
        return self._count(REFUSED)

    def _count(self, folder: str) -> int:
        if self._storage is None:
            return sum(name.startswith(f"{folder}/") for name in self._held)
        return len(self._storage.names(folder, ENDING))

    def _read(self, name: str, limit: int) -> bytes | None:
        return self._held.get(name) if self._storage is None else self._storage.read(name, limit)

    def _write(self, name: str, content: bytes) -> None:
        if self._storage is None:
            self._held[name] = content
            return
        # Two answers may be one image, and a process has one draft of a name.
        with self._locks[hash(name) % len(self._locks)]:
            self._storage.write(name, content)


def _too_large(answer: Answer) -> str:
    return f"{answer.bytes} bytes, kept; raise replica.max_answer_bytes"


def _name(folder: str, digest: str) -> str:
    # Images are without an ending: what a service sent need not be what its ending would say.
    return f"{folder}/{digest[:2]}/{digest}{'' if folder == IMAGES else ENDING}"
