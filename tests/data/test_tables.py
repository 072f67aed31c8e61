"""Tables come as they stand in the file: text stays text, and what cannot be text is named with its column and type."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymia.data import tables
from raymia.data.clusters import load_clusters
from raymia.data.delimited import TableError
from raymia.data.manifest import Manifest
from raymia.data.tables import is_table, parquet_rows, read_leaf, read_schema, read_table
from raymia.errors import ConfigError

COLUMNS = ("file", "caption")


def written(path: Path, content: pa.Table | bytes | str) -> str:
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def rows(path: str, **options: Any) -> list[list[object]]:
    table = read_table(path, COLUMNS, "captions", **options)
    return table[[*COLUMNS]].astype(object).where(table[[*COLUMNS]].notna(), None).to_numpy().tolist()


def captions_of(kind: pa.DataType, values: list[Any]) -> pa.Table:
    return pa.table({"file": [f"{i}.jpg" for i in range(len(values))], "caption": pa.array(values, kind)})


def test_nothing_in_a_csv_is_taken_for_a_number_or_a_truth_value_where_text_is_wanted(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "file,caption\n0003,007\n0004,true\n0005,1e5\n0006,\n")
    assert rows(path) == [["0003", "007"], ["0004", "true"], ["0005", "1e5"], ["0006", None]]


def test_columns_of_a_csv_that_are_not_asked_for_are_numbers_where_every_field_is_one(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "file,caption,width,note\n1,2,640,7\n3,4,,x\n")
    table = read_table(path, COLUMNS, "captions")
    assert table["width"].tolist()[0] == 640
    assert np.isnan(table["width"][1])
    assert table["note"].tolist() == ["7", "x"]
    assert list(read_table(path, COLUMNS, "captions", others=False)) == [*COLUMNS]


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (pa.int64(), [3, None], ["3", None]),
        # What pandas makes of whole numbers where some are missing, before it writes them.
        (pa.float64(), [3.0, None], ["3", None]),
        (pa.float64(), [2.5, float("nan")], ["2.5", None]),
        (pa.bool_(), [True, None], ["true", None]),
        (pa.large_string(), ["007", None], ["007", None]),
        (pa.string_view(), ["007", None], ["007", None]),
        (pa.dictionary(pa.int32(), pa.string()), ["a", None], ["a", None]),
        (pa.binary(), ["gr\u00fcn".encode(), None], ["gr\u00fcn", None]),
        (pa.decimal128(5, 2), [None, 1], [None, "1.00"]),
        (pa.null(), [None, None], [None, None]),
        (pa.date32(), [datetime.date(2020, 1, 2), None], ["2020-01-02", None]),
    ],
)
def test_what_parquet_holds_is_written_out_without_a_guess(
    tmp_path: Path, kind: pa.DataType, values: list[Any], expected: list[str | None]
) -> None:
    path = written(tmp_path / "t.parquet", captions_of(kind, values))
    assert [caption for _, caption in rows(path)] == expected


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            pa.list_(pa.string()),
            [["x", "y"]],
            "column caption is list<element: string>: several values in a row; write the one",
        ),
        (pa.list_(pa.string(), 2), [["x", "y"]], "column caption is fixed_size_list"),
        (pa.struct([("en", pa.string())]), [{"en": "x"}], "column caption is struct<en: string>; expected text"),
        (
            pa.map_(pa.string(), pa.string()),
            [[("en", "x")]],
            "expected text; write the field to be read",
        ),
        (pa.binary(), [b"\xff"], "column caption is binary, which cannot be read as text"),
    ],
)
def test_what_is_no_text_is_an_error_that_names_file_column_and_type(
    tmp_path: Path, kind: pa.DataType, values: list[Any], message: str
) -> None:
    path = written(tmp_path / "t.parquet", captions_of(kind, values))
    with pytest.raises(ConfigError, match=rf"^captions {path}: ") as caught:
        rows(path)
    # How Parquet calls the items of a list differs between versions.
    assert message.replace("element", "item") in str(caught.value).replace("element", "item")


def test_text_of_a_parquet_that_is_no_text_after_all_is_an_error(tmp_path: Path) -> None:
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe"))
    path = written(tmp_path / "t.parquet", pa.table({"file": ["a"], "caption": bad}))
    with pytest.raises(ConfigError, match="column caption is string, which cannot be read as text"):
        rows(path)


def test_an_index_that_pandas_wrote_is_a_column_like_the_others(tmp_path: Path) -> None:
    pd.DataFrame({"file": ["a"], "caption": ["b"]}).set_index("file").to_parquet(tmp_path / "t.parquet")
    assert rows(str(tmp_path / "t.parquet")) == [["a", "b"]]


def test_a_column_of_times_beside_those_that_are_needed_does_no_harm_unless_it_is_asked_for(tmp_path: Path) -> None:
    times = pa.array([datetime.datetime(2020, 1, 1)], pa.timestamp("us", tz="Mars/Olympus"))
    path = written(tmp_path / "t.parquet", pa.table({"file": ["a"], "caption": ["b"], "at": times}))
    assert rows(path, others=False) == [["a", "b"]]
    with pytest.raises(ConfigError, match=r"column at is timestamp\[us, tz=Mars/Olympus\], cannot be read"):
        rows(path)


def test_empty_tables_have_their_columns_and_no_rows(tmp_path: Path) -> None:
    assert rows(written(tmp_path / "t.csv", "file,caption\n")) == []
    assert rows(written(tmp_path / "t.parquet", captions_of(pa.string(), []))) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a.jpg,a cat\nb.jpg,a dog\n", "no column file, caption; it has a.jpg, a cat"),
        ("t.parquet", pa.table({"File": ["a"], "caption": ["b"]}), "no column file; it has File, caption"),
        ("t.parquet", pa.Table.from_arrays([pa.array(["a"])] * 2, ["file", "file"]), "has more than one column file"),
        ("t.parquet", b"", "is not Parquet, or only the beginning of one"),
        ("t.parquet", "file,caption\na.jpg,a cat\n", "is not Parquet, or only the beginning of one"),
        ("t.parquet", b"PK\x03\x04" * 100, "is not Parquet"),
        ("t.parquet", b"PAR1\xff\xff\xff\x7fPAR1", "its footer claims 2147483647 bytes in a file of 12"),
        ("t.parquet", b"PAR1" + b"\xff" * 90 + b"\x20\0\0\0PAR1", "cannot be read as Parquet"),
        ("t.csv.gz", b"", "expected a file that ends in .parquet or .csv"),
    ],
)
def test_what_is_no_table_is_an_error_that_names_the_file(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(ConfigError, match=rf"^captions {path}: ") as caught:
        rows(path)
    assert message in str(caught.value)


def test_a_parquet_that_was_cut_or_damaged_inside_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    whole = captions_of(pa.string(), [f"caption number {i}" for i in range(1000)])
    pq.write_table(whole, path, compression="zstd")
    content = path.read_bytes()
    random = np.random.default_rng(0)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="is not Parquet, or only the beginning of one"):
        rows(str(path))
    messages: list[str] = []
    for _ in range(60):
        damaged = bytearray(content)
        for place in random.integers(0, len(content) - 8, 8):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        # Damage to a name or a number changes nothing else; all other damage is one error.
        try:
            rows(str(path))
        except ConfigError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all(str(path) in message for message in messages)


def test_a_table_that_would_not_fit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "t.parquet", captions_of(pa.string(), ["x" * 1000] * 50_000))
    assert Path(path).stat().st_size < 500_000
    monkeypatch.setattr(tables, "MAX_TABLE_BYTES", 10_000_000)
    with pytest.raises(ConfigError, match="its columns file, caption take more than 10000000 bytes of memory"):
        rows(path)
    monkeypatch.setattr(tables, "MAX_ROWS", 1000)
    with pytest.raises(ConfigError, match="claims 50000 rows; at most 1000 are read"):
        rows(path)
    monkeypatch.setattr(tables, "MAX_CSV_BYTES", 10)
    with pytest.raises(ConfigError, match="more than"):
        rows(written(tmp_path / "t.csv", "file,caption\na,b\n"))


def test_a_table_that_is_not_there_is_named_without_the_secrets_of_its_url(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^captions {tmp_path}/gone.csv: no such file"):
        rows(f"{tmp_path}/gone.csv")
    assert is_table("https://user:p@ss/word@host/t.CSV?sig=1")
    with pytest.raises(ConfigError) as caught:
        rows("nosuch://user:p@ss/word@host/t.csv?sig=abc")
    assert "ss/word" not in str(caught.value)
    assert "sig" not in str(caught.value)


def test_single_rows_of_a_parquet_are_read_across_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [bytes([i]) for i in range(100)], "n": range(100)}), path, row_group_size=30)
    wanted = [0, 17, 29, 30, 64, 99]
    assert list(parquet_rows(str(path), "image", wanted)) == [bytes([i]) for i in wanted]
    assert list(parquet_rows(str(path), "image", [])) == []
    with pytest.raises(TableError, match="ends before row 100"):
        list(parquet_rows(str(path), "image", [99, 100]))


def test_one_field_of_a_column_of_structs_is_read_by_row(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": b"x", "path": "a"}, None, {"bytes": None, "path": None}], kind)
    path = written(tmp_path / "t.parquet", pa.table({"image": images}))
    assert read_schema(path, "table").field("image").type == kind
    assert read_leaf(path, "image", "path", "table") == ["a", None, None]


def test_clusters_name_shards_and_keys_of_digits_as_they_stand(tmp_path: Path) -> None:
    written(tmp_path / "c.csv", "split,shard,key,cluster,note\nin,00000,0003,01,x\nin,00001,0004,,y\n")
    manifest = Manifest.model_validate(
        {"name": "set", "clusters": "c.csv", "splits": [{"name": "in", "member": True, "shards": ["a.tar"]}]}
    )
    clusters = load_clusters(manifest, str(tmp_path))
    assert clusters is not None
    assert clusters.to_pydict() == {
        "split": ["in", "in"],
        "key": ["0003", "0004"],
        "cluster": ["01", None],
        "shard": ["00000", "00001"],
    }
