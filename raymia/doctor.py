"""What is wrong with a machine or a cluster before a scan runs on it, and how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import ray
from pydantic import BaseModel
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymia.config import Job
from raymia.errors import ConfigError, RaymiaError
from raymia.scan.ledger import Ledger
from raymia.scan.plan import make_plan

GIB = 2**30
MIN_DISK_GIB, MIN_STORE_GIB, MIN_GPU_GIB = 10.0, 0.5, 6.0
SUPPORTED_RAY = ((2, 56), (2, 64))
NODE_TIMEOUT_S = 120.0


class Check(BaseModel):
    """One thing that was looked at."""

    name: str
    node: str
    state: Literal["ok", "warning", "fault"]
    found: str
    mend: str = ""
    """What to do about it; empty where all is well."""


class NodeFacts(BaseModel):
    """What one machine says of itself."""

    node: str
    python: str
    ray: str
    torch: str
    raymia: str
    gpus: list[tuple[str, float]]
    """Name and free memory in GiB of each."""
    free_disk_gib: float
    object_store_gib: float
    cores: int


def examine(job: Job | None, in_cluster: bool) -> list[Check]:
    """Look at this machine or, in a cluster, at every node; and at a job's manifest, weights and storage.

    Args:
        job: to check too.
        in_cluster: join the cluster that this process runs in, instead of looking at this machine alone.

    Raises:
        RaymiaError: no cluster can be joined.
    """
    facts = _cluster_facts() if in_cluster else [node_facts()]
    checks = [check for node in facts for check in _check_node(node)] + _check_equal(facts)
    checks += _check_auth(in_cluster)
    if job is not None:
        checks += _check_job(job, len(facts) > 1)
    return checks


def node_facts() -> NodeFacts:
    """The facts of the machine that this runs on."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        free, _ = torch.cuda.mem_get_info(index)
        gpus.append((torch.cuda.get_device_name(index), round(free / GIB, 1)))
    store = ray.cluster_resources().get("object_store_memory", 0.0) if ray.is_initialized() else _shared_memory()
    if ray.is_initialized():
        mine = [node for node in ray.nodes() if node["NodeID"] == ray.get_runtime_context().get_node_id()]
        store = mine[0]["Resources"].get("object_store_memory", 0.0)
    return NodeFacts(
        node=platform.node(),
        python=platform.python_version(),
        ray=version("ray"),
        torch=version("torch"),
        raymia=version("raymia"),
        gpus=gpus,
        free_disk_gib=round(shutil.disk_usage(tempfile.gettempdir()).free / GIB, 1),
        object_store_gib=round(store / GIB, 2),
        cores=os.cpu_count() or 1,
    )


def _shared_memory() -> float:
    path = Path("/dev/shm")  # noqa: S108 - where Ray keeps its object store
    return float(shutil.disk_usage(path).free) if path.is_dir() else 0.0


def _cluster_facts() -> list[NodeFacts]:
    if not ray.is_initialized():
        try:
            ray.init(os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
        except ConnectionError as error:
            raise RaymiaError(f"no cluster to join: {error}; run this on a node, or give --address of its dashboard") from error
    ask = ray.remote(num_cpus=0)(node_facts)
    alive = [node for node in ray.nodes() if node["Alive"]]
    pending = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote() for node in alive
    ]
    found: list[NodeFacts] = ray.get(pending, timeout=NODE_TIMEOUT_S)
    return [
        facts.model_copy(update={"node": f"{facts.node} ({node['NodeManagerAddress']})"})
        for facts, node in zip(found, alive, strict=True)
    ]


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
        attempt("manifest, model and attacks", lambda: make_plan(job), f"{job.manifest}, {job.replica.model}"),
        attempt("storage", Ledger(job.run).require_writable, f"{Ledger(job.run).run} can be written"),
    ]
    if many_nodes and Path(job.replica.model).is_dir():
        mend = "use a hub id or a URL such as s3://bucket/model, or a folder that every node mounts"
        found = f"{job.replica.model} is a folder of the driver"
        checks.append(Check(name="weights on every node", node="all", state="warning", found=found, mend=mend))
    return checks
