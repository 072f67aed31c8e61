"""Works that were published too late are a control of an audit as they were written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raymia.curation.claims import claims
from raymia.curation.findings import claims_of_works, provider_of
from raymia.curation.works import Works
from raymia.data.manifest import load_manifest
from raymia.data.provider import ProviderClaims
from raymia.evidence.sets import Sources, make_sets
from tests.evidence.conftest import QUIET, pictures_of, write_pictures

EACH = 12
SAID = {"source": "https://example.org/card", "retrieved": "2026-01-01"}
PROVIDER = ProviderClaims.model_validate({"model": "testbed", "cut_off": {"value": "2023", **SAID}})


@pytest.mark.usefixtures("local_ray")
def test_certain_non_members_are_packed_and_an_audit_takes_them_for_its_control(tmp_path: Path) -> None:
    early, late = pictures_of("members", EACH), pictures_of("non_members", EACH)
    write_pictures(tmp_path / "all", [*early, *late])
    for one in (*early, *late):
        year = "2022-05-01" if one in early else "2024-05"
        (tmp_path / "all" / f"{one.key}.json").write_text(json.dumps({"published": year, "reserved": "yes"}))
    out = str(tmp_path / "late")
    found = claims(Works(str(tmp_path / "all")), QUIET, PROVIDER, non_members=out)
    assert found.summary.late is not None
    assert (found.summary.late.images, found.summary.late.lost) == (EACH, {})
    control = f"{out}/manifest.yaml"
    assert provider_of(control) == PROVIDER
    write_pictures(tmp_path / "works", early)
    sets = make_sets(Sources(str(tmp_path / "works"), control), str(tmp_path / "audit"), QUIET)
    assert sets.samples == {"works": EACH, "control": EACH}
    told = claims_of_works(Works(f"{sets.manifest}#control"), QUIET, PROVIDER)
    assert (told.works, told.dated, told.earliest, told.latest) == (EACH, EACH, "2024-05", "2024-05")
    assert (told.sides["non_member"], told.reserved, len(told.non_members)) == (EACH, {"yes": EACH}, EACH)
    captions = {item.caption for item in pictures_of("non_members", EACH)}
    written = Works(control).read(with_images=True)
    assert {work.caption for work in written} == captions
    assert load_manifest(control)[0].splits[0].member is False
