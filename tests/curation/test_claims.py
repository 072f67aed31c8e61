"""What works say of themselves is read from real files, and who was published too late to be a member is told for certain."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image
from rich.console import Console

from raymia.curation import claims as claiming
from raymia.curation.claimed import side_of
from raymia.curation.claims import Claims, claims
from raymia.curation.credentials import can_read, credentials_of, read_credentials
from raymia.curation.file_claims import FileClaims, file_claims
from raymia.curation.findings import claims_finding
from raymia.curation.lookup import lookup
from raymia.curation.works import Works
from raymia.data.dates import parse_date
from raymia.data.findings import ClaimsFinding
from raymia.data.provider import load_provider
from raymia.documents import write_yaml
from raymia.errors import ConfigError
from tests.conftest import tar_bytes

CONSOLE = Console(stderr=True, quiet=True)
SIGNED = Path(__file__).parent / "signed" / "training_mining.webp"
"""Signed by a certificate that was made for this test: generative training is not allowed, other training is constrained."""
SAID = {"source": "https://example.org/card", "retrieved": "2026-01-01"}
NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
}


def xmp(**properties: str) -> bytes:
    """A packet of properties, named `photoshop_DateCreated` and so on."""
    names = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
    inner = "".join(f"<{n.replace('_', ':')}>{value}</{n.replace('_', ':')}>" for n, value in properties.items())
    return f'<rdf:RDF {names}><rdf:Description rdf:about="">{inner}</rdf:Description></rdf:RDF>'.encode()


def mining(value: str) -> bytes:
    return xmp(plus_DataMining=f"http://ns.useplus.org/ldf/vocab/{value}")


def picture(kind: str = "JPEG", height: int = 48, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((64, height)).save(buffer, kind, **options)
    return buffer.getvalue()


def with_iptc(content: bytes, fields: dict[int, bytes]) -> bytes:
    """A JPEG with a Photoshop segment that holds data sets of IPTC's second record."""
    records = b"".join(b"\x1c\x02" + bytes([n]) + len(value).to_bytes(2) + value for n, value in fields.items())
    resource = b"8BIM\x04\x04\0\0" + len(records).to_bytes(4) + records + b"\0" * (len(records) % 2)
    segment = b"Photoshop 3.0\0" + resource
    return content[:2] + b"\xff\xed" + (len(segment) + 2).to_bytes(2) + segment + content[2:]


def exif(**values: str) -> Image.Exif:
    made = Image.Exif()
    for name, value in values.items():
        if name == "DateTimeOriginal":
            made.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = value
        else:
            made[ExifTags.Base[name]] = value
    return made


def claimed(source: Any, **options: Any) -> Claims:
    return claims(Works(str(source)), CONSOLE, **options)


def rows(found: Claims, *columns: str) -> list[tuple[Any, ...]]:
    return list(zip(*(found.table.column(name).to_pylist() for name in columns), strict=True))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_is_read_in_every_kind_of_file(kind: str) -> None:
    said = xmp(photoshop_DateCreated="2020-01-31", plus_DataMining="DMI-PROHIBITED", xmpRights_WebStatement="https://a.org/c")
    options: dict[str, Any] = {"xmp": said}
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", said.decode())
    if kind == "TIFF":
        options = {"tiffinfo": {700: said}}
    found = file_claims(picture(kind, **options))
    assert found.faults == {}
    assert found.fields == {"created": "2020-01-31", "data_mining": "DMI-PROHIBITED", "web_statement": "https://a.org/c"}
    assert {*found.said_by.values()} == {"XMP"}


