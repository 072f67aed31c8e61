from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raymia.data import manifest as manifests
from raymia.data.index import index_shards, summarise_shard, verify
from raymia.data.manifest import Manifest, labels_hold, load_manifest, name_shards, resolve_shards, within
from raymia.data.selection import shard_readers
from raymia.errors import ConfigError
from raymia.testbed import ASSETS
from tests.conftest import good_members
from tests.data.servers import Behaviour, serving

Write = Callable[[str, list[tuple[str, bytes]]], Path]


def manifest(**split: object) -> Manifest:
    return Manifest.model_validate({"name": "x", "splits": [{"name": "s", "member": True, **split}]})


def test_braces_and_globs_are_expanded_relative_to_the_manifest(tmp_path: Path) -> None:
    for name in ("a-0000.tar", "a-0001.tar", "b-7.tar"):
        (tmp_path / name).write_bytes(b"")
    shards = resolve_shards(manifest(shards=["a-{0000..0001}.tar", "b-*.tar"]), str(tmp_path))
    assert [shard.name for shard in shards] == ["a-0000", "a-0001", "b-7"]
    assert shards[0].url == str(tmp_path / "a-0000.tar")


def test_shards_of_one_name_in_two_folders_stay_apart() -> None:
    names = [shard.name for shard in resolve_shards(manifest(shards=["/x/0.tar", "/y/0.tar"]), "/")]
    assert len(set(names)) == 2


def test_urls_of_other_file_systems_resolve() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/bucket/m-1.tar", b"")
    (shard,) = resolve_shards(manifest(shards=["memory://bucket/*.tar"]), "/")
    assert shard.url.startswith("memory://")
    assert shard.name == "m-1"


def test_a_manifest_finds_what_lies_beside_its_folder_on_an_object_store_too() -> None:
    assert within("s3://bucket/data/fair", "../packed/shards/a.tar") == "s3://bucket/data/packed/shards/a.tar"
    assert within("s3://bucket/data", "odd//name.tar") == "s3://bucket/data/odd//name.tar"
    assert within("/data/fair", "../packed/a.tar") == "/data/packed/a.tar"
    assert within("s3://bucket/data", "https://host/a.tar") == "https://host/a.tar"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "x", "splits": []}, "splits"),
        ({"name": "x", "splits": [{"name": "s", "member": "maybe", "shards": ["a"]}]}, "member"),
        ({"name": "x", "splits": [{"name": "../s", "member": True, "shards": ["a"]}]}, "name"),
        ({"name": "x", "licens": "CC0", "splits": [{"name": "s", "member": True, "shards": ["a"]}]}, "did you mean `licence`"),
    ],
)
def test_a_malformed_manifest_is_refused_with_the_field(tmp_path: Path, content: dict[str, object], message: str) -> None:
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        load_manifest(str(tmp_path / "m.yaml"))


def test_an_index_written_from_tars_verifies_and_a_changed_tar_does_not(write_tar: Write, tmp_path: Path) -> None:
    write_tar("m.tar", good_members(4))
    write_tar("n.tar", good_members(3))
    labels = {"members": (True, [str(tmp_path / "m.tar")]), "non_members": (False, [str(tmp_path / "n.tar")])}
    made, summaries = index_shards("set", labels, tmp_path)  # type: ignore[arg-type]
    assert [split.samples for split in made.splits] == [4, 3]
    assert made.splits[0].shards == ("m.tar",)
    assert verify(made, summaries) == []
    write_tar("m.tar", good_members(2))
    changed = [summarise_shard(reader) for reader in shard_readers(made, str(tmp_path))]
    problems = " ".join(finding.problem for finding in verify(made, changed) if finding.fatal)
    assert "2 samples found, 4 expected" in problems
    assert "sha256" in problems


def test_keys_in_several_shards_are_remarked(write_tar: Write, tmp_path: Path) -> None:
    write_tar("a.tar", good_members(2))
    write_tar("b.tar", good_members(2))
    made, summaries = index_shards("set", {"all": ("unknown", [str(tmp_path / "*.tar")])}, tmp_path)
    (keys, bytes_) = verify(made, summaries)
    assert keys.problem.startswith("2 keys stand in several shards")
    assert (bytes_.shard, bytes_.problem, bytes_.fatal) == ("b", "holds the same bytes as all/a", False)


def test_the_manifest_in_the_repository_and_the_shipped_one_say_the_same() -> None:
    here, folder = load_manifest(str(Path(__file__).parents[2] / "data_manifests" / "testbed.yaml"))
    shipped, assets = load_manifest("testbed")
    assert assets == str(ASSETS)
    urls = [[Path(s.url).resolve() for s in resolve_shards(m, f)] for m, f in ((here, folder), (shipped, assets))]
    assert urls[0] == urls[1]
    assert here.model_dump(exclude={"splits"}) == shipped.model_dump(exclude={"splits"})


