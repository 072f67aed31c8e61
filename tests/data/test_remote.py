"""Reading over a real web server that does whatever servers do, and from file systems that fail in their own ways."""

from __future__ import annotations

import errno
import io
import logging
import os
import pickle  # noqa: TID251 - what crosses processes is pickled by others
import socket
import tarfile
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from raymia.data import patience
from raymia.data.remote import REASONS, RemoteLimits, UnreadableError, ask, open_file, read_file
from raymia.data.tar import RawSample, ShardEnd, read_tar
from tests.conftest import good_members, tar_bytes
from tests.data.servers import Behaviour, serving

BODY = np.random.default_rng(1).bytes(3 * 2**20 + 123)
SECRET = "hunter2"  # noqa: S105 - planted, to be looked for
SHORT = RemoteLimits(attempts=3, idle_timeout_s=5.0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(patience, "LONGEST_WAIT_S", 0.002)


def fetched(behaviour: Behaviour, limits: RemoteLimits = SHORT) -> bytes:
    with serving({"/x.tar": behaviour}) as at, open_file(at(f"/x.tar?sig={SECRET}"), limits) as stream:
        return stream.read()


def refused(behaviour: Behaviour, limits: RemoteLimits = SHORT) -> UnreadableError:
    with pytest.raises(UnreadableError) as caught:
        fetched(behaviour, limits)
    assert caught.value.reason in REASONS
    assert SECRET not in str(caught.value)
    assert "\n" not in caught.value.detail
    return caught.value


def test_a_file_is_read_once_where_it_is_read_in_order() -> None:
    behaviour = Behaviour(BODY)
    assert fetched(behaviour) == BODY
    assert behaviour.asked == ["bytes=0-"]


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(BODY),
        Behaviour(BODY, length=False),
        Behaviour(BODY, ranges=False),
        Behaviour(BODY, ranges=False, length=False),
        Behaviour(BODY, packed=True),
        Behaviour(BODY, packed=True, ranges=False, length=False),
        Behaviour(BODY, at_most=700_000),
        Behaviour(BODY, statuses=[302], headers={"Location": "/x.tar"}),
    ],
    ids=[
        "parts",
        "parts in chunks",
        "no parts",
        "no parts, no length",
        "packed parts",
        "packed stream",
        "short parts",
        "moved",
    ],
)
def test_a_file_can_be_sought_in_whatever_the_server_can_do(behaviour: Behaviour) -> None:
    with serving({"/x.tar": behaviour}) as at, open_file(at("/x.tar"), SHORT) as stream:
        assert stream.read(1000) == BODY[:1000]
        stream.seek(2_500_000)
        assert stream.read(10) == BODY[2_500_000:2_500_010]
        stream.seek(500)
        assert stream.read(10) == BODY[500:510]
        assert stream.seek(-3, io.SEEK_END) == len(BODY) - 3
        assert stream.read() == BODY[-3:]
        assert stream.read(1) == b""
        stream.seek(0)
        assert stream.read() == BODY


def test_a_tar_without_length_or_parts_gives_all_its_samples() -> None:
    tar = tar_bytes(good_members(5))
    with serving({"/x.tar": Behaviour(tar, ranges=False, length=False)}) as at, open_file(at("/x.tar")) as stream:
        *samples, end = read_tar(stream)
    assert [item.key for item in samples if isinstance(item, RawSample)] == [f"{i:04d}" for i in range(5)]
    assert isinstance(end, ShardEnd)
    assert end.fault is None


@pytest.mark.parametrize(
    ("status", "reason", "tries"),
    [
        (401, "unauthorised", 1),
        (403, "forbidden", 1),
        (404, "missing", 1),
        (410, "gone", 1),
        (418, "unreadable", 1),
        (429, "rate_limited", 3),
        (408, "timeout", 3),
        (500, "server_error", 3),
        (503, "server_error", 3),
        (501, "server_error", 1),
    ],
)
def test_each_status_has_its_word_and_those_that_may_pass_are_tried_again(status: int, reason: str, tries: int) -> None:
    behaviour = Behaviour(BODY, always=status)
    error = refused(behaviour)
    assert (error.reason, len(behaviour.asked)) == (reason, tries)
    assert str(status) in error.detail