def test_iptc_and_exif_are_read_and_of_what_several_say_xmp_counts_then_iptc() -> None:
    fields = {55: b"20190505", 110: "K\u00f6ln".encode("latin-1"), 80: b"A. Painter", 116: b"(c) IPTC"}
    made = exif(DateTimeOriginal="2018:01:01 10:00:00", Copyright="(c) EXIF", Artist="E")
    found = file_claims(with_iptc(picture(exif=made, xmp=xmp(dc_rights="(c) XMP")), fields))
    assert found.fields == {"rights": "(c) XMP", "created": "20190505", "credit": "K\u00f6ln", "creator": "A. Painter"}
    assert found.said_by == {"rights": "XMP", "created": "IPTC", "credit": "IPTC", "creator": "IPTC"}
    alone = file_claims(picture(exif=made))
    assert alone.fields == {"created": "2018:01:01 10:00:00", "creator": "E", "rights": "(c) EXIF"}


def test_what_is_broken_in_a_file_is_a_fault_and_the_rest_is_read() -> None:
    found = file_claims(with_iptc(picture(xmp=b"<x>"), {116: b"(c)"}))
    assert (found.fields, {*found.faults}) == ({"rights": "(c)"}, {"XMP"})
    whole = with_iptc(picture(xmp=xmp(dc_rights="r"), exif=exif(Copyright="c")), {116: b"x" * 100})
    for cut in itertools.chain(range(0, 400, 7), range(400, len(whole), 97)):
        assert isinstance(file_claims(whole[:cut]), FileClaims)
        assert isinstance(file_claims(whole[:cut] + bytes(50) + whole[cut + 50 :]), FileClaims)


def test_texts_of_exif_are_utf_8_where_they_can_be_and_a_date_that_is_none_gives_way() -> None:
    # As cameras and most programs write it; Pillow itself writes no such letters.
    content = picture(exif=exif(Copyright="(c) Koeln", DateTimeOriginal="2018:01:01 10:00:00"))
    found = file_claims(content.replace(b"(c) Koeln", "\u00a9 K\u00f6ln.".encode()))
    assert found.fields == {"rights": "\u00a9 K\u00f6ln.", "created": "2018:01:01 10:00:00"}
    said = file_claims(picture(xmp=xmp(photoshop_DateCreated="spring"), exif=exif(DateTimeOriginal="2018:01:01 10:00:00")))
    assert (said.fields["created"], said.said_by["created"]) == ("2018:01:01 10:00:00", "EXIF")
    assert file_claims(picture(exif=exif(DateTimeOriginal="0000:00:00 00:00:00"))).fields == {}


def test_content_credentials_are_seen_and_where_the_library_is_there_read() -> None:
    assert file_claims(SIGNED.read_bytes()).has_credentials
    assert not file_claims(picture()).has_credentials
    # What c2pa-python 0.38.1 says of the file, and what it says here.
    reports = [credentials_of(SIGNED.with_suffix(".json").read_text())]
    if can_read():
        read = read_credentials(SIGNED.read_bytes())
        assert read is not None
        reports.append(read)
        assert read_credentials(picture()) is None
    for report in reports:
        assert (report.state, report.signer, report.fault) == ("Valid", "leaf, Test", "")
        assert report.uses == {"ai_generative_training": "notAllowed", "ai_training": "constrained", "data_mining": "allowed"}
        assert report.training == "notAllowed"


@pytest.mark.parametrize("report", ["", "[]", "{}", '{"active_manifest": "a", "manifests": {"a": {"assertions": [1]}}}'])
def test_a_report_that_is_none_is_a_fault(report: str) -> None:
    assert credentials_of(report).fault.startswith("the library's report cannot be read")


@pytest.mark.parametrize(
    ("published", "cut_off", "side"),
    [
        ("2023-04-01", "2023-03-31", "non_member"),
        ("2023-03-31", "2023-03-31", "suspect"),
        ("2023-04", "2023-03", "non_member"),
        # Of a month it is not known which day; of the year it is not known which month.
        ("2023-03-15", "2023-03", "unclear"),
        ("2023", "2023-03-31", "unclear"),
        ("2022", "2023-03", "suspect"),
        ("2024", "2023", "non_member"),
        (None, "2023", "unclear"),
    ],
)
def test_the_side_of_a_cut_off_is_told_where_all_days_agree(published: str | None, cut_off: str, side: str) -> None:
    end = parse_date(cut_off)
    assert end is not None
    assert side_of(None if published is None else parse_date(published), end) == side


