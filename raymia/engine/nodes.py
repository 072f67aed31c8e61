"""Facts about the machines of a cluster: versions, GPUs, memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import ray
from pydantic import BaseModel
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymia.engine.start import join

GIB = 2**30
NODE_TIMEOUT_S = 120.0


class NodeFacts(BaseModel):
    """Versions, GPUs, memory and disk of one machine."""

    node: str
    python: str
    ray: str
    torch: str
    raymia: str
    gpus: list[tuple[str, float]]
    """Name and free memory in GiB of each GPU."""
    free_disk_gib: float
    object_store_gib: float
    cores: int


def node_facts() -> NodeFacts:
    """The facts of the machine that this runs on."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        free, _ = torch.cuda.mem_get_info(index)
        gpus.append((torch.cuda.get_device_name(index), round(free / GIB, 1)))
    store = _shared_memory()
    if ray.is_initialized():
        this_node = [node for node in ray.nodes() if node["NodeID"] == ray.get_runtime_context().get_node_id()]
        store = this_node[0]["Resources"].get("object_store_memory", 0.0)
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
    """Bytes that a Ray started here could take for its object store."""
    path = Path("/dev/shm")  # noqa: S108 - where Ray keeps its object store
    return float(shutil.disk_usage(path).free) if path.is_dir() else 0.0


def cluster_facts() -> list[NodeFacts]:
    """The facts of every node of the cluster that this process runs in.

    Raises:
        ConfigError, RaymiaError: no cluster can be joined.
    """
    if not ray.is_initialized():
        join(os.environ.get("RAY_ADDRESS", "").strip() or "auto")
    ask = ray.remote(num_cpus=0)(node_facts)
    alive = [node for node in ray.nodes() if node["Alive"]]
    pending = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote() for node in alive
    ]
    answers: list[NodeFacts] = ray.get(pending, timeout=NODE_TIMEOUT_S)
    return [
        facts.model_copy(update={"node": f"{facts.node} ({node['NodeManagerAddress']})"})
        for facts, node in zip(answers, alive, strict=True)
    ]
