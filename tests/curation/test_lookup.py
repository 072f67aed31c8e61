"""Works are found in a list by every way that two loops over all of it find them by, and each work is accounted for."""

from __future__ import annotations

import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image
from rich.console import Console

from raymia.curation import lookup as looking
from raymia.curation import matches
from raymia.curation.addresses import address_of
from raymia.curation.findings import lookup_finding
from raymia.curation.lookup import Lookup, LookupSummary, lookup
from raymia.curation.murmur import laion_hash
from raymia.curation.perceptual import perceptual_hashes
from raymia.curation.ways import MAX_BITS, MIN_COSINE, SURE, WAYS
from raymia.curation.works import Works
from raymia.data import tables
from raymia.data.findings import LookupFinding
from raymia.data.images import MAX_PIXELS
from raymia.data.manifest import Manifest, Split
from raymia.documents import write_yaml
from raymia.errors import ConfigError
from raymia.run.columns import EMBEDDING, QUARANTINE_SCHEMA
from raymia.run.ledger import Ledger
from raymia.run.record import FeaturesRecord, now_text
from tests.conftest import image_bytes, tar_bytes
from tests.curation.test_perceptual import encoded, picture

CONSOLE = Console(stderr=True, quiet=True)
WIDTH = 8
HOSTS = ("example.org", "www.Example.org", "cdn.example.org:8080", "b\u00fccher.example", "user:1@example.org")


def found(works: Any, *lists: Any, **options: Any) -> Lookup:
    return lookup(Works(str(works)), [str(table) for table in lists], CONSOLE, **options)


def rows(looked: Lookup, *columns: str) -> list[tuple[Any, ...]]:
    return list(zip(*(looked.matches.column(name).to_pylist() for name in columns), strict=True))


def require_accounted(summary: LookupSummary) -> None:
    """Every work was looked for by each means, or it is said why not."""
    for way in summary.ways:
        means = looking.MEANS_OF[way.way]
        assert way.looked_for + sum(summary.not_looked_for.get(means, {}).values()) == summary.works, way
    assert {*summary.not_looked_for} | {looking.MEANS_OF[way.way] for way in summary.ways} >= {*looking.MEANS_OF.values()}


