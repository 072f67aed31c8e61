"""Pipeline folders at URLs: one whole copy of each, whatever a client raises and a bucket holds."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from raymia.errors import ConfigError
from raymia.replica import fetching
from raymia.replica.fetching import fetch
from raymia.replica.folder import find_pipeline


def test_a_pipeline_at_a_url_is_fetched_once_for_a_machine_and_again_when_it_changes(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMIA_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.put(str(tiny), "/models/tiny", recursive=True)
    memory.pipe_file("/models/tiny/unet/trap.bin", b"never fetched")
    fetched: list[str] = []
    get = memory.get_file

    def counted(_: Any, path: str, *rest: Any, **named: Any) -> None:
        fetched.append(path)
        get(path, *rest, **named)

    monkeypatch.setattr(type(memory), "get_file", counted)
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(fetch, ["memory://models/tiny"] * 4))
    assert len(copies) == 1
    assert len(fetched) == len(set(fetched)) > 5
    assert not any(path.endswith(".bin") for path in fetched)
    found = find_pipeline("memory://models/tiny", with_weights=True)
    assert found.fingerprint() == find_pipeline(str(tiny), with_weights=True).fingerprint()
    memory.pipe_file("/models/tiny/model_index.json", memory.cat_file("/models/tiny/model_index.json") + b" ")
    assert fetch("memory://models/tiny") not in copies
    with pytest.raises(ConfigError, match="expected a folder in diffusers' layout"):
        fetch("memory://models/none")


class NotOfPython(BaseException):
    """No error that a client should raise."""


class OfAClient(Exception):  # noqa: N818 - clients name theirs as they like
    """An error of a client that is none of Python's own."""


@pytest.fixture
def memory(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAYMIA_CACHE", str(tmp_path / "cache"))
    found = fsspec.filesystem("memory")
    found.put(str(tiny), "/bucket/tiny", recursive=True)
    yield found
    found.rm("/bucket", recursive=True)


def kept(tmp_path: Path) -> list[Path]:
    """What the cache holds beside locks."""
    return [path for path in (tmp_path / "cache" / "models").glob("*") if path.suffix != ".lock"]


@pytest.mark.parametrize(
    "error", [OfAClient("429 slow down"), PermissionError("403"), RecursionError("deep"), MemoryError(), KeyError("x")]
)
def test_whatever_a_client_raises_is_one_error_without_secrets_and_leaves_nothing(
    memory: Any, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    for method, message in (("find", "cannot be listed"), ("get_file", "cannot be fetched")):
        with monkeypatch.context() as patched:
            patched.setattr(type(memory), method, fails)
            with pytest.raises(ConfigError, match=f"{message} .{type(error).__name__}") as raised:
                fetch("memory://bucket/tiny")
        assert kept(tmp_path) == []
        assert raised.value.__cause__ is error


def test_a_password_in_a_url_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYMIA_CACHE", str(tmp_path))
    for url in (
        "ftp://user:hunter2@127.0.0.1:9/model",
        "http://user:hunter2@127.0.0.1:9/model?token=hunter2",
        "odd://user:hunter2@x/y",
    ):
        with pytest.raises(ConfigError, match=r"cannot be listed|no \.json") as raised:
            fetch(url)
        assert "hunter2" not in str(raised.value)


def test_a_copy_that_was_cut_is_not_kept(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get = memory.get_file

    def cut(_: Any, path: str, target: str, **named: Any) -> None:
        get(path, target, **named)
        if path.endswith(".safetensors"):
            Path(target).write_bytes(Path(target).read_bytes()[:-1])

    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "get_file", cut)
        with pytest.raises(ConfigError, match=r"model.safetensors has \d+ bytes, but the listing says \d+"):
            fetch("memory://bucket/tiny")
    assert kept(tmp_path) == []
    assert (fetch("memory://bucket/tiny") / "model_index.json").is_file()


def test_an_end_in_the_middle_leaves_no_folder(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(*_: Any, **__: Any) -> None:
        raise NotOfPython

    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "get_file", ends)
        with pytest.raises(NotOfPython):
            fetch("memory://bucket/tiny")
    assert kept(tmp_path) == []


def test_what_is_more_than_a_model_is_not_fetched(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(memory), "get_file", lambda *_, **__: pytest.fail("fetched"))
    with monkeypatch.context() as patched:
        patched.setattr(fetching, "MAX_FILES", 5)
        with pytest.raises(ConfigError, match=r"\d+ files, more than the 5 that a model may have; name the model's own folder"):
            fetch("memory://bucket/tiny")
    with monkeypatch.context() as patched:
        patched.setattr(fetching, "MAX_GIB", 1e-6)
        with pytest.raises(ConfigError, match="GiB that a model may have"):
            fetch("memory://bucket/tiny")


@pytest.mark.parametrize("name", ["../out.json", "unet/../../../out.json", "..\\out.json", "a\\..\\out.json", "nul\0.json"])
def test_a_key_that_leads_out_of_the_folder_is_refused(
    memory: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = {"/bucket/tiny/model_index.json": {"size": 2}, f"/bucket/tiny/{name}": {"size": 2}}
    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "find", lambda *_, **__: listing)
        patched.setattr(type(memory), "get_file", lambda _, path, target, **__: Path(target).write_bytes(b"{}"))
        with pytest.raises(ConfigError, match="whose name leads elsewhere; rename it"):
            fetch("memory://bucket/tiny")
    assert not list(tmp_path.rglob("out.json"))


def test_a_cache_that_cannot_be_written_is_named(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RAYMIA_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot hold a copy .*; set RAYMIA_CACHE"):
        fetch("memory://bucket/tiny")