@pytest.fixture
def works(tmp_path: Path) -> Path:
    """A folder of works with what they say beside them, a list that names the first, and its lookup."""
    folder = tmp_path / "works"
    folder.mkdir()
    told: list[tuple[dict[str, Any], bytes]] = [
        ({"published": "2021-05-01", "reserved": "yes", "url": "https://a.org/0"}, picture(xmp=mining("DMI-PROHIBITED"))),
        ({"published": "2024-05-01", "url": "https://a.org/1"}, picture(xmp=xmp(photoshop_DateCreated="2024-06-02"))),
        ({"published": "2019", "reserved": "no"}, picture(xmp=mining("DMI-PROHIBITED-GENAIMLTRAINING"))),
        ({}, picture(xmp=mining("DMI-ALLOWED"))),
        ({"published": "spring", "reserved": "perhaps"}, picture(xmp=mining("DMI-WHAT"))),
        ({"published": "2020-01-01"}, b"\xff\xd8\xff\xe0broken"),
        ({"published": "2024-06"}, picture()),
    ]
    for number, (facts, content) in enumerate(told):
        (folder / f"{number}.jpg").write_bytes(content)
        (folder / f"{number}.json").write_text(json.dumps(facts))
    (tmp_path / "list.csv").write_text("url\nhttp://www.a.org/1\nhttps://A.org/0\n")
    lookup(Works(str(folder)), [str(tmp_path / "list.csv")], CONSOLE, out=str(tmp_path / "found.parquet"))
    return folder


def provider(path: Path, **changes: Any) -> str:
    content = {"model": "m-2", "cut_off": {"value": "2023-03", **SAID}, "opt_outs_respected": {"value": True, **SAID}}
    path.write_text(write_yaml(content | changes))
    return str(path)


def test_every_work_says_what_it_says_and_what_speaks_against_it(works: Path, tmp_path: Path) -> None:
    sets = [
        {"name": "Big", "released": "2023-09", **SAID},
        {"name": "Old", "released": "2022", **SAID},
        {"name": "New", **SAID},
    ]
    said = load_provider(provider(tmp_path / "c.yaml", data_sets=sets))
    out, later = str(tmp_path / "out" / "claims.parquet"), str(tmp_path / "later.parquet")
    found = claimed(works, provider=said, lookup=str(tmp_path / "found.parquet"), out=out, non_members=later)
    assert rows(found, "work", "published", "reserved", "reserved_by", "side", "found_by") == [
        ("0", "2021-05-01", "yes", "table", "suspect", "url"),
        # The list names it by host and path, which is no sure way to find a work and still leaves it no certain non-member.
        ("1", "2024-05-01", "unknown", None, "unclear", None),
        ("2", "2019", "no", "table", "suspect", None),
        ("3", None, "no", "plus:DataMining", "unclear", None),
        ("4", None, "unknown", None, "unclear", None),
        ("5", "2020-01-01", "unknown", None, "suspect", None),
        ("6", "2024-06", "unknown", None, "non_member", None),
    ]
    summary = found.summary
    assert summary.contradictions == {
        "late_and_listed": 1,
        "made_after_publication": 1,
        "reservations_disagree": 1,
        "reserved_and_listed": 1,
    }
    contradicted = {row: len(words) for row, words in rows(found, "work", "contradictions")}
    assert contradicted == {"0": 1, "1": 2, "2": 1, "3": 0, "4": 0, "5": 0, "6": 0}
    assert summary.of_provider == ["the cut-off 2023-03 is before Big was released, on 2023-09, which it names as trained on"]
    assert summary.faults == {"data_mining": 1, "file": 1, "published": 1, "reserved": 1}
    assert summary.by_year["unknown"] == {"no": 1, "unknown": 1}
    assert sum(sum(counts.values()) for counts in summary.by_year.values()) == sum(summary.sides.values()) == summary.works == 7
    assert (summary.found, summary.listed, summary.sides) == (1, 2, {"non_member": 1, "suspect": 3, "unclear": 3})
    assert pq.read_table(out).equals(found.table)
    assert pq.read_table(later).to_pylist() == [
        {"split": None, "shard": None, "key": "6", "source": "6.jpg", "published": "2024-06"}
    ]


