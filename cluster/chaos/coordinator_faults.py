"""What happens to the coordinator as a whole: it forgets, is an older one, or has a successor already."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from threading import Event

from holdfast.cluster.chaos import faults as kinds
from holdfast.cluster.chaos.active import Active, down_while, member_of, start
from holdfast.cluster.chaos.amnesia import KIT, change_places, forget_and_rebuild
from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.disks import copy_catalogue
from holdfast.cluster.chaos.faults import AnyFault
from holdfast.cluster.chaos.wiring import COORDINATOR

__all__ = ["amnesia", "comeback", "old_catalogue"]


def old_catalogue(arena: Arena, copy: Path) -> Active:
    """Put a copy of the catalogue back."""
    arena.rebuilding = True  # until it has taken up what it does not know, as long as the fault lasts
    with arena.changing, arena.sampler.resting():
        down_while(arena, COORDINATOR, partial(copy_catalogue, copy, member_of(arena, COORDINATOR).folder))

    def end() -> None:
        arena.rebuilding = False

    return Active(end)


def amnesia(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    """Delete its folder, and make it again."""
    arena.explained.add(COORDINATOR)
    with arena.changing:
        arena.cluster.coordinator.kill()
        arena.cluster.forget_journals(COORDINATOR)
        arena.rebuilding = True
        try:
            told = forget_and_rebuild(arena.cluster, arena.scratch / KIT)
        finally:
            arena.rebuilding = False
        start(arena, COORDINATOR)
    return Active(detail=told)


def comeback(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    """Make a successor, let it reign, and put the former one in its place; the end undoes the latter."""
    assert isinstance(fault, kinds.Comeback)
    cluster, former = arena.cluster, arena.scratch / "former-coordinator"
    arena.explained.add(COORDINATOR)
    arena.rebuilding = True  # two catalogues: none of them tells how things stand

    def change() -> None:
        arena.explained.add(COORDINATOR)
        with arena.changing, arena.sampler.resting():
            cluster.coordinator.kill()
            cluster.forget_journals(COORDINATOR)
            change_places(cluster, former)
            start(arena, COORDINATOR)

    with arena.changing, arena.sampler.resting():
        cluster.coordinator.kill()
        told = forget_and_rebuild(cluster, arena.scratch / KIT, keep_as=former)
        start(arena, COORDINATOR)
    cluster.coordinator.wait_ready()
    Event().wait(fault.after_s)
    change()
    arena.former_reigns = True

    def end() -> None:
        arena.former_reigns = False
        change()
        # What fails until its nodes report to it again is the fault's doing.
        cluster.wait_until(lambda told: all(node.state == "up" for node in told.nodes), fault.after_s * 4)
        arena.rebuilding = False

    return Active(end, detail=told)
