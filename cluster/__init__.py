"""Whole clusters on one machine: launcher, demo, benchmark.

    from holdfast.cluster import LocalCluster

    with LocalCluster(nodes=6) as cluster:
        cluster.kill(3, 5)

Real processes, real stores, real encryption; nothing is simulated. A cluster
signals only processes that it can prove to be its own (``processes``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.cluster.local import LocalCluster
    from holdfast.cluster.local_async import AsyncLocalCluster

__all__ = ["AsyncLocalCluster", "LocalCluster"]

_HOMES = {"AsyncLocalCluster": "holdfast.cluster.local_async", "LocalCluster": "holdfast.cluster.local"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