def test_without_a_word_on_opt_outs_or_a_cut_off_no_listed_work_contradicts(works: Path, tmp_path: Path) -> None:
    for changes in ({"opt_outs_respected": {"value": False, **SAID}}, {"cut_off": None}):
        said = load_provider(provider(tmp_path / "c.yaml", **changes))
        kinds = claimed(works, provider=said, lookup=str(tmp_path / "found.parquet")).summary.contradictions
        assert "reserved_and_listed" not in kinds
    summary = claimed(works).summary
    assert (summary.sides, summary.model, summary.found) == ({}, None, None)


def test_non_members_of_a_manifest_are_a_selection_of_it(tmp_path: Path) -> None:
    members = []
    for number, year in enumerate((2020, 2024, 2025)):
        said_beside = json.dumps({"published": str(year)}).encode()
        members += [(f"{number}.jpg", picture(height=48 + number)), (f"{number}.json", said_beside)]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    manifest = {"name": "set", "splits": [{"name": "all", "member": "unknown", "shards": ["a.tar"]}]}
    (tmp_path / "m.yaml").write_text(write_yaml(manifest))
    said = load_provider(provider(tmp_path / "c.yaml"))
    claimed(tmp_path / "m.yaml", provider=said, non_members=str(tmp_path / "later.parquet"))
    (tmp_path / "later.yaml").write_text(write_yaml(manifest | {"selection": "later.parquet"}))
    assert [work.key for work in Works(str(tmp_path / "later.yaml")).read(True)] == ["1", "2"]


def test_a_table_of_works_alone_says_when_and_whether(tmp_path: Path) -> None:
    table = pd.DataFrame({"key": ["a", "b"], "published": ["2020-02", None], "published_at": ["https://a.org", None]})
    table.assign(reserved=["TRUE", "unknown"]).to_csv(tmp_path / "works.csv", index=False)
    found = claimed(tmp_path / "works.csv")
    assert rows(found, "work", "published", "published_at", "reserved") == [
        ("a", "2020-02", "https://a.org", "yes"),
        ("b", None, None, "unknown"),
    ]


def test_no_work_is_a_certain_non_member_that_something_speaks_against(tmp_path: Path) -> None:
    folder = tmp_path / "works"
    folder.mkdir()
    told = {
        "early": ({"published": "2020"}, 1),
        "again": ({"published": "2024-05-01"}, 1),
        "late": ({"published": "2024-05-01"}, 2),
        "zone": ({"published": "2024-01-01T00:30:00+14:00"}, 3),
        "never": ({"published": "2999"}, 4),
    }
    for name, (facts, height) in told.items():
        (folder / f"{name}.jpg").write_bytes(picture(height=48 + height))
        (folder / f"{name}.json").write_text(json.dumps(facts))
    said = load_provider(provider(tmp_path / "c.yaml", cut_off={"value": "2023", **SAID}))
    found = claimed(folder, provider=said, non_members=str(tmp_path / "late"))
    assert dict(rows(found, "work", "side")) == {
        "again": "unclear",
        "early": "suspect",
        "late": "non_member",
        "never": "unclear",
        "zone": "unclear",
    }
    assert found.summary.contradictions == {"published_in_the_future": 1, "same_file": 1}
    # A span of days that lies in two years is of neither.
    assert {*found.summary.by_year} == {"2020", "2024", "2999", "unknown"}
    assert [work.key for work in Works(str(tmp_path / "late" / "manifest.yaml")).read(True)] == ["late"]
    with pytest.raises(ConfigError, match=r"late: holds manifest.yaml already; name a folder that is empty or not there"):
        claimed(folder, provider=said, non_members=str(tmp_path / "late"))