def test_the_manifests_of_the_repository_are_valid_and_laions_hold_for_stable_diffusion_1_alone() -> None:
    folder = Path(__file__).parents[2] / "data_manifests"
    found = {path.stem: load_manifest(str(path))[0] for path in folder.glob("*.yaml")}
    assert set(found) == {"testbed", "laion_mi", "laion_aesthetics_5plus", "laion2b_multi_translated"}
    for name, made in found.items():
        assert made.name == name
        if name.startswith("laion"):
            assert labels_hold(made, "CompVis/stable-diffusion-v1-4")
            assert not labels_hold(made, "stabilityai/stable-diffusion-2-1")
            assert all(split.source is not None for split in made.splits)
    assert found["laion_mi"].samples == 13_396 + 26_874


ODD = ("set[1].tar", "set{a,b}.tar", "set{0..9}.tar", "a*.tar", "wh?t.tar")


def test_an_index_of_names_with_any_character_can_be_read_back(write_tar: Write, tmp_path: Path) -> None:
    folder = tmp_path / "set [v2] {a,b}"
    (folder / "sub[1]").mkdir(parents=True)
    for i, name in enumerate(ODD):
        write_tar("x.tar", good_members(1, start=i)).rename(folder / "sub[1]" / name)
    patterns = [str(folder / "sub[1]" / name) for name in ODD]
    made, _ = index_shards("set", {"all": ("unknown", patterns)}, folder)
    path = folder / "m.yaml"
    path.write_text(yaml.safe_dump(made.model_dump(mode="json", exclude_none=True)))
    again, where = load_manifest(str(path))
    assert [shard.url for shard in resolve_shards(again, where)] == patterns
    summaries = [summarise_shard(reader) for reader in shard_readers(again, where)]
    assert verify(again, summaries) == []
    (folder / "sub[1]" / ODD[1]).unlink()
    assert [shard.url for shard in resolve_shards(again, where)] == patterns, "what is gone is still named"


def test_each_pattern_must_name_something_and_a_query_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "ok.tar").write_bytes(b"")
    address = "http://127.0.0.1:1/x.tar?sig=1"
    shards = resolve_shards(manifest(shards=["ok.tar", address]), str(tmp_path))
    assert [(shard.name, shard.url) for shard in shards] == [("ok", str(tmp_path / "ok.tar")), ("x", address)]
    for patterns in (["ok.tar", "gone*.tar"], ["{ok,gone}*.tar"], ["ok.tar", "sub/[ab].tar"]):
        with pytest.raises(ConfigError, match=r"splits\.s\.shards: .*matches no file"):
            resolve_shards(manifest(shards=patterns), str(tmp_path))
    with pytest.raises(ConfigError, match="named twice"):
        resolve_shards(manifest(shards=["ok.tar", "o*.tar"]), str(tmp_path))


def test_all_patterns_of_a_manifest_share_one_limit() -> None:
    splits = [{"name": name, "member": True, "shards": [f"/x/{name}{{0..2}}.tar"]} for name in "ab"]
    with pytest.raises(ConfigError, match=r"splits\.b\.shards: .*stand for 3 names, more than the 2 "):
        resolve_shards(Manifest.model_validate({"name": "x", "splits": splits}), "/", 5)


def named(*urls: str) -> list[str]:
    names = [shard.name for shard in name_shards("s", True, list(urls))]
    assert len({name.lower() for name in names}) == len(urls), "apart, where case does not count too"
    assert all(len(name.encode()) <= 230 and not name.startswith(".") and "/" not in name for name in names)
    return names


def test_names_of_shards_are_fit_for_files_everywhere() -> None:
    assert named("/a/x.tar", "/a/y.tar") == ["x", "y"]
    assert named("/a/.hidden.tar", "/a/..", "/a/.", "/a/con.tar", "/a/NUL.x.tar", "https://h/dir/", "/a/end..tar") == [
        "_hidden",
        "__",
        "_",
        "_con",
        "_NUL.x",
        "shard",
        "end_",
    ]
    named("/a/X.tar", "/a/x.tar", "/b/x.tar")
    named(f"/a/{'é' * 300}.tar", f"/a/{'ü' * 300}.tar", f"/a/{'x' * 300}.tar", f"/a/{'x' * 300}y.tar")
    named("/a/é.tar", "/a/ü.tar", "/a/_.tar")


def test_names_of_shards_that_look_like_others_with_a_digest_stay_apart() -> None:
    first, second = named("/a/x.tar", "/b/x.tar")
    again = named("/a/x.tar", "/b/x.tar", f"/c/{first}.tar", f"/c/{second.upper()}.tar")
    assert again[2:] == [first, second.upper()]
    assert again[0].startswith(first)
    assert len(again[0]) > len(first)


