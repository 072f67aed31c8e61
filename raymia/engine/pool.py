"""How replicas are placed: a pool's configuration made definite on the cluster at hand."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ray
from ray.data import ActorPoolStrategy

from raymia.errors import ConfigError

if TYPE_CHECKING:  # with which a replica's process would load all libraries of models before it is told to
    from raymia.config import PoolConfig


class Pool:
    """How many replicas a scan has, and what each of them takes of which kind of device.

    Attributes:
        gpus_per_replica: GPUs, or the share of one, that a replica takes; 0 on CPUs.
        device: ``cpu`` or ``cuda``.
        replicas: the greatest number of replicas.
        min_replicas: the least number of an elastic pool; none for a pool of fixed size.
        initial_replicas: the number that an elastic pool asks for first.
        label_selector: labels that a replica's node must have.
        threads: CPU threads of each replica; none leaves torch's default.
    """

    def __init__(self, config: PoolConfig, resources: dict[str, float], local_cores: int) -> None:
        """Settle what the configuration leaves open.

        Args:
            config: the job's `pool`.
            resources: resources of the cluster by Ray's names, such as ``CPU``.
            local_cores: cores of the machine that a replica runs on.

        Raises:
            ConfigError: the cluster has no room for the pool.
        """
        gpus = resources.get("GPU", 0.0)
        self.gpus_per_replica = config.gpus_per_replica if config.gpus_per_replica is not None else float(gpus > 0)
        self.device: str = config.device
        if self.device == "auto":
            self.device = "cuda" if self.gpus_per_replica else "cpu"
        cpus = resources.get("CPU", 1.0)
        by_default = int(gpus / self.gpus_per_replica) if self.gpus_per_replica else int(min(cpus, local_cores)) // 2
        self.replicas = config.replicas or config.max_replicas or max(1, by_default)
        self.min_replicas = config.min_replicas
        self.initial_replicas = config.initial_replicas or config.max_replicas
        self.label_selector = config.label_selector
        self.threads = max(1, local_cores // self.replicas) if self.device == "cpu" else None
        wanted = self.min_replicas or self.replicas
        if not self.gpus_per_replica and wanted >= cpus:
            raise ConfigError(
                f"pool: {wanted} CPU replicas leave none of the cluster's {cpus:g} CPUs for reading and decoding; "
                "lower pool.replicas or add nodes"
            )

    @classmethod
    def here(cls, config: PoolConfig) -> Pool:
        """A pool on the Ray that runs.

        Raises:
            ConfigError: the cluster has no room for it.
        """
        return cls(config, ray.cluster_resources(), os.cpu_count() or 1)

    @property
    def placement(self) -> dict[str, Any]:
        """Resources and labels of the node that a replica asks for."""
        asked: dict[str, Any] = {"num_gpus": self.gpus_per_replica} if self.gpus_per_replica else {"num_cpus": 1}
        return asked | ({"label_selector": self.label_selector} if self.label_selector else {})

    @property
    def strategy(self) -> ActorPoolStrategy:
        """The pool as Ray Data takes it; an elastic pool asks for its full size at once."""
        if self.min_replicas is None:
            return ActorPoolStrategy(size=self.replicas)
        return ActorPoolStrategy(min_size=self.min_replicas, max_size=self.replicas, initial_size=self.initial_replicas)