def features(folder: Path, vectors: dict[str, np.ndarray], clip: str = "testbed") -> str:
    """A folder as `raymia data embed` fills it, of images with these digests."""
    ledger = Ledger(str(folder))
    manifest = Manifest(name="set", splits=(Split(name="all", member="unknown", shards=("a.tar",)),))
    ledger.write_run(FeaturesRecord(manifest=manifest, clip=clip, expected=None, started=now_text(), finished=now_text()))
    table = pa.table(
        {
            "key": [f"k{i}" for i in range(len(vectors))],
            "image_sha256": list(vectors),
            EMBEDDING: pa.array([vector.tolist() for vector in vectors.values()], pa.list_(pa.float32())),
        }
    )
    ledger.commit_unit("all", "a", 0, table, QUARANTINE_SCHEMA.empty_table())
    return str(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
    """Works and a list at random, near enough that each way finds some: a folder, and what stands in both."""
    folder, random = tmp_path_factory.mktemp("list"), np.random.default_rng(1)

    def at_random(count: int) -> pd.DataFrame:
        def url() -> str | None:
            scheme, host = random.choice(["http", "https", "HTTPS", "ftp"]), random.choice(HOSTS)
            query = random.choice(["", "?a=1", "?a=2", "#x"])
            return None if random.random() < 0.05 else f"{scheme}://{host}/{random.integers(6)}.jpg{query}"

        bits = [random.integers(0, 2**64, dtype=np.uint64) if i % 4 else np.uint64(2**40 - 1) for i in range(count)]
        flips = [int(sum(1 << int(b) for b in random.choice(64, random.integers(0, 7), replace=False))) for _ in range(count)]
        vectors = random.normal(size=(count, WIDTH)) * 0.12 + np.eye(WIDTH)[random.integers(0, WIDTH, count)]
        return pd.DataFrame(
            {
                "url": [url() for _ in range(count)],
                "text": [f"picture {i}" for i in range(count)],
                "sha256": [hashlib.sha256(bytes([n])).hexdigest() for n in random.integers(0, 90, count)],
                "md5": [hashlib.md5(bytes([n]), usedforsecurity=False).hexdigest() for n in random.integers(0, 90, count)],
                "phash": [f"{int(b) ^ f:016x}" for b, f in zip(bits, flips, strict=True)],
                "embedding": list(vectors.astype(np.float32)),
            }
        )

    works, table = at_random(40).drop_duplicates("sha256", ignore_index=True), at_random(300)
    works.drop(columns="embedding").assign(key=works.index.astype(str)).to_parquet(folder / "works.parquet")
    features(folder / "features", dict(zip(works["sha256"], works["embedding"], strict=True)))
    listed = pa.Table.from_pandas(table.drop(columns="embedding"), preserve_index=False)
    listed = listed.append_column("embedding", pa.array(table["embedding"].tolist(), pa.list_(pa.float32(), WIDTH)))
    for number, start in enumerate(range(0, 300, 100)):
        pq.write_table(listed.slice(start, 100), folder / f"part-{number}.parquet", row_group_size=33)
    return folder, works, table


def by_two_loops(works: pd.DataFrame, table: pd.DataFrame) -> set[tuple[int, int, str]]:
    pairs: set[tuple[int, int, str]] = set()
    for i, work in works.iterrows():
        for j, row in table.iterrows():
            one, other = (address_of(None if pd.isna(url) else url) for url in (work["url"], row["url"]))
            if one is not None and other is not None:
                fields = ("whole", "without_query", "host_and_path")
                alike = [way for way, field in zip(WAYS, fields, strict=False) if getattr(one, field) == getattr(other, field)]
                pairs |= {(i, j, way) for way in alike[:1]}
            pairs |= {(i, j, name) for name in ("sha256", "md5") if work[name] == row[name]}
            if (int(work["phash"], 16) ^ int(row["phash"], 16)).bit_count() <= MAX_BITS:
                pairs.add((i, j, "phash"))
            a, b = work["embedding"].astype(float), row["embedding"].astype(float)
            if a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= MIN_COSINE:
                pairs.add((i, j, "embedding"))
    return pairs


def test_all_that_two_loops_find_is_found_and_no_more(made: tuple[Path, pd.DataFrame, pd.DataFrame]) -> None:
    folder, works, table = made
    looked = found(folder / "works.parquet", folder / "part-*.parquet", features=[str(folder / "features")])
    got = {
        (int(work), 100 * int(name[-len("0.parquet")]) + row, way)
        for work, name, row, way in rows(looked, "work", "table", "row", "way")
    }
    expected = by_two_loops(works, table)
    assert got == expected
    assert looked.matches.num_rows == len(expected)
    counted = {way.way: (way.rows, way.found) for way in looked.summary.ways}
    assert counted == {way: (sum(w == way for *_, w in expected), len({i for i, _, w in expected if w == way})) for way in WAYS}
    assert all(pairs > 0 for pairs, _ in counted.values())
    require_accounted(looked.summary)
    assert looked.summary.found == len({i for i, *_ in expected})
    of_rows = [
        (100 * int(name[-len("0.parquet")]) + row, caption) for name, row, caption in rows(looked, "table", "row", "caption")
    ]
    assert all(caption == f"picture {row}" for row, caption in of_rows)


def test_neither_batches_nor_the_order_of_tables_nor_their_kind_change_what_is_found(
    made: tuple[Path, pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    folder, _, table = made
    parts = [folder / f"part-{i}.parquet" for i in range(3)]
    options: dict[str, Any] = {"features": [str(folder / "features")]}
    first = found(folder / "works.parquet", *parts, **options)
    other = found(folder / "works.parquet", *parts[::-1], batch_rows=7, **options)
    assert other.matches.equals(first.matches)
    assert other.summary == first.summary
    # The same as CSV, whose embeddings stand in files of numpy's.
    for i in range(3):
        part = table.iloc[100 * i : 100 * (i + 1)]
        part.drop(columns="embedding").to_csv(tmp_path / f"part-{i}.csv", index=False)
        np.save(tmp_path / f"emb-{i}.npy", np.stack(part["embedding"].tolist()))
    beside = {"embeddings": [str(tmp_path / "emb-*.npy")], "batch_rows": 13, **options}
    as_csv = found(folder / "works.parquet", tmp_path / "part-*.csv", **beside)
    columns = ("work", "way", "row", "caption", "distance")
    assert sorted(map(repr, rows(as_csv, *columns))) == sorted(map(repr, rows(first, *columns)))


def test_a_folder_and_a_packed_set_are_looked_for_by_file_and_by_what_stands_beside(tmp_path: Path) -> None:
    folder = tmp_path / "works"
    folder.mkdir()
    images = [encoded(picture(i)) for i in range(3)]
    for i, image in enumerate(images):
        (folder / f"{i}.png").write_bytes(image)
    (folder / "0.json").write_text(json.dumps({"caption": "x", "url": "https://example.org/0.png"}))
    (folder / "1.json").write_text(json.dumps({"caption": "x", "URL": "no address"}))
    (folder / "broken.png").write_bytes(images[0][:200])
    (near,) = perceptual_hashes(images[1], MAX_PIXELS)
    listed = {
        "URL": ["http://example.org/0.png", "https://example.org/2.png", None],
        "md5": [None, None, hashlib.md5(images[2], usedforsecurity=False).hexdigest().upper()],
        "phash": pa.array([None, near ^ 0b111 if near < 2**63 else (near ^ 0b111) - 2**64, None], pa.int64()),
    }
    pq.write_table(pa.table(listed), tmp_path / "list.parquet")
    looked = found(folder, tmp_path / "list.parquet")
    expected = [("0.png", "host and path", 0, None), ("1.png", "phash", 1, 3.0), ("2.png", "md5", 2, None)]
    assert rows(looked, "source", "way", "row", "distance") == expected
    lacks = looked.summary.not_looked_for
    assert lacks["url"] == {"no_url": 2, "not_an_address": 1}
    assert lacks["phash"] == {"corrupt_image": 1}
    require_accounted(looked.summary)
    members = [(f"{i}.png", image) for i, image in enumerate(images)]
    members += [("0.json", (folder / "0.json").read_bytes()), ("3.txt", b"a caption alone")]
    (tmp_path / "a.tar").write_bytes(tar_bytes(sorted(members)))
    (tmp_path / "m.yaml").write_text(
        write_yaml({"name": "set", "splits": [{"name": "all", "member": "unknown", "shards": ["a.tar"]}]})
    )
    packed = found(tmp_path / "m.yaml", tmp_path / "list.parquet")
    assert rows(packed, "work", "way", "row", "distance") == [(work[0], *rest) for work, *rest in expected]
    assert (packed.summary.works, packed.summary.not_looked_for["md5"]) == (4, {"no_image": 1})
    # Beside a tar of img2dataset's its table says more, also of what was not fetched.
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    (fetched / "00000.tar").write_bytes(tar_bytes([("0.jpg", image_bytes(1)), ("0.txt", b"")]))
    facts = {
        "key": ["0", "1"],
        "url": ["https://example.org/other", "https://example.org/2.png"],
        "status": ["success", "gone"],
    }
    pq.write_table(pa.table(facts | {"md5": [listed["md5"][2], None]}), fetched / "00000.parquet")
    assert rows(found(fetched, tmp_path / "list.parquet"), "work", "way", "row") == [("0", "md5", 2), ("1", "url", 1)]


def test_controls_are_counted_apart_and_those_that_are_works_are_none(tmp_path: Path) -> None:
    pd.DataFrame({"url": ["https://a.org/1?x", "https://a.org/2"]}).to_csv(tmp_path / "works.csv", index=False)
    others = ["https://a.org/1?y", "https://A.org:443/2", "https://b.org/3"]
    pd.DataFrame({"url": others}).to_csv(tmp_path / "others.csv", index=False)
    pd.DataFrame({"url": ["https://a.org/1", "https://a.org/2"]}).to_csv(tmp_path / "list.csv", index=False)
    looked = found(tmp_path / "works.csv", tmp_path / "list.csv", control=Works(str(tmp_path / "others.csv")))
    summary = looked.summary
    assert (summary.works, summary.found, summary.controls, summary.controls_found) == (2, 2, 2, 1)
    assert summary.controls_left_out == 1
    by_way = {way.way: (way.found, way.controls_found) for way in summary.ways}
    assert by_way == {"url": (1, 0), "url without query": (1, 1), "host and path": (0, 0)}
    assert sorted(rows(looked, "control", "row")) == [(False, 0), (False, 1), (True, 0)]


def test_matches_without_end_are_counted_and_the_first_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matches, "MAX_KEPT", 3)
    pd.DataFrame({"url": ["https://a.org/1"]}).to_csv(tmp_path / "works.csv", index=False)
    for name in ("x", "y"):
        pd.DataFrame({"url": ["https://a.org/1"] * 10}).to_csv(tmp_path / f"{name}.csv", index=False)
    for names in (("x.csv", "y.csv"), ("y.csv", "x.csv")):
        looked = found(tmp_path / "works.csv", *(tmp_path / name for name in names))
        assert (looked.summary.ways[0].rows, looked.summary.left_out) == (20, 17)
        assert [(Path(table).name, row) for table, row in rows(looked, "table", "row")] == [("x.csv", i) for i in range(3)]


def test_a_column_of_laions_hash_is_told_and_never_used(tmp_path: Path) -> None:
    urls, texts = ["https://a.org/1", "https://a.org/2"], ["one", "two"]
    (tmp_path / "works.csv").write_text("url\nhttps://a.org/1\n")
    for name, hashes in (("laion", [laion_hash(u, t) for u, t in zip(urls, texts, strict=True)]), ("other", [1, 2])):
        pq.write_table(pa.table({"URL": urls, "TEXT": texts, "hash": hashes}), tmp_path / f"{name}.parquet")
    told = {
        Path(table.table).stem: (table.columns, table.unused)
        for table in found(tmp_path / "works.csv", tmp_path / "*.parquet").summary.tables
    }
    assert told["laion"] == ({"url": "URL", "text": "TEXT"}, {"hash": "LAION's hash of URL and text, not of the image"})
    assert told["other"][1]["hash"].startswith("of what is not known")


def test_what_is_odd_in_a_row_costs_the_row_alone(tmp_path: Path) -> None:
    bad = b"https://a.org/\xff"
    offsets = np.array([0, len(bad), len(bad) + 15], np.int32)
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(offsets), pa.py_buffer(bad + b"https://a.org/1"))
    digest = hashlib.sha256(b"1").hexdigest()
    (tmp_path / "works.csv").write_text(f"url,sha256\nhttps://a.org/1,{digest}\n")
    texts = ["https://a.org/" + "x" * 2**21, None, "", "https://[", "https://a.org/1", "\x1b[31m", "\0", "https://a.org/1\0"]
    digests = [digest, "x", None, digest[:-1], f" {digest} ", "", "\0", digest.upper()]
    pq.write_table(pa.table({"url": texts, "sha256": digests}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"url": broken, "sha256": [bytes.fromhex(digest), None]}), tmp_path / "b.parquet")
    looked = found(tmp_path / "works.csv", tmp_path / "*.parquet", batch_rows=3)
    assert [(way, Path(table).stem, row) for way, table, row in rows(looked, "way", "table", "row")] == [
        ("url", "a", 4),
        ("url", "b", 1),
        ("sha256", "a", 0),
        ("sha256", "a", 4),
        ("sha256", "a", 7),
        ("sha256", "b", 0),
    ]
    assert {way.way: way.rows_compared for way in looked.summary.ways} == {
        "url": 3,
        "url without query": 3,
        "host and path": 3,
        "sha256": 4,
    }
    assert looked.summary.rows == 10


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"a": [1], "b": [2]}, {}, "none of its columns finds an image; expected one of url, .*; it has a, b"),
        ({"url": [7]}, {}, "none of its columns finds an image"),
        ({"url": ["u"], "md5": [[1]]}, {"columns": {"md5": "md5"}}, "column md5, which --column names for md5, is list<"),
        ({"url": ["u"]}, {"columns": {"url": "link"}}, "no column link, which --column url=link names; it has url"),
        ({"url": ["u"]}, {"columns": {"colour": "url"}}, "--column colour=url: nothing is looked for by that"),
        ({"url": ["u"]}, {"features": ["x"]}, "--features: no table of the list has embeddings"),
        ({"url": ["u"]}, {"out": "found.csv"}, "--out found.csv: expected a name that ends in .parquet"),
        ({"embedding": [[0.5, 1.0]]}, {}, "it has embeddings alone; give the works' own with --features"),
        ({"embedding": [[0.5, 1.0]]}, {"features": True}, "embedding holds vectors of 2 numbers, --features of 8: made"),
        ({"url": ["u"]}, {"features": True, "embeddings": (1, 4)}, "vectors of 4 numbers, --features of 8: made"),
        ({"url": ["u"]}, {"features": True, "embeddings": (2, 8)}, "2 vectors, but .* has 1 rows; expected as many"),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_through_is_said_beforehand(
    tmp_path: Path, made: tuple[Path, Any, Any], content: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    pq.write_table(pa.table(content), tmp_path / "list.parquet")
    options = dict(options)
    if options.get("features") is True:
        options["features"] = [str(made[0] / "features")]
    if "embeddings" in options:
        np.save(tmp_path / "e.npy", np.zeros(options["embeddings"], np.float16))
        options["embeddings"] = [str(tmp_path / "e.npy")]
    with pytest.raises(ConfigError, match=message) as caught:
        found(made[0] / "works.parquet", tmp_path / "list.parquet", **options)
    assert "\n" not in str(caught.value)


def test_what_is_read_is_never_written_over(tmp_path: Path) -> None:
    for name in ("works", "others", "list"):
        pq.write_table(pa.table({"url": ["https://a.org/1"]}), tmp_path / f"{name}.parquet")
    (tmp_path / "link.parquet").symlink_to(tmp_path / "list.parquet")
    for out in ("works", "others", "list", "link", "../" + tmp_path.name + "/list"):
        with pytest.raises(ConfigError, match="names what this command reads or writes already; give a name of its own"):
            found(
                tmp_path / "works.parquet",
                tmp_path / "l*t.parquet",
                control=Works(str(tmp_path / "others.parquet")),
                out=f"{tmp_path}/{out}.parquet",
            )
    assert pq.read_schema(tmp_path / "list.parquet").names == ["url"]


def test_the_hash_that_a_table_of_works_has_counts_beside_that_of_the_file(tmp_path: Path) -> None:
    buffer, turned = io.BytesIO(), Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    picture(1).save(buffer, "PNG", exif=turned)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    (stored,) = perceptual_hashes(encoded(picture(1)), MAX_PIXELS)
    told = 0x0123456789ABCDEF
    (tmp_path / "works.csv").write_text(f"file,phash\na.png,{told:016x}\n")
    (tmp_path / "list.csv").write_text(f"phash\n{stored:016x}\n{told:016x}\n{told ^ 0b11111:016x}\n")
    looked = found(tmp_path / "works.csv", tmp_path / "list.csv")
    assert rows(looked, "row", "distance") == [(0, 0.0), (1, 0.0)]
    (way,) = looked.summary.ways
    assert way.expected_by_chance == pytest.approx(3 * 3 * sum(math.comb(64, k) for k in range(5)) / 2**64)


def test_tars_of_one_name_in_two_folders_hold_works_of_their_own(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / "works" / folder).mkdir(parents=True)
        facts = json.dumps({"url": f"https://{folder}.org/1"}).encode()
        (tmp_path / "works" / folder / "0.tar").write_bytes(tar_bytes([("1.jpg", image_bytes(ord(folder))), ("1.json", facts)]))
    (tmp_path / "list.csv").write_text("url\nhttps://b.org/1\n")
    assert rows(found(tmp_path / "works", tmp_path / "list.csv"), "work", "source") == [("1", "b/0/1")]


def test_a_url_that_may_have_lost_its_query_is_never_found_for_sure(tmp_path: Path) -> None:
    (tmp_path / "works").mkdir()
    for number, facts in enumerate(({"source": "https://a.org/1"}, {"url_without_query": "https://a.org/2"}, {"source": "x"})):
        (tmp_path / "works" / f"{number}.jpg").write_bytes(image_bytes(number))
        (tmp_path / "works" / f"{number}.json").write_text(json.dumps(facts))
    (tmp_path / "list.csv").write_text("url\nhttps://a.org/1\nhttps://a.org/2?x=1\n")
    looked = found(tmp_path / "works", tmp_path / "list.csv")
    assert rows(looked, "work", "way", "row") == [("0", "url without query", 0), ("1", "url without query", 1)]
    assert looked.summary.not_looked_for["url"] == {"no_url": 1}


def test_features_without_an_embedding_are_said_to_have_none(tmp_path: Path) -> None:
    folder = features(tmp_path / "features", {"x": np.ones(WIDTH, np.float32)})
    empty = Ledger(folder).scores().slice(0, 0)
    pq.write_table(pa.table({"embedding": [[0.0] * WIDTH]}), tmp_path / "list.parquet")
    (tmp_path / "works.csv").write_text("key\na\n")
    with mock.patch.object(Ledger, "scores", return_value=empty), pytest.raises(ConfigError, match="no embedding in it"):
        found(tmp_path / "works.csv", tmp_path / "list.parquet", features=[folder])


def test_a_lookup_in_short_has_each_works_surest_hit_first(made: tuple[Path, pd.DataFrame, pd.DataFrame]) -> None:
    folder, _, _ = made
    looked = found(folder / "works.parquet", folder / "part-*.parquet", features=[str(folder / "features")])
    short = lookup_finding(looked, shown=30)
    assert (short.works, short.found, short.rows, short.tables) == (looked.summary.works, looked.summary.found, 300, 3)
    assert (len(short.hits), short.hits_in_all) == (30, looked.matches.num_rows)
    best = {}
    for work, way in rows(looked, "source", "way"):
        best[work] = min(best.get(work, 2 * len(WAYS)), (way not in SURE) * len(WAYS) + WAYS.index(way))
    by_order = sorted(best.values())
    assert [(hit.way not in SURE) * len(WAYS) + WAYS.index(hit.way) for hit in short.hits[: len(best)]] == by_order[:30]
    assert len({hit.work for hit in short.hits}) == min(30, len(best))
    assert short.found_for_sure == sum(one < len(WAYS) for one in best.values())
    assert LookupFinding.model_validate_json(short.model_dump_json()) == short
    whole = lookup_finding(looked, shown=10**6)
    bits = [hit.similarity for hit in whole.hits if hit.way == "phash"]
    assert sorted(bits) == sorted(1 - distance / 64 for way, distance in rows(looked, "way", "distance") if way == "phash")
    assert all(hit.similarity is None for hit in whole.hits if hit.way in SURE)


def test_a_table_that_breaks_off_is_named(made: tuple[Path, Any, Any], tmp_path: Path) -> None:
    whole = (made[0] / "part-0.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-40])
    middle = whole[:20] + bytes(600) + whole[620:]
    (tmp_path / "hole.parquet").write_bytes(middle)
    (tmp_path / "short.csv").write_text("url,md5\nhttps://a.org,1\nhttps://a.org\n")
    (tmp_path / "twice.csv").write_text("url,url\nhttps://a.org,1\n")
    (tmp_path / "long.csv").write_text("url\n" + "x" * 200_000)
    (tmp_path / "latin.csv").write_bytes(b"url\n\xff\n")
    for name in ("cut.parquet", "hole.parquet", "short.csv", "twice.csv", "long.csv", "latin.csv"):
        with pytest.raises(ConfigError, match=rf"^table {tmp_path / name}: "):
            found(made[0] / "works.parquet", tmp_path / name)


def test_url_columns_of_works_are_those_that_are_named_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "works.csv").write_text("url,link\nhttps://a.org/1,https://a.org/2\n")
    (tmp_path / "list.csv").write_text("url\nhttps://a.org/1\nhttps://a.org/2\n")
    looked = lookup(Works(str(tmp_path / "works.csv"), "link"), [str(tmp_path / "list.csv")], CONSOLE)
    assert rows(looked, "row") == [(1,)]
    with pytest.raises(ConfigError, match="no column www, which --url-column names; it has url, link"):
        lookup(Works(str(tmp_path / "works.csv"), "www"), [str(tmp_path / "list.csv")], CONSOLE)


def test_images_of_a_table_are_works_with_what_stands_in_their_rows(tmp_path: Path) -> None:
    image = encoded(picture(3))
    (tmp_path / "a.png").write_bytes(image)
    (tmp_path / "files.csv").write_text("file,url\na.png,https://a.org/1\ngone.png,\n,https://a.org/3\n")
    held = pa.array([{"bytes": image, "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": held, "caption": ["x"]}), tmp_path / "held.parquet")
    digest = hashlib.sha256(image).hexdigest()
    (tmp_path / "list.csv").write_text(f"url,sha256\nhttps://a.org/3,\n,{digest}\n")
    looked = found(tmp_path / "files.csv", tmp_path / "list.csv")
    assert rows(looked, "source", "way", "row") == [("a.png", "sha256", 1), ("https://a.org/3", "url", 0)]
    assert looked.summary.not_looked_for["sha256"] == {"missing": 1, "no_file_named": 1}
    assert rows(found(tmp_path / "held.parquet", tmp_path / "list.csv"), "way", "row") == [("sha256", 1)]


def test_digests_as_bytes_and_hashes_as_whole_numbers_are_the_same_in_works_and_lists(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"1")
    # A whole number of sixteen digits could be taken for hexadecimal ones.
    value, signed = 1234567890123456, -5
    columns = {
        "sha256": [digest.digest(), None, None],
        "phash": pa.array([None, value, signed], pa.int64()),
        "key": ["a", "b", "c"],
    }
    pq.write_table(pa.table(columns), tmp_path / "works.parquet")
    pq.write_table(
        pa.table(
            {"sha256": [None, digest.hexdigest(), None], "phash": [f"{value:016x}", f"{signed % 2**64:016x}", f"{value}"]}
        ),
        tmp_path / "list.parquet",
    )
    looked = found(tmp_path / "works.parquet", tmp_path / "list.parquet")
    assert rows(looked, "work", "way", "row", "distance") == [
        ("a", "sha256", 1, None),
        ("b", "phash", 0, 0.0),
        ("c", "phash", 1, 0.0),
    ]
    (tmp_path / "odd.csv").write_text("phash\n12\n")
    assert found(tmp_path / "odd.csv", tmp_path / "list.parquet").summary.not_looked_for["phash"] == {"not_a_hash": 1}


def test_large_rows_are_read_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_BATCH_BYTES", 2**16)
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"url": [f"{i}" + "x" * 2**13 for i in range(64)]}), path, compression="none", use_dictionary=False)
    sizes = [batch.num_rows for batch in tables.table_batches(str(path), ["url"], "table")]
    assert sum(sizes) == 64
    assert max(sizes) <= 8


def test_a_csv_larger_than_a_batch_is_read_as_a_whole_one_is() -> None:
    text = "\ufeffurl,text\r\n" + "".join(f'https://a.org/{i},"line one\nand ""two"" {i}"\r\n' for i in range(100))
    for encoding in ("utf-8", "utf-16-le"):
        content = text.encode(encoding)
        batches = list(tables.csv_batches(io.BytesIO(content)))
        assert pa.Table.from_batches(batches).equals(tables.read_csv(content))