def test_names_of_shards_hold_no_secret_and_stay_when_an_address_is_signed_anew() -> None:
    one, two = named("http://h/x.tar?part=1", "http://h/x.tar?part=2")
    assert one.startswith("x-")
    assert named("http://h/x.tar?part=1&X-Amz-Signature=a&sig=b", "http://h/x.tar?part=2&sig=c") == [one, two]
    assert named("https://user:hunter2@h/x.tar?sig=hunter2") == ["x"]
    assert named("https://user:a/hunter2@h") == ["h"]
    elsewhere = named("https://user:hunter2@a/x.tar?sig=1", "https://b/x.tar")
    assert elsewhere == named("https://a/x.tar?sig=2", "https://b/x.tar")
    named("http://h/x.tar?sig=1", "http://h/x.tar?sig=2")
    named("s3://bucket/a#1.tar", "s3://bucket/a#2.tar")
    named("zip://m.tar::https://h/1.zip", "zip://m.tar::https://h/2.zip")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("in", "IN"), "differs from in in case alone"),
        (("con",), "name of a device"),
        (("a.",), "dot at the end"),
        (("x" * 200,), "160"),
    ],
)
def test_names_of_splits_must_be_folders_everywhere(names: tuple[str, ...], message: str) -> None:
    splits = [{"name": name, "member": True, "shards": ["/x/a.tar"]} for name in names]
    with pytest.raises(ConfigError, match=message):
        resolve_shards(Manifest.model_validate({"name": "x", "splits": splits}), "/")


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (Behaviour(always=401), "wants to know who asks"),
        (Behaviour(always=403), "access is refused"),
        (Behaviour(always=410), "gone for good"),
        (Behaviour(always=500), "the server failed.*tried 6 times"),
        (Behaviour(b"name: x\n", endless=True), "more than 1048576 bytes"),
        (Behaviour(b"\xff\xfe\x00"), "cannot be read"),
        (Behaviour(b"[" * 3000), "cannot be read"),
        (Behaviour(b"null"), "m.yaml"),
        (Behaviour(b"- 1"), "m.yaml"),
    ],
)
def test_a_manifest_elsewhere_that_cannot_be_had_says_why_without_secrets(
    monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour, message: str
) -> None:
    monkeypatch.setattr("raymia.data.patience.FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("raymia.data.patience.LONGEST_WAIT_S", 0.002)
    monkeypatch.setattr(manifests, "MAX_MANIFEST_BYTES", 2**20)
    with serving({"/m.yaml": behaviour}) as at, pytest.raises(ConfigError, match=message) as caught:
        load_manifest(at("/m.yaml?sig=hunter2"))
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["zip://", "reference://", "nonsense://h/m.yaml", "memory://gone.yaml", "/dev/zero", "/"])
def test_a_manifest_at_no_file_is_a_fault_of_the_job(source: str) -> None:
    with pytest.raises(ConfigError, match="manifest"):
        load_manifest(source)


def test_digests_are_held_against_the_shards_that_they_name(write_tar: Write, tmp_path: Path) -> None:
    for folder in ("a", "b/a"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    write_tar("x.tar", good_members(1)).rename(tmp_path / "a" / "x.tar")
    write_tar("x.tar", good_members(2)).rename(tmp_path / "b" / "a" / "x.tar")
    made, summaries = index_shards("set", {"all": (True, [str(tmp_path / "**" / "*.tar")])}, tmp_path)
    digests = dict(made.splits[0].sha256 or {})
    assert set(digests) == {"a/x.tar", "b/a/x.tar"}
    exchanged = {"a/x.tar": digests["b/a/x.tar"], "b/a/x.tar": digests["a/x.tar"], "gone.tar": "0" * 64}
    split = made.splits[0].model_copy(update={"sha256": exchanged})
    problems = [finding.problem for finding in verify(made.model_copy(update={"splits": (split,)}), summaries) if finding.fatal]
    assert [problem.split(" is ")[0] for problem in problems[:2]] == ["sha256 of a/x.tar", "sha256 of b/a/x.tar"]
    assert problems[2] == "sha256 names gone.tar, which is none of the split's shards"


def test_a_shard_that_is_both_member_and_not_is_found_out(write_tar: Write, tmp_path: Path) -> None:
    for name in ("m.tar", "n.tar"):
        write_tar(name, good_members(2))
    labels = {"members": (True, [str(tmp_path / "m.tar")]), "non_members": (False, [str(tmp_path / "n.tar")])}
    made, summaries = index_shards("set", labels, tmp_path)  # type: ignore[arg-type]
    (finding,) = [finding for finding in verify(made, summaries) if finding.fatal]
    assert finding.problem == "holds the same bytes as members/m"
