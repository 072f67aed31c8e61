"""What is wrong with a machine or a cluster before a scan runs on it, and how to mend it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from raymia.config import Job
from raymia.engine.nodes import NodeFacts, cluster_facts, node_facts
from raymia.errors import ConfigError, RaymiaError, first_line
from raymia.run.ledger import Ledger
from raymia.scan.plan import make_plan
from raymia.services.hosted import Hosted

MIN_DISK_GIB, MIN_STORE_GIB, MIN_GPU_GIB = 10.0, 0.5, 6.0
SUPPORTED_RAY = ((2, 56), (2, 64))


class Check(BaseModel):
    """One thing that was looked at."""

    name: str
    node: str
    state: Literal["ok", "warning", "fault"]
    found: str
    mend: str = ""
    """What to do about it; empty where all is well."""


def examine(job: Job | None, in_cluster: bool) -> list[Check]:
    """Look at this machine or, in a cluster, at every node; and at a job's manifest, weights and storage.

    Args:
        job: to check too.
        in_cluster: join the cluster that this process runs in, instead of looking at this machine alone.

    Raises:
        RaymiaError: no cluster can be joined.
    """
    facts = cluster_facts() if in_cluster else [node_facts()]
    checks = [check for node in facts for check in _check_node(node)] + _check_equal(facts)
    checks += _check_auth(in_cluster)
    if job is not None:
        checks += _check_job(job, len(facts) > 1)
    return checks


def parse_checks(text: str, where: str) -> list[Check]:
    """The checks that `raymia doctor --json` printed at `where`.

    Raises:
        RaymiaError: they are no such checks.
    """
    try:
        return TypeAdapter(list[Check]).validate_json(text)
    except ValidationError as error:
        raise RaymiaError(f"{where}: `raymia doctor` printed something else than its checks: {first_line(error)}") from error


def _check_node(node: NodeFacts) -> list[Check]:
    def check(name: str, fine: bool, found: str, mend: str, otherwise: Literal["warning", "fault"] = "fault") -> Check:
        return Check(name=name, node=node.node, state="ok" if fine else otherwise, found=found, mend="" if fine else mend)

    low, high = (".".join(map(str, bound)) for bound in SUPPORTED_RAY)
    release = tuple(int(part) for part in node.ray.split(".")[:2])
    checks = [
        check("Ray", SUPPORTED_RAY[0] <= release < SUPPORTED_RAY[1], node.ray, f"install ray[data,default]>={low},<{high}"),
        check(
            "disk",
            node.free_disk_gib >= MIN_DISK_GIB,
            f"{node.free_disk_gib:g} GiB free for temporary files",
            f"free up to {MIN_DISK_GIB:g} GiB: Ray spills objects there",
            "warning",
        ),
        check(
            "object store",
            node.object_store_gib >= MIN_STORE_GIB,
            f"{node.object_store_gib:g} GiB",
            "raise --object-store-memory, or the container's shared memory (--shm-size)",
            "warning",
        ),
    ]
    for name, free in node.gpus:
        mend = "stop what else runs on it, or lower pool.batch_size"
        checks.append(check("GPU", free >= MIN_GPU_GIB, f"{name}, {free:g} GiB free", mend, "warning"))
    if not node.gpus:
        checks.append(check("GPU", False, "none", "scans run on the CPU here, slowly", "warning"))
    return checks


def _check_equal(facts: list[NodeFacts]) -> list[Check]:
    checks = []
    for name in ("python", "ray", "torch", "raymia"):
        found: dict[str, list[str]] = {}
        for node in facts:
            found.setdefault(getattr(node, name), []).append(node.node)
        text = "; ".join(f"{value} on {len(nodes)} node{'s' if len(nodes) > 1 else ''}" for value, nodes in found.items())
        same = len(found) == 1
        mend = "" if same else f"use one image for all nodes; {', '.join(sorted(found.values(), key=len)[0])} differs"
        checks.append(Check(name=f"equal {name}", node="all", state="ok" if same else "fault", found=text, mend=mend))
    return checks


def _check_auth(in_cluster: bool) -> list[Check]:
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if not in_cluster:
        return []
    fine = mode == "token"
    mend = "" if fine else "set RAY_AUTH_MODE=token on every node: whoever reaches an open cluster's ports can run code on it"
    return [Check(name="authentication", node="all", state="ok" if fine else "warning", found=mode or "not set", mend=mend)]


def _check_job(job: Job, many_nodes: bool) -> list[Check]:
    def attempt(name: str, act: Callable[[], Any], found: str) -> Check:
        try:
            act()
        except (ConfigError, RaymiaError) as error:
            return Check(name=name, node="driver", state="fault", found=str(error), mend="see what was expected")
        return Check(name=name, node="driver", state="ok", found=found)

    checks = [
        attempt("manifest, model and attacks", lambda: make_plan(job), f"{job.manifest}, {job.subject}"),
        attempt("storage", Ledger(job.run).require_writable, f"{Ledger(job.run).run} can be written"),
    ]
    if isinstance(job.hosted, Hosted):
        found = "none is wanted" if job.hosted.key_env is None else f"in {job.hosted.key_env}, on this machine"
        checks.append(attempt("key of the service", job.hosted.key, found))
    if many_nodes and isinstance(job.hosted, Hosted) and "://" not in (job.hosted.answers or job.run):
        mend = "use a URL such as s3://bucket/run, or a folder that every node mounts: each node keeps what it was answered"
        found = f"{job.hosted.answers or job.run} is a folder"
        checks.append(Check(name="answers on every node", node="all", state="warning", found=found, mend=mend))
    if many_nodes and job.hosted is None and Path(job.model.model).is_dir():
        mend = "use a hub id or a URL such as s3://bucket/model, or a folder that every node mounts"
        found = f"{job.subject} is a folder of the driver"
        checks.append(Check(name="weights on every node", node="all", state="warning", found=found, mend=mend))
    return checks
