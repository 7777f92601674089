"""Whole clusters on one machine: for trying Holdfast out, and for testing software against it.

from holdfast.cluster import LocalCluster

with LocalCluster(nodes=6, profile="4+2") as cluster:
    os.environ.update(cluster.env())
    ...
    cluster.kill(1, 2)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.cluster.local import LocalCluster

__all__ = ["LocalCluster"]


def __getattr__(name: str) -> Any:
    if name == "LocalCluster":
        from holdfast.cluster.local import LocalCluster

        return LocalCluster
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