def test_what_cannot_be_read_beside_a_work_is_told_and_a_work_without_an_image_is_no_control(tmp_path: Path) -> None:
    folder = tmp_path / "works"
    folder.mkdir()
    beside = {"a": '{"published": "2024-01-01",}', "b": '{"published": ["2024"], "reserved": 1.5}', "c": '["2024"]'}
    for number, (name, text) in enumerate(beside.items()):
        (folder / f"{name}.jpg").write_bytes(picture(height=48 + number))
        (folder / f"{name}.json").write_text(text)
    assert claimed(folder).summary.faults == {"json": 2, "published": 1, "reserved": 1}
    (tmp_path / "works.csv").write_text("key,published\na,2024\nb,2024\n")
    said = load_provider(provider(tmp_path / "c.yaml"))
    late = claimed(tmp_path / "works.csv", provider=said, non_members=str(tmp_path / "late")).summary.late
    assert late is not None
    assert (late.manifest, late.images, late.lost) == (None, 0, {"no_image": 2})


def test_rows_of_one_key_are_works_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "works.csv").write_text("key,url\na,https://a.org/1\na,https://a.org/2\nb,https://a.org/3\n")
    (tmp_path / "list.csv").write_text("url\nhttps://a.org/1\n")
    lookup(Works(str(tmp_path / "works.csv")), [str(tmp_path / "list.csv")], CONSOLE, out=str(tmp_path / "found.parquet"))
    found = claimed(tmp_path / "works.csv", lookup=str(tmp_path / "found.parquet"))
    assert found.summary.found == 1
    assert [way for _, way in rows(found, "work", "found_by")] == ["url", None, None]
    assert len({*rows(found, "work", "source")}) == 3


def test_a_manifest_may_say_what_the_provider_says(tmp_path: Path) -> None:
    members = [("0.jpg", picture()), ("0.json", b'{"published": "2024"}'), ("1.jpg", picture(height=50))]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    (tmp_path / "b.tar").write_bytes(tar_bytes([("2.jpg", picture(height=51))]))
    said = {"model": "m-2", "cut_off": {"value": "2023-03", **SAID}}
    splits = [{"name": name, "member": "unknown", "shards": [f"{name}.tar"]} for name in ("a", "b")]
    pd.DataFrame({"split": ["a", "b"], "shard": ["a", "b"], "key": ["0", "2"]}).to_csv(tmp_path / "s.csv", index=False)
    (tmp_path / "m.yaml").write_text(write_yaml({"name": "set", "claims": said, "splits": splits, "selection": "s.csv"}))
    found = claimed(f"{tmp_path}/m.yaml#a", non_members=str(tmp_path / "late.parquet"))
    assert (found.summary.model, found.summary.sides) == ("m-2", {"non_member": 1, "suspect": 0, "unclear": 0})
    other = load_provider(provider(tmp_path / "c.yaml", model="m-3", cut_off={"value": "2025", **SAID}))
    assert claimed(tmp_path / "m.yaml", provider=other).summary.sides == {"non_member": 0, "suspect": 1, "unclear": 1}
    with pytest.raises(ConfigError, match=r"m.yaml#c: no split 'c'; the manifest has a, b"):
        claimed(f"{tmp_path}/m.yaml#c")
    (tmp_path / "m.yaml").write_text(write_yaml({"name": "set", "claims": said | {"cutoff": 1}, "splits": splits}))
    with pytest.raises(ConfigError, match=r"unknown key `claims.cutoff`; did you mean `cut_off`"):
        claimed(tmp_path / "m.yaml")