def test_a_server_that_wants_to_be_left_alone_is_asked_again_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    behaviour = Behaviour(BODY, statuses=[429, 503, 429], headers={"Retry-After": "7"})
    assert fetched(behaviour, RemoteLimits()) == BODY
    assert [round(wait) for wait in waits] == [7, 7, 7]
    waits.clear()
    behaviour = Behaviour(BODY, statuses=[429], headers={"Retry-After": "Fri, 31 Dec 2900 23:59:59 GMT"})
    assert fetched(behaviour, RemoteLimits()) == BODY
    assert waits == [patience.LONGEST_ASKED_S]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_answer_that_breaks_off_is_gone_on_with_at_its_byte(ranges: bool) -> None:
    behaviour = Behaviour(BODY, ranges=ranges, breaks_after=1_300_000, breaks=2)
    with serving({"/x.tar": behaviour}) as at, open_file(at("/x.tar"), SHORT) as stream:
        assert stream.read(2**20) == BODY[: 2**20]
        assert stream.read() == BODY[2**20 :]
    starts = [int(asked.removeprefix("bytes=").rstrip("-") or 0) for asked in behaviour.asked]
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert (min(starts[1:]) >= 2**20) == ranges


def test_chunks_that_break_off_are_not_taken_for_the_end() -> None:
    assert fetched(Behaviour(BODY, ranges=False, length=False, breaks_after=2_000_000)) == BODY
    assert refused(Behaviour(BODY, ranges=False, length=False, breaks_after=10, breaks=9)).reason == "no_connection"


@pytest.mark.parametrize(("status", "reason"), [(403, "forbidden"), (410, "gone"), (500, "server_error")])
def test_what_happens_in_the_middle_of_a_file_has_its_word_too(status: int, reason: str) -> None:
    behaviour = Behaviour(BODY, always=status, from_byte=1, breaks_after=1_500_000)
    with serving({"/x.tar": behaviour}) as at, open_file(at("/x.tar"), SHORT) as stream:
        assert stream.read(1_000_000) == BODY[:1_000_000]
        with pytest.raises(UnreadableError) as caught:
            stream.read()
    assert caught.value.reason == reason


def test_a_status_in_the_middle_that_passes_costs_nothing() -> None:
    assert fetched(Behaviour(BODY, statuses=[500, 429], from_byte=1, breaks_after=1_500_000), RemoteLimits()) == BODY


def test_a_server_that_sends_a_byte_now_and_then_ends_in_time() -> None:
    start = time.monotonic()
    error = refused(Behaviour(BODY, pause_s=0.05), RemoteLimits(idle_timeout_s=0.2, attempts=2))
    assert error.reason == "timeout"
    assert time.monotonic() - start < 2.0


def test_a_server_that_takes_a_connection_and_says_nothing_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UnreadableError) as caught:
        read_file(f"http://127.0.0.1:{silent.getsockname()[1]}/x", 10, RemoteLimits(idle_timeout_s=0.2, attempts=1))
    assert caught.value.reason == "timeout"


@pytest.mark.parametrize(
    "behaviour", [Behaviour(BODY, endless=True), Behaviour(BODY, endless=True, ranges=False), Behaviour(BODY)]
)
def test_more_bytes_than_the_limit_are_not_read(behaviour: Behaviour) -> None:
    error = refused(behaviour, RemoteLimits(max_bytes=2 * 2**20))
    assert error.reason == "too_large"
    assert "2097152" in error.detail


def test_what_unpacks_to_more_than_the_limit_is_not_read() -> None:
    assert refused(Behaviour(bytes(2**24), packed=True), RemoteLimits(max_bytes=2**21)).reason == "too_large"


def test_a_file_that_changes_while_it_is_read_is_not_mixed() -> None:
    behaviour = Behaviour(BODY, breaks_after=1_500_000)
    with serving({"/x.tar": behaviour}) as at, open_file(at("/x.tar"), SHORT) as stream:
        stream.read(1000)
        behaviour.content = BODY * 2
        with pytest.raises(UnreadableError, match="changed while it was read"):
            stream.read()


def test_an_empty_file_is_empty_and_redirects_end() -> None:
    assert fetched(Behaviour(b"")) == b""
    assert fetched(Behaviour(b"", ranges=False, length=False)) == b""
    assert "TooManyRedirects" in refused(Behaviour(BODY, always=302, headers={"Location": "/x.tar"})).detail


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("zip://", "unreadable"),
        ("tar://", "unreadable"),
        ("zip://gone.tar", "unreadable"),
        ("reference://", "unreadable"),
        ("nonsense://host/x.tar", "unsupported"),
        ("dask://host/x.tar", "unsupported"),
        ("memory://gone.tar", "missing"),
        ("http://127.0.0.1:1/x.tar", "no_connection"),
        ("ftp://127.0.0.1:1/x.tar", "no_connection"),
        ("http://", "unreadable"),
        ("simplecache::http://127.0.0.1:1/x.tar", "no_connection"),
        ("/gone/x.tar", "missing"),
        ("/", "unreadable"),
        ("/dev/zero", "unreadable"),
        ("a\0b", "unreadable"),
        ("x" * 5000, "unreadable"),
    ],
)
def test_whatever_a_file_system_raises_is_one_error(url: str, reason: str) -> None:
    with pytest.raises(UnreadableError) as caught, open_file(url, SHORT):
        pass
    assert caught.value.reason == reason


