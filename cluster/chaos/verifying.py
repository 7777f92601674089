"""The last look at everything, when all is quiet: what is visible, what restores, what lies where."""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path

from holdfast.cluster.chaos.allowances import store_bytes_most
from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.clients import Account, ChaosClient
from holdfast.cluster.chaos.history import Note
from holdfast.cluster.chaos.judging import Judge
from holdfast.cluster.chaos.limits import DESCRIPTOR_GROWTH_MAX, RSS_GROWTH_BYTES_MAX
from holdfast.cluster.chaos.loading import Load
from holdfast.cluster.chaos.watching import Resources, Watch, resources_of
from holdfast.cluster.chaos.wiring import COORDINATOR
from holdfast.cluster.joining import join
from holdfast.cluster.surveying import survey
from holdfast.coordinator.asking import compact_node
from holdfast.protocol.errors import HoldfastError, NoRoom

__all__ = ["baseline", "compare", "find_in_files", "join_deeply", "verify"]


def baseline(arena: Arena) -> dict[str, Resources]:
    """What every member holds now."""
    return {
        name: resources_of(
            arena.cluster.member(COORDINATOR if name == COORDINATOR else arena.number_of(name)).pids()
        )
        for name in arena.members
    }


async def verify(
    arena: Arena,
    judge: Judge,
    load: Load,
    watch: Watch,
    before: dict[str, Resources],
    secrets: Sequence[bytes],
) -> None:
    """Judge everything that can only be judged at the end."""
    await _settle(arena, judge, load)
    await _restore_all(arena, judge, load)
    await _prune_all(arena, load)
    await join_deeply(arena, judge)
    if arena.scenario.expect.availability == "lost and back":
        judge.require(
            "i", watch.was_unreadable, "more than m nodes were taken, and nothing became unreadable"
        )
        named = "unavailable" in arena.verdicts
        judge.require("i", named, "stripes became unreadable, and the status never said so")
        judge.require("i", watch.look is not None and watch.look.unreadable == 0, "not everything came back")
    await _search(arena, judge, secrets)
    compare(judge, before, await asyncio.to_thread(baseline, arena))


async def _settle(arena: Arena, judge: Judge, load: Load) -> None:
    """Compare what is visible with what was told, twice: what settled must not change any more."""
    for _ in range(2):
        for account, client in _one_client_each(arena):
            answer = await load.ask(client, "list", must=True)
            if answer.outcome != "ok":
                judge.violated("c", f"snapshots cannot be listed: {answer.error}: {answer.why}")
                continue
            for text in account.settle(frozenset(answer.listed)):
                judge.violated(_letter_of(text), text)
            judge.looked("c", len(account.of("never", "kept")))
            judge.looked("g", len(account.of("gone")))


def _letter_of(text: str) -> str:
    if "forgotten" in text:
        return "g"
    return "a" if "acknowledged" in text else "c"


def _one_client_each(arena: Arena) -> list[tuple[Account, ChaosClient]]:
    """Every account, with one of its devices."""
    by_account = {id(client.account): client for client in reversed(arena.clients.values())}
    return [(client.account, client) for client in by_account.values()]


async def _restore_all(arena: Arena, judge: Judge, load: Load) -> None:
    for account, client in _one_client_each(arena):
        for kept in account.of("kept"):
            if not await load.restore(client, kept, must=True):
                judge.violated(
                    "a", f"{kept.tag} was acknowledged, and does not restore when all is well again"
                )


async def _prune_all(arena: Arena, load: Load) -> None:
    if arena.scenario.load.prune:
        for _, client in _one_client_each(arena):
            await load.ask(client, "prune", must=True)


async def _compact_all(arena: Arena, judge: Judge) -> set[str]:
    """Let every store give room back; the nodes (hex) whose disks have room enough for that."""
    key, nodes = arena.cluster.operator_key, list(arena.cluster.numbers())
    done = set()
    answers = await asyncio.gather(
        *(compact_node(key, node=node, wait=True) for node in nodes), return_exceptions=True
    )
    for node, told in zip(nodes, answers, strict=True):
        if isinstance(told, NoRoom):
            arena.history.add(Note, text=f"the disk of node {node[:8]} has too little room to be compacted")
        elif isinstance(told, HoldfastError):
            judge.violated("l", f"a store could not be compacted: {told}")
        elif isinstance(told, BaseException):
            raise told
        else:
            done.add(node)
    return done


async def join_deeply(arena: Arena, judge: Judge) -> None:
    """Join the catalogue with every store, rereading every shard; they must agree.

    Before that every store gives its disk back what it does not need.
    """
    compacted = await _compact_all(arena, judge)
    folder = arena.cluster.folder
    nodes = [folder / name for name in arena.node_names]
    try:
        found = await asyncio.to_thread(survey, folder / "coordinator", nodes, verify=True)
    except HoldfastError as error:
        judge.violated("f", f"catalogue and stores cannot be joined: {error}")
        return
    for node, store in found.stores.items():
        if node.hex() not in compacted:
            continue
        judge.require(
            "l",
            store.file_bytes <= store_bytes_most(store.pages_bytes),
            f"the store of node {node.short} takes {store.file_bytes >> 20} MiB of disk after it was "
            f"compacted, for {store.pages_bytes >> 20} MiB that are in it",
        )
    joined = join(found.catalogue, found.stores)
    for node, why in found.unread.items():
        judge.violated("f", f"the store of node {node.short} cannot be read: {why}")
    damaged = sum(len(store.damaged) for store in found.stores.values())
    judge.require("f", not damaged, f"{damaged} shards are damaged, and nobody has noticed")
    judge.require(
        "f",
        not joined.unnoted,
        f"{len(joined.unnoted)} shards are not where the catalogue counts on them"
        + (
            f" (chunk {joined.unnoted[0].key.chunk.short}: {joined.unnoted[0].why})" if joined.unnoted else ""
        ),
    )
    judge.require("f", not joined.strange_stripes, "a record tells another stripe than the catalogue")
    judge.require("f", not joined.unreadable, f"{len(joined.unreadable)} stripes have fewer than k shards")
    if joined.orphans:
        arena.history.add(
            Note, text=f"{len(joined.orphans)} shards that nothing names any more are not collected yet"
        )


async def _search(arena: Arena, judge: Judge, secrets: Sequence[bytes]) -> None:
    found = await asyncio.to_thread(find_in_files, arena.cluster.folder.rglob("*"), secrets)
    judge.require("k", not found, f"a secret lies in {', '.join(sorted(found)[:3])}")
    seen = arena.cluster.network.seen_canaries
    judge.require("k", not seen, f"a secret was sent {', '.join(sorted(set(seen))[:3])}")


def find_in_files(paths: Iterable[Path], secrets: Sequence[bytes]) -> list[str]:
    """Names of the files in which any of these strings is found."""
    found = []
    for path in paths:
        if not path.is_file() or path.stat().st_size == 0:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if any(content.find(secret) >= 0 for secret in secrets):
                found.append(path.name)
    return found


def compare(judge: Judge, before: dict[str, Resources], now: dict[str, Resources]) -> None:
    """What members hold now, against what they held before."""
    for name, held in now.items():
        grown = held.rss_bytes - before[name].rss_bytes
        judge.require("l", grown <= RSS_GROWTH_BYTES_MAX, f"{name} has grown by {grown >> 20} MiB of memory")
        more = held.descriptors - before[name].descriptors
        judge.require("l", more <= DESCRIPTOR_GROWTH_MAX, f"{name} holds {more} more descriptors than before")
