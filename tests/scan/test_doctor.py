from __future__ import annotations

from pathlib import Path

import pytest

from raymia.config import parse_job
from raymia.scan.doctor import Check, NodeFacts, _check_equal, _check_node, examine

FINE = NodeFacts(
    node="a",
    python="3.11.9",
    ray="2.60.0",
    torch="2.14.1",
    raymia="0.1.0",
    gpus=[("NVIDIA L4", 21.5)],
    free_disk_gib=80.0,
    object_store_gib=8.0,
    cores=8,
)


def states(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_a_machine_with_all_that_is_needed_has_nothing_to_mend() -> None:
    checks = _check_node(FINE) + _check_equal([FINE, FINE])
    assert set(states(checks).values()) == {"ok"}
    assert all(check.mend == "" for check in checks)


@pytest.mark.parametrize(
    ("change", "name", "state", "mend"),
    [
        ({"ray": "2.40.0"}, "Ray", "fault", "install ray"),
        ({"free_disk_gib": 1.0}, "disk", "warning", "free up"),
        ({"object_store_gib": 0.06}, "object store", "warning", "--shm-size"),
        ({"gpus": [("NVIDIA L4", 1.0)]}, "GPU", "warning", "lower pool.batch_size"),
        ({"gpus": []}, "GPU", "warning", "on the CPU"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(change: dict[str, object], name: str, state: str, mend: str) -> None:
    (check,) = [check for check in _check_node(FINE.model_copy(update=change)) if check.name == name]
    assert check.state == state
    assert mend in check.mend


def test_nodes_that_differ_are_named() -> None:
    other = FINE.model_copy(update={"node": "b", "python": "3.12.1"})
    checks = _check_equal([FINE, FINE, other])
    assert states(checks)["equal python"] == "fault"
    assert states(checks)["equal ray"] == "ok"
    (check,) = [check for check in checks if check.name == "equal python"]
    assert check.mend == "use one image for all nodes; b differs"


def test_a_job_is_checked_with_its_storage(tmp_path: Path) -> None:
    content = {"manifest": "testbed", "replica": {"model": "testbed"}, "attacks": {"loss": {}}, "run": str(tmp_path / "run")}
    assert states(examine(parse_job(content, "job"), in_cluster=False))["storage"] == "ok"
    (tmp_path / "file").write_text("")
    content |= {"run": str(tmp_path / "file" / "run"), "manifest": "nowhere.yaml"}
    found = states(examine(parse_job(content, "job"), in_cluster=False))
    assert found["storage"] == "fault"
    assert found["manifest, model and attacks"] == "fault"