def test_storage_without_credentials_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UnreadableError) as caught, open_file("s3://bucket/x.tar", SHORT):
        pass
    assert caught.value.reason == "no_credentials"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(UnreadableError, match="pipe"), open_file(str(tmp_path / "x.tar")):
        pass


def test_a_member_of_an_archive_elsewhere_is_read_through_both() -> None:
    tar = tar_bytes([("inner.bin", BODY)])
    with serving({"/x.tar": Behaviour(tar)}) as at, open_file(f"tar://inner.bin::{at('/x.tar')}") as stream:
        assert stream.read() == BODY
    with serving({"/x.tar": Behaviour(tar, always=403)}) as at, pytest.raises(UnreadableError) as caught:
        read_file(f"tar://inner.bin::{at('/x.tar')}", 10)
    assert caught.value.reason == "forbidden"
    with serving({"/x.tar": Behaviour(tar, always=410)}) as at, pytest.raises(UnreadableError) as caught:
        read_file(f"simplecache::{at('/x.tar')}", 10)
    assert caught.value.reason == "gone"


class Odd:
    """A file system of fsspec's kind whose files fail as they are read."""

    def __init__(self, errors: list[BaseException]) -> None:
        self.errors = errors
        self.opened = 0

    def open(self, path: str, mode: str, block_size: int) -> io.BytesIO:
        self.opened += 1
        stream = io.BytesIO(BODY)
        read = stream.read

        def failing(size: int = -1) -> bytes:
            if stream.tell() >= 2**20 and self.errors:
                raise self.errors.pop(0)
            return read(size)

        stream.read = failing  # type: ignore[method-assign, assignment]
        return stream


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("Content-Length"), "unreadable"),
        (MemoryError(), "unreadable"),
        (RecursionError(), "unreadable"),
        (NotImplementedError(), "unsupported"),
        (PermissionError("no"), "forbidden"),
        (OSError(errno.ENOSPC, "full"), "unreadable"),
        (OSError(errno.EHOSTUNREACH, "no way"), "no_connection"),
    ],
)
def test_any_error_in_the_middle_of_reading_is_one_error(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, reason: str
) -> None:
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: (Odd([error] * 9), url))
    with open_file("odd://x", SHORT) as stream:
        assert stream.read(2**20) == BODY[: 2**20]
        with pytest.raises(UnreadableError) as caught:
            stream.read()
    assert caught.value.reason == reason


def test_errors_that_pass_in_the_middle_of_any_file_system_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Odd([OSError(errno.EIO, "for now"), ConnectionResetError()])
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: (odd, url))
    with open_file("odd://x", SHORT) as stream:
        assert stream.read() == BODY
    assert odd.opened == 3


def test_a_file_system_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Odd):
        def open(self, path: str, mode: str, block_size: int) -> io.BytesIO:
            time.sleep(1.0)
            return io.BytesIO(BODY)

    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: (Hanging([]), url))
    with pytest.raises(UnreadableError) as caught, open_file("odd://x", RemoteLimits(idle_timeout_s=0.05, attempts=1)):
        pass
    assert caught.value.reason == "timeout"


def test_a_mistake_in_raymia_itself_is_no_broken_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise TypeError("a mistake")

    broken.__globals__["__name__"], before = "raymia.data.made_up", broken.__globals__["__name__"]
    try:
        with pytest.raises(TypeError, match="a mistake"):
            ask("x", broken)
    finally:
        broken.__globals__["__name__"] = before


def test_errors_of_the_caller_pass_and_files_have_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    with pytest.raises(FileNotFoundError, match="mine"), open_file(str(path)):
        raise FileNotFoundError("mine")
    assert read_file(str(path), 5) == b"12345"
    with pytest.raises(UnreadableError, match="more than 4 bytes") as caught:
        read_file(str(path), 4)
    assert caught.value.reason == "too_large"


def test_the_error_can_be_sent_between_processes_and_holds_no_secret() -> None:
    error = UnreadableError("forbidden", f"https://user:{SECRET}@host/x?sig={SECRET}: refused")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made here
    assert (again.reason, again.detail) == ("forbidden", "https://host/x: refused")


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "raymia")
    refused(Behaviour(BODY, always=500))
    assert SECRET not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("raymia"))


def test_a_tar_larger_than_what_is_kept_of_it_is_read_backwards_too() -> None:
    body = np.random.default_rng(2).bytes(20 * 2**20)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("a.bin")
        entry.size = len(body)
        tar.addfile(entry, io.BytesIO(body))
    with serving({"/x.tar": Behaviour(buffer.getvalue())}) as at, open_file(at("/x.tar")) as stream:
        stream.seek(19 * 2**20)
        stream.read(2**20)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as again:
            file = again.extractfile("a.bin")
            assert file is not None
            assert file.read() == body
