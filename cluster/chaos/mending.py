"""Taking everything back after chaos, and waiting until the cluster has put itself in order."""

from __future__ import annotations

import asyncio

from holdfast.cluster.chaos.allowances import repair_bytes_most
from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.history import Note
from holdfast.cluster.chaos.judging import Judge
from holdfast.cluster.chaos.limits import (
    HEALTHY_WITHIN_S,
    KNOWN_WITHIN_S,
    ORPHAN_GRACE_S,
    SAMPLE_EVERY_S,
    SCRUB_AGAIN_S,
    SCRUB_TRIES_MAX,
)
from holdfast.cluster.chaos.watching import Watch
from holdfast.cluster.chaos.wiring import node_name
from holdfast.coordinator.asking import scrub_node
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import HoldfastError, StoreFailed
from holdfast.protocol.messages.admin import ClusterStatus

__all__ = ["converge", "heal", "mend_disk"]


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
    if arena.broken_stores:
        await asyncio.to_thread(_restart_all, arena)
    arena.sampler.mended(arena.numbers)


def _restart_all(arena: Arena) -> None:
    """Everybody runs, and the coordinator sees every node up, be it full.

    Raises:
        HoldfastError: not in time.
    """
    cluster = arena.cluster
    for number in sorted(arena.broken_stores):
        replace_store(arena, number)
    arena.broken_stores.clear()
    members = [cluster.coordinator, *cluster.nodes()]
    for member in members:
        member.resume()
        with arena.changing:
            member.start()
    for member in members:
        member.wait_ready()

    wrong: list[str] = []
    excused = arena.hurt | arena.mending
    known_until = SYSTEM.monotonic() + KNOWN_WITHIN_S

    def all_up(told: ClusterStatus) -> bool:
        numbers = cluster.numbers()
        bad = [node for node in told.nodes if node.state == "up" and node.store_state == "failed"]
        wrong[:] = [
            f"the store of {node_name(number)} has failed, and no fault had to do with it"
            for number in (numbers.get(node.id.hex(), 0) for node in bad)
            if number and number not in excused
        ]
        if len(told.nodes) < cluster.node_count and SYSTEM.monotonic() > known_until:
            wrong.append(f"the coordinator knows {len(told.nodes)} of {cluster.node_count} nodes")
        well = [node for node in told.nodes if node.state == "up" and node.store_state in ("ok", "full")]
        return bool(wrong) or len(well) >= cluster.node_count

    came_up = cluster.wait_until(all_up, HEALTHY_WITHIN_S)
    if wrong:
        raise HoldfastError(wrong[0], do="Look at the members' logs in the report's folder.")
    if not came_up:
        raise HoldfastError(
            f"not all nodes came up within {HEALTHY_WITHIN_S:.0f} s after the faults",
            do="Look at the members' logs in the report's folder.",
        )
    arena.explained.clear()


def replace_store(arena: Arena, number: int) -> None:
    """As an operator does it: start the node again, and let it begin a new store where its own is damaged."""
    arena.explained.add(node_name(number))
    with arena.changing:
        arena.cluster.node(number).kill()
        arena.cluster.replacing.add(number)
        arena.cluster.node(number).start()


async def mend_disk(arena: Arena, number: int) -> None:
    """Mend what a fault did to a node's disk, while everything goes on.

    A store is replaced only if it is damaged as a whole; bits that fell elsewhere are for the scrub. A node
    that cannot be scrubbed, because another fault keeps it away, stays hurt until :func:`heal`.
    """
    if number in arena.broken_stores:
        await _replace(arena, number)
    for _ in range(SCRUB_TRIES_MAX):
        if await _scrub(arena, number):
            break
        await asyncio.sleep(SCRUB_AGAIN_S)
    else:
        return
    if number in arena.broken_stores:
        await _replace(arena, number)
    arena.sampler.mended([number])
    arena.mending.add(number)


async def _replace(arena: Arena, number: int) -> None:
    arena.broken_stores.discard(number)
    await asyncio.to_thread(replace_store, arena, number)
    await asyncio.to_thread(arena.cluster.node(number).wait_ready)


async def _scrub(arena: Arena, number: int) -> bool:
    """What its disk did to it must be found before it can be mended; False when that could not be tried.

    A bit that was meant for a value may hit the tree: the store wrote meanwhile, and put its pages elsewhere.
    """
    ids = {found: node for node, found in arena.cluster.numbers().items()}
    try:
        await scrub_node(arena.cluster.operator_key, node=ids[number], wait=True)
    except HoldfastError as error:
        arena.history.add(Note, text=f"node-{number} could not be scrubbed: {error}")
        if not isinstance(error, StoreFailed):
            return False
        arena.broken_stores.add(number)
    return True


async def converge(arena: Arena, watch: Watch, judge: Judge, *, orphans: bool = True) -> None:
    """Wait until every stripe is whole and repair rests; judge whether that came in time.

    Args:
        orphans: whether what nobody needs is collected in time, too.
    """
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
            _judge_traffic(arena, judge, watch)
            if orphans:
                await _wait_for_orphans(watch, judge)
            arena.hurt.clear()
            arena.mending.clear()
            return
        if loop.time() > until:
            judge.violated(
                "h", _why_not(look.short, look.stripes, queued, look.unread, look.trouble, within_s)
            )
            return
        await asyncio.sleep(SAMPLE_EVERY_S)


async def _wait_for_orphans(watch: Watch, judge: Judge) -> None:
    """Everybody is there, every stripe is whole: what nobody needs is collected within its grace."""
    loop = asyncio.get_running_loop()
    until = loop.time() + ORPHAN_GRACE_S
    look = await watch.sample()
    while (look.collectable or look.trouble) and loop.time() <= until + SAMPLE_EVERY_S:
        await asyncio.sleep(SAMPLE_EVERY_S)
        look = await watch.sample()
    if look.overdue and watch.told is not None and watch.told.inventory.strays:
        # A catalogue that was rebuilt gives nothing up before its oldest tickets have expired, in an hour.
        return
    judge.require(
        "f",
        not look.overdue,
        f"{len(look.overdue)} shards lie about for longer than {ORPHAN_GRACE_S:g} s ({look.overdue[:1]})",
    )


def _judge_traffic(arena: Arena, judge: Judge, watch: Watch) -> None:
    """Repair reads no more than what was lost makes it read."""
    most = repair_bytes_most(
        watch.sealed_bytes_most,
        times=arena.scenario.expect.repaired_factor_max,
        disrupted=arena.disrupted,
        n=arena.scenario.redundancy.n,
    )
    judge.require(
        "h",
        watch.repaired_bytes <= most,
        f"repair read {watch.repaired_bytes >> 20} MiB, and {most >> 20} MiB are enough, with "
        f"{watch.sealed_bytes_most >> 20} MiB stored and {arena.disrupted} times a node away or hurt",
    )


def _why_not(
    short: int, stripes: int, queued: int, unread: dict[int, str], trouble: str, within_s: float
) -> str:
    reasons = [f"{short} of {stripes} stripes lack shards"] if short else []
    reasons += [f"{queued} repairs wait"] if queued else []
    reasons += [f"node-{number}: {why}" for number, why in unread.items()]
    reasons += [trouble] if trouble else []
    return f"{within_s:g} s after the faults: " + ("; ".join(reasons) or "repair does not come to rest")
