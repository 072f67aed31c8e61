"""Files on web servers, whatever the servers can do: give parts or not, say a length or not, pack, break off."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable
from typing import Any

import fsspec

from raymia.data.sources import BLOCK_BYTES, Elsewhere
from raymia.data.unreadable import RemoteLimits, UnreadableError, ask
from raymia.urls import public

SKIPPED_BYTES = 4 * 2**20
"""What is to be left out of an answer is read and dropped up to here; beyond, the rest is asked for anew."""
SPOOLED_BYTES = 32 * 2**20
"""What is kept of an answer stands in memory up to here, then on disk."""
CONNECT_TIMEOUT_S = 30.0


class Web(Elsewhere):
    """A file on a web server: one answer is read for as long as it is read in order, and asked for anew where it broke off."""

    def __init__(self, url: str, limits: RemoteLimits) -> None:
        self._filesystem: Any = ask(url, lambda: fsspec.filesystem("http"), limits)
        self._answer: Any = None
        # The place in the file that the answer has reached, and whether it has brought anything.
        self._reached, self._brought = 0, False
        # Whether the server gives parts of the file. One that does not is read from the start into the spool.
        self._parts = True
        self._spool: Any = None
        self._spooled, self._ended = 0, False
        super().__init__(url, limits)

    def fetch(self, position: int, got: bytearray) -> None:
        if self._parts:
            self._sync(self._fill, position, got)
        if not self._parts:
            self._from_spool(position, got)

    def _from_spool(self, position: int, got: bytearray) -> None:
        if self._spool is None:
            self._spool = tempfile.SpooledTemporaryFile(SPOOLED_BYTES)  # noqa: SIM115 - until the file is closed
        while self._spooled < position + BLOCK_BYTES and not self._ended and self._spooled <= self.limits.max_bytes:
            part = bytearray()
            try:
                self._sync(self._fill, self._spooled, part)
                self._ended = len(part) < BLOCK_BYTES
            finally:
                self._spool.seek(self._spooled)
                self._spool.write(part)
                self._spooled += len(part)
        if self._ended:
            self.length = self._spooled
        self._spool.seek(position + len(got))
        got += self._spool.read(BLOCK_BYTES - len(got))

    def _sync(self, act: Callable[..., Any], *arguments: Any) -> None:
        fsspec.asyn.sync(self._filesystem.loop, act, *arguments)

    async def _fill(self, position: int, got: bytearray) -> None:
        """See `fetch`; stops short where it shows that the server gives no parts, and a spool is needed."""
        spooling = not self._parts
        try:
            going = await self._go_to(position + len(got))
            while going and len(got) < BLOCK_BYTES and self._parts != spooling:
                await self._take(got, BLOCK_BYTES)
                going = len(got) < BLOCK_BYTES and await self._goes_on()
        except BaseException:
            self._drop()
            raise

    async def _take(self, got: bytearray, size: int) -> None:
        """Add what comes to `got` until it has a size or the answer ends."""
        async with asyncio.timeout(self.limits.idle_timeout_s):
            while len(got) < size and (part := await self._answer.content.read(size - len(got))):
                got += part
                self._reached += len(part)
                self._brought = True

    async def _goes_on(self) -> bool:
        """Whether there is more behind the end of an answer, which is then asked for."""
        if self.length is None or self._reached >= self.length:
            return False
        if not self._brought:
            raise ConnectionError(f"the server sent nothing from byte {self._reached} of {self.length} on")
        return await self._go_to(self._reached)

    async def _go_to(self, position: int) -> bool:
        """Have an answer that goes on at a place; whether there is anything there."""
        ahead = position - self._reached
        if self._answer is None or ahead < 0 or (ahead > SKIPPED_BYTES and self._parts) or self._answer.content.at_eof():
            async with asyncio.timeout(self.limits.idle_timeout_s):
                await self._ask(position)
        while self._answer is not None and self._reached < position:
            dropped = bytearray()
            await self._take(dropped, min(BLOCK_BYTES, position - self._reached))
            if not dropped:
                raise ConnectionError(f"the server's answer ended at byte {self._reached}, before {position}")
        return self._answer is not None

    async def _ask(self, position: int) -> None:
        """Ask for the file from a place on; where the server gives no parts, the answer begins at its start.

        Behind the end there is no answer.
        """
        self._drop()
        answer = await self._get({"Range": f"bytes={position}-"} if self._parts else {})
        place = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)$", answer.headers.get("Content-Range", ""))
        encoded = answer.headers.get("Content-Encoding", "identity").lower() not in ("identity", "")
        if answer.status == 416:
            answer.close()
            if place is not None and place[2] != "*":
                self._know(int(place[2]))
            return
        if answer.status == 206 and (encoded or place is None or place[1] != str(position)):
            # A part of what was packed cannot be unpacked, and a part from elsewhere is not what was asked for.
            answer.close()
            self._parts = False
            answer = await self._get({})
        self._answer, self._brought = answer, False
        self._parts = self._parts and answer.status == 206
        self._reached = position if self._parts else 0
        if self._parts and place is not None and place[2] != "*":
            self._know(int(place[2]))
        elif not self._parts and not encoded and answer.content_length is not None:
            self._know(answer.content_length)

    def _know(self, length: int) -> None:
        if self.length is not None and self.length != length:
            raise UnreadableError("unreadable", f"{public(self.url)}: changed while it was read")
        self.length = length

    async def _get(self, headers: dict[str, str]) -> Any:
        from aiohttp import ClientTimeout

        session = await self._filesystem.set_session()
        options = {**self._filesystem.kwargs}
        headers = {**options.pop("headers", {}), "Accept-Encoding": "identity", **headers}
        timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=self.limits.idle_timeout_s)
        answer = await session.get(self._filesystem.encode_url(self.url), headers=headers, timeout=timeout, **options)
        if answer.status != 416:
            answer.raise_for_status()
        return answer

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
        self._answer = None

    def close(self) -> None:
        self._filesystem.loop.call_soon_threadsafe(self._drop)
        if self._spool is not None:
            self._spool.close()
