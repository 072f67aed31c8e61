"""CSV is text, and whatever shifts its columns is named by line."""

from __future__ import annotations

import pytest

from raymia.data.delimited import TableError, read_csv


def columns(content: str | bytes) -> dict[str, list[str | None]]:
    return read_csv(content if isinstance(content, bytes) else content.encode()).to_pydict()  # type: ignore[no-any-return]


@pytest.mark.parametrize("cell", ["007", "true", "1e5", "NA", "null", "nan", "0x10", "1_000", "=1+1", " x ", "2020-01-01"])
def test_a_cell_stays_the_text_that_it_is(cell: str) -> None:
    assert columns(f"file,caption\n0003,{cell}\n") == {"file": ["0003"], "caption": [cell]}


def test_an_empty_field_is_missing_quoted_or_not_and_blank_lines_are_no_rows() -> None:
    assert columns('a,b\n1,\n\n"",2\n') == {"a": ["1", None], "b": [None, "2"]}


def test_fields_in_quotes_may_hold_commas_quotes_and_line_breaks() -> None:
    assert columns('a,b\n"x, y","say ""hi""\r\nthere"\n') == {"a": ["x, y"], "b": ['say "hi"\r\nthere']}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_encodings_that_announce_themselves_and_line_breaks_of_any_system_are_read(encoding: str, line_break: str) -> None:
    text = line_break.join(["file,caption", "a.jpg,gr\u00fcn \U0001f33f", ""])
    assert columns(text.encode(encoding)) == {"file": ["a.jpg"], "caption": ["gr\u00fcn \U0001f33f"]}


def test_a_column_without_a_name_is_called_by_its_number() -> None:
    assert columns(",file\n0,a\n") == {"column 1": ["0"], "file": ["a"]}
    assert columns("file,,\na,1,2\n") == {"file": ["a"], "column 2": ["1"], "column 3": ["2"]}


def test_more_rows_than_are_held_at_once_come_in_order() -> None:
    numbers = [str(number) for number in range(200_000)]
    assert columns("n\n" + "\n".join(numbers)) == {"n": numbers}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # An unquoted comma: in one row, in every row (which pandas takes for an index), and in a shorter one.
        ("file,caption\na,x\nb,y, z\n", "line 3: expected 2 fields as in the first line, found 3"),
        ("file,caption\na,x,y\nb,z,w\n", "line 2: expected 2 fields as in the first line, found 3"),
        ("file,caption,member\na,x,1\nb,y\n", "line 3: expected 3 fields as in the first line, found 2"),
        ('file,caption\na,"x\ny"\nb\n', "line 4: expected 2 fields"),
        ('file,caption\na,"x" y\n', "line 2: ',' expected after '\"'"),
        ('file,caption\na,"x\nb,y\n', "line 3: unexpected end of data"),
        ("file;caption\na;x, y\n", "its columns are separated by semicolons; expected commas"),
        ("file\tcaption\na\tx\n", "its columns are separated by tabs; expected commas"),
        ("sep=;\nfile;caption\n", "its columns are separated by semicolons; expected commas"),
        ("file,caption,file\na,b,c\n", "has more than one column file"),
        ("file, file\na,b\n", "has more than one column file"),
        ("", "is empty; expected a first line that names the columns"),
        ("\r\n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"file,caption\na,ok\nb,caf\xe9\n", "line 3 is not UTF-8; save the table as UTF-8"),
        ("file,caption\na,b\n".encode("utf-16-le"), "line 1 holds a NUL character; expected text, saved as UTF-8"),
        ("file,caption\na,b\0\n", "line 2 holds a NUL character"),
        (b"\xff\xfe\x00", "line 1 is not UTF-16"),
        (b"PK\x03\x04\xff\xfe", "line 1 is not UTF-8"),
        ("caption\n" + "x" * 200_000 + "\n", "line 2: field larger than field limit"),
    ],
)
def test_what_is_no_such_csv_is_named_by_line(content: str | bytes, message: str) -> None:
    with pytest.raises(TableError) as caught:
        columns(content)
    assert message in str(caught.value)
