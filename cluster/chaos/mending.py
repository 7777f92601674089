"""Taking everything back after chaos, and waiting until the cluster has put itself in order."""

from __future__ import annotations

import asyncio

from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.history import Note
from holdfast.cluster.chaos.judging import Judge
from holdfast.cluster.chaos.limits import HEALTHY_WITHIN_S, SAMPLE_EVERY_S
from holdfast.cluster.chaos.watching import Watch
from holdfast.coordinator.asking import scrub_node
from holdfast.protocol.errors import HoldfastError

__all__ = ["converge", "heal"]


async def heal(arena: Arena) -> None:
    """No fault any more: the network is whole, clocks are right, everybody runs, broken disks are replaced.

    Raises:
        HoldfastError: the cluster does not become healthy.
    """
    cluster = arena.cluster
    cluster.network.remove_all()
    for name in [*arena.members, *arena.clients]:
        cluster.right_clock(name)
        cluster.disarm(name)
        cluster.lies_file(name).unlink(missing_ok=True)
    for client in arena.clients.values():
        client.release()
        client.resume()
    await asyncio.to_thread(_restart_all, arena)
    for number in sorted(arena.hurt):
        await _scrub(arena, number)


def _restart_all(arena: Arena) -> None:
    cluster = arena.cluster
    # A node that lied becomes an honest program again, one with a broken store begins an empty one.
    again = arena.broken_stores | cluster.lying
    cluster.lying.clear()
    arena.explained.update(f"node-{number}" for number in again)
    for number in again:
        cluster.node(number).kill()
    cluster.replacing |= arena.broken_stores
    cluster.heal()
    cluster.wait_healthy(HEALTHY_WITHIN_S)
    arena.explained.clear()


async def _scrub(arena: Arena, number: int) -> None:
    """What its disk did to it must be found before it can be mended."""
    ids = {found: node for node, found in arena.cluster.numbers().items()}
    try:
        await scrub_node(arena.cluster.operator_key, node=ids[number], wait=True)
    except HoldfastError as error:
        arena.history.add(Note, text=f"node-{number} could not be scrubbed: {error}")


async def converge(arena: Arena, watch: Watch, judge: Judge) -> None:
    """Wait until every stripe is whole and repair rests; judge whether that came in time."""
    within_s = arena.scenario.expect.back_within_s
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    calm, repaired = 0, -1
    while True:
        look = await watch.sample()
        told = watch.told
        queued = told.repair.queued + told.repair.running if told is not None else 0
        whole = not look.trouble and not look.unread and look.short == 0 and queued == 0
        calm = calm + 1 if whole and repaired == watch.repaired_bytes else 0
        repaired = watch.repaired_bytes
        if calm >= 4:
            judge.looked("h")
            arena.hurt.clear()
            arena.broken_stores.clear()
            arena.sampler.mended()
            return
        if loop.time() > until:
            judge.violated(
                "h", _why_not(look.short, look.stripes, queued, look.unread, look.trouble, within_s)
            )
            return
        await asyncio.sleep(SAMPLE_EVERY_S)


def _why_not(
    short: int, stripes: int, queued: int, unread: dict[int, str], trouble: str, within_s: float
) -> str:
    reasons = [f"{short} of {stripes} stripes lack shards"] if short else []
    reasons += [f"{queued} repairs wait"] if queued else []
    reasons += [f"node-{number}: {why}" for number, why in unread.items()]
    reasons += [trouble] if trouble else []
    return f"{within_s:g} s after the faults: " + ("; ".join(reasons) or "repair does not come to rest")