def test_the_claims_of_works_in_short_count_what_the_table_lists(works: Path, tmp_path: Path) -> None:
    said = load_provider(provider(tmp_path / "c.yaml"))
    found = claimed(works, provider=said, lookup=str(tmp_path / "found.parquet"))
    short = claims_finding(found, shown=2)
    assert (short.works, short.dated, short.earliest, short.latest) == (7, 5, "2019", "2024-06")
    assert short.sides == found.summary.sides
    assert (short.non_members, short.reserved) == (("6.jpg",), found.summary.reserved)
    assert (len(short.contradicted), short.contradictions_in_all) == (2, sum(short.contradictions.values()))
    assert [one.work for one in short.contradicted] == ["0.jpg", "1.jpg"]
    assert ClaimsFinding.model_validate_json(short.model_dump_json()) == short


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cut_off": {"value": "soon", **SAID}}, r'`cut_off.value`: expected a date such as "2023", "2023-03" or "2023-03-31"'),
        ({"cut_off": {"value": "2023"}}, "`cut_off.source` is missing"),
        ({"cut_off": {"value": "2023", "source": "a book", "retrieved": "2026-01-01"}}, "cut_off.source`: expected an address"),
        ({"cut_off": {"value": "2023", "source": "https://a.org", "retrieved": "2026"}}, "cut_off.retrieved`: expected a day"),
        ({"cut_off": {"value": "2023", "source": "https://a.org", "retrieved": "9999-01-01"}}, "which is not to come"),
        ({"opt_outs_respected": {"value": "maybe", **SAID}}, "opt_outs_respected.value`"),
        ({"cutoff": 1}, "unknown key `cutoff`; did you mean `cut_off`"),
        ({"data_sets": [{"name": "x"}]}, r"data_sets.0.source` is missing"),
    ],
)
def test_what_a_provider_is_said_to_say_has_a_source_and_a_day_or_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_provider(provider(tmp_path / "c.yaml", **changes))
    assert str(caught.value).startswith(f"--provider {tmp_path}/c.yaml: ")


def test_what_cannot_be_done_is_said_beforehand(works: Path, tmp_path: Path) -> None:
    said = load_provider(provider(tmp_path / "c.yaml"))
    (tmp_path / "other.csv").write_text("url\nhttps://a.org/0\n")
    lookup(Works(str(tmp_path / "other.csv")), [str(tmp_path / "list.csv")], CONSOLE, out=str(tmp_path / "theirs.parquet"))
    for options, message in (
        ({"lookup": str(tmp_path / "theirs.parquet")}, "theirs.parquet: names none of these works"),
        ({"lookup": str(tmp_path / "list.csv")}, "--lookup .*list.csv: no column work, source, way, control; it has url"),
        (
            {"out": str(tmp_path / "out" / ".." / "found.parquet"), "lookup": str(tmp_path / "found.parquet")},
            "already; give a name",
        ),
        ({"out": str(tmp_path / "x.parquet"), "non_members": str(tmp_path / "x.parquet"), "provider": said}, "already; give a"),
        ({"out": "claims.csv"}, "--out claims.csv: expected a name that ends in .parquet"),
        ({"non_members": "x.parquet"}, "--non-members: known by a cut-off alone"),
    ):
        with pytest.raises(ConfigError, match=message):
            claimed(works, **options)
    with pytest.raises(ConfigError, match="no such file"):
        load_provider(str(tmp_path / "none.yaml"))


def test_credentials_that_are_not_read_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "works"
    folder.mkdir()
    (folder / "a.webp").write_bytes(SIGNED.read_bytes())
    (folder / "b.jpg").write_bytes(picture())
    monkeypatch.setattr(claiming, "can_read", lambda: False)
    summary = claimed(folder).summary
    assert (summary.credentials, summary.credentials_can_be_read) == ({"not read": 1}, False)
    assert pa.types.is_string(claimed(folder).table.schema.field("training").type)
