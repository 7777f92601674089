"""A coordinator that loses everything: its folder is deleted, and made again from kit and nodes.

And one that was only believed to be lost: made again elsewhere, it has a successor when it comes back.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from holdfast.cluster.chaos.limits import REBUILD_WITHIN_S
from holdfast.cluster.chaos.wiring import ChaosCluster
from holdfast.cluster.processes import clean_environment
from holdfast.protocol.errors import HoldfastError

__all__ = ["KIT", "change_places", "forget_and_rebuild", "keep_kit"]

KIT = "cluster-kit.pem"


def keep_kit(cluster: ChaosCluster, kit: Path) -> None:
    """Take the cluster kit offline, as an operator should: a copy outside the coordinator's folder."""
    shutil.copy2(cluster.folder / "coordinator" / KIT, kit)


def change_places(cluster: ChaosCluster, other: Path) -> None:
    """Another coordinator's folder (of this cluster) in place of that of one that does not run, and back."""
    folder = cluster.folder / "coordinator"
    aside = other.with_name(other.name + ".aside")
    folder.rename(aside)
    other.rename(folder)
    aside.rename(other)


def forget_and_rebuild(cluster: ChaosCluster, kit: Path, *, keep_as: Path | None = None) -> str:
    """Delete the folder of a coordinator that does not run, and rebuild it; gives what was said.

    Args:
        keep_as: move the folder there instead.

    Raises:
        HoldfastError: it could not be rebuilt.
    """
    folder = cluster.folder / "coordinator"
    if keep_as is not None:
        folder.rename(keep_as)
    else:
        shutil.rmtree(folder)
    kept = ["--kit", str(kit), "--dir", str(folder)]
    nodes = [argument for node in cluster.nodes() for argument in ("--node", cluster.proxied_url(node.name))]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "holdfast.client.console", "coordinator", "rebuild", *kept, *nodes],
        env=clean_environment() | dict(cluster.coordinator.environment),
        capture_output=True,
        text=True,
        timeout=REBUILD_WITHIN_S,
        cwd="/",
        check=False,
    )
    if done.returncode:
        raise HoldfastError("the coordinator could not be rebuilt", why=(done.stderr or done.stdout).strip())
    return done.stdout.splitlines()[0]
