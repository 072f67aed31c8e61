from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raymia.data.index import index_shards, summarise_shard, verify
from raymia.data.manifest import Manifest, labels_hold, load_manifest, resolve_shards, within
from raymia.data.selection import shard_readers
from raymia.errors import ConfigError
from raymia.testbed import ASSETS
from tests.conftest import good_members

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
        ({"name": "x", "licens": "y", "splits": [{"name": "s", "member": True, "shards": ["a"]}]}, "did you mean `licence`"),
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
