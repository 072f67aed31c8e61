"""The table of what became of each image: read in every version, counted without what was never attempted."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymia.curation.attrition import ATTRITION_SCHEMA, analyse, attrition, read_attrition, remarks
from raymia.errors import ConfigError

ROWS = [
    {"split": "members", "shard": "members-00000", "key": "0003", "source": "0003.jpg", "flags": "no_caption,name_differs"},
    {
        "split": "members",
        "shard": "members-00000",
        "key": "0004",
        "source": "0004.jpg",
        "stage": "decode",
        "reason": "corrupt_image",
    },
    {"split": "members", "source": "z.XMP", "stage": "list", "reason": "not_an_image", "detail": "no image"},
    {"split": "members", "source": "a\nb\x1b[31m", "stage": "list", "reason": "not_an_image", "detail": "no image"},
    {"split": "others", "shard": "others-00000", "key": "0005", "source": "0005.jpg", "flags": ""},
]
TABLE = pa.Table.from_pylist(ROWS, schema=ATTRITION_SCHEMA)


def test_what_was_never_attempted_is_counted_apart() -> None:
    losses = analyse(TABLE.to_pandas(), {"members": True, "others": False})
    members, others = losses.splits
    assert (members.attempted, members.fetched, members.decoded) == (2, 2, 1)
    assert (members.lost, members.passed_over) == ({"corrupt_image": 1}, {"not_an_image": 2})
    assert members.flags == {"no_caption": 1, "name_differs": 1}
    assert (others.attempted, others.passed_over, others.flags) == (1, {}, {})
    assert losses.tests[0].lost == {"members": 1, "others": 0}


def test_splits_are_compared_by_what_was_attempted_alone() -> None:
    rows = [{"split": split, "key": str(i), "source": str(i)} for split in ("members", "others") for i in range(500)]
    rows += [{"split": "members", "source": f"{i}.xmp", "stage": "list", "reason": "not_an_image"} for i in range(500)]
    rows += [{"split": "nothing", "source": "x.xmp", "stage": "list", "reason": "not_an_image"}]
    losses = analyse(pa.Table.from_pylist(rows, schema=ATTRITION_SCHEMA).to_pandas(), {"members": True, "others": False})
    assert losses.statement.startswith("No sign that the splits lost samples at different rates")
    assert list(losses.tests[0].lost) == ["members", "others"]


def test_remarks_name_kind_count_and_an_example_without_control_characters() -> None:
    assert remarks(TABLE) == [
        "members: no_caption 1, such as '0003.jpg'",
        "members: name_differs 1, such as '0003.jpg'",
        "members: not_an_image 2 (.xmp 1, no ending 1), such as 'z.XMP'",
    ]
    assert remarks(TABLE.slice(3)) == ["members: not_an_image 1 (no ending 1), such as 'a\\nb\\x1b[31m'"]


def test_tables_of_before_there_were_flags_are_read(tmp_path: Path) -> None:
    pq.write_table(TABLE.drop_columns(["flags"]), tmp_path / "attrition.parquet")
    table = read_attrition(str(tmp_path / "attrition.parquet"))
    assert list(table) == ATTRITION_SCHEMA.names
    assert table["key"].tolist() == ["0003", "0004", None, None, "0005"]
    assert table["flags"].tolist() == [None] * 5
    assert analyse(table, {}).splits[0].flags == {}
    path = tmp_path / "m.yaml"
    path.write_text("name: m\nattrition: attrition.parquet\nsplits:\n- {name: members, member: true, shards: [a.tar]}\n")
    assert attrition(str(path)).splits[0].attempted == 2


@pytest.mark.parametrize("content", [b"", b"PAR1nonsensePAR1", "lacking"])
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "attrition.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pd.DataFrame({"split": ["a"]}).to_parquet(path)
    with pytest.raises(ConfigError, match=f"^attrition {path}: "):
        read_attrition(str(path))
