"""Counters that a cluster's Prometheus reads."""

from __future__ import annotations

from ray.util.metrics import Counter

__all__ = ["Counter"]
