"""Braces and globs: what they name, what they must not lose, and where they end."""

from __future__ import annotations

import time
from pathlib import Path

import fsspec
import pytest

from raymia.data import patterns
from raymia.data.patterns import escaped, find
from raymia.errors import ConfigError
from tests.data.servers import Behaviour, serving

ODD = [
    "set[1].tar",
    "set{a,b}.tar",
    "set{0..3}.tar",
    "a*b.tar",
    "what?.tar",
    "back\\slash.tar",
    "comma, and space.tar",
    "[*].tar",
    "}{.tar",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose own name is no part of a pattern, with two more files that patterns could take."""
    made = tmp_path / "set [v2] {x,y}"
    made.mkdir()
    for name in ("seta.tar", "set1.tar"):
        (made / name).write_bytes(b"")
    return made


@pytest.mark.parametrize("name", ODD)
def test_a_path_that_is_there_is_taken_as_it_stands_and_escaped_it_means_the_same(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    assert find(name, str(folder)) == [str(folder / name)]
    assert find(escaped(name), str(folder)) == [str(folder / name)]
    assert find(escaped(f"../{folder.name}/{name}"), str(folder)) == [str(folder / name)]


@pytest.mark.parametrize("name", ODD)
def test_an_escaped_path_that_is_gone_is_still_named(folder: Path, name: str) -> None:
    assert find(escaped(name), str(folder)) == [str(folder / name)]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/x.tar?sig=1",
        "http://[::1]:8000/x.tar?a=[b]*",
        "https://host/x.tar?part=3#f",
        "s3://bucket/x.tar?versionId=abc",
        "zip://a.tar::https://host/x.zip?sig=1",
    ],
)
def test_a_query_is_no_glob(url: str) -> None:
    assert find(url, "/nowhere") == [url]
    assert find(escaped(url), "/nowhere") == [url]


def test_braces_may_stand_in_queries_and_nest() -> None:
    assert find("http://h/x.tar?part={1..2}", "/") == ["http://h/x.tar?part=1", "http://h/x.tar?part=2"]
    assert find("/x/{a,b{0..1}}.tar", "/") == ["/x/a.tar", "/x/b0.tar", "/x/b1.tar"]
    assert find("/x/{a..}{..}", "/") == ["/x/{a..}{..}"]
    assert len(find("/x/{008..012}{a..c}", "/")) == 15


def test_globs_match_in_folders_of_any_name_and_hold_no_folders_but_those_named_like_shards(folder: Path) -> None:
    for name in ("deep/one/x.tar", "deep/two/x.tar", "deep/two/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "unpacked.tar").mkdir()
    assert find("*.tar", str(folder)) == [str(folder / name) for name in ("set1.tar", "seta.tar", "unpacked.tar")]
    assert find("set[0-9].tar", str(folder)) == [str(folder / "set1.tar")]
    assert find("deep/*/x.tar", str(folder)) == [str(folder / f"deep/{name}/x.tar") for name in ("one", "two")]
    assert len(find("**/x.tar", str(folder))) == 2
    assert find("deep/t*/*", str(folder)) == [str(folder / "deep/two/notes.txt"), str(folder / "deep/two/x.tar")]
    assert find(f"{folder.parent}/*/set?.tar", "/") == [str(folder / "set1.tar"), str(folder / "seta.tar")]


def test_globs_of_other_file_systems_and_web_servers() -> None:
    files = fsspec.filesystem("memory")
    for name in ("m-1.tar", "m-2.tar", "sub/m-3.tar"):
        files.pipe_file(f"/globs/{name}", b"")
    assert [url.rsplit("/", 1)[1] for url in find("memory://globs/m-*.tar", "/")] == ["m-1.tar", "m-2.tar"]
    assert len(find("memory://globs/**/*.tar", "/")) == 3
    page = Behaviour(b'<a href="a.tar">a</a> <a href="b.tar">b</a> <a href="c.txt">c</a>')
    with serving({"/set/": page}) as at:
        assert find(at("/set/*.tar"), "/") == [at("/set/a.tar"), at("/set/b.tar")]


@pytest.mark.parametrize("pattern", ["gone-*.tar", "{set1,gone-*}.tar", "gone/*/x.tar", "memory://nowhere/*.tar", "set[9].tar"])
def test_a_glob_that_matches_nothing_is_an_error_whatever_stands_beside_it(folder: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match="matches no file"):
        find(pattern, str(folder))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{0..999999999}", "stand for 1000000000 names, more than the 1000000"),
        ("{0..999}{0..9999}", "stand for 10000000 names"),
        ("{{0..999999},{0..1}}", "stand for 1000002 names"),
        ("{1..9}" * 9, "stand for 387420489 names"),
        ("{a..z}" * 5, "stand for 11881376 names"),
        ("{1..9999999999999999999999}", "more than 18 digits"),
        ("{" * 60 + "a,b" + "}" * 60, "nested more than 50 deep"),
        ("{" * 2000, "nested|unbalanced"),
        ("a{b", "unbalanced braces"),
        ("a}{b", "unbalanced braces"),
        ("x" * 5000 + "{1,2}", "more than 4096"),
        ("", "an empty path"),
        ("**x/a", "only be an entire path component"),
        ("http://127.0.0.1:1/*.tar", "cannot be listed: .*no connection"),
        ("nonsense://host/*.tar", "Protocol not known"),
        ("zip://*.tar::https://host/x.zip", "chain of file systems cannot have globs"),
    ],
)
def test_what_is_too_much_or_malformed_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pattern: str, message: str
) -> None:
    monkeypatch.setattr("raymia.data.patience.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("raymia.data.patience.LONGEST_WAIT_S", 0.002)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=message) as caught:
        find(pattern, str(tmp_path))
    assert time.monotonic() - start < 5.0
    assert len(str(caught.value)) < 600


def test_looking_through_a_whole_disk_ends(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for i in range(30):
        (folder / f"{i}").mkdir()
    monkeypatch.setattr(patterns, "MAX_LISTED", 20)
    with pytest.raises(ConfigError, match="more than 20 files and folders"):
        find("**/*.tar", str(folder))
    monkeypatch.setattr(patterns, "MAX_LISTED", 1000)
    monkeypatch.setattr(patterns, "MAX_LISTING_S", -1.0)
    with pytest.raises(ConfigError, match="s to look through"):
        find("**/*.tar", str(folder))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="names more than 1 files"):
        find("*.tar", str(folder), room=1)


def test_a_link_that_leads_back_is_followed_once(folder: Path) -> None:
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "broken.tar").symlink_to(folder / "gone")
    assert {Path(path).name for path in find("**/*.tar", str(folder))} == {"set1.tar", "seta.tar", "broken.tar"}


def test_a_secret_of_an_address_is_in_no_error() -> None:
    with pytest.raises(ConfigError) as caught:
        find("nonsense://user:hunter2@host/*.tar", "/")
    assert "hunter2" not in str(caught.value)
