"""One node that is broken, or lies, stops no rebuild of a coordinator: the others have what it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from support.stored_cluster import StoredCluster, stored_cluster

from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.coordinator.catalogue.schema import chunks
from holdfast.coordinator.gathering import Kept
from holdfast.coordinator.keeping_witnesses import keep_witnesses
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.rebuilding import rebuild
from holdfast.protocol.accounts import DeviceList
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import Refused, StoreFailed
from holdfast.protocol.messages.inventory import HeadersRead, SlotSum, SumsRead
from holdfast.protocol.messages.witness import AccountFacts, Reigned
from holdfast.protocol.stripes import digest_of

Answer = Callable[[], Awaitable[Any]]


async def does_not_tell(target: str, honest: Answer) -> Any:
    """Its stores do not work."""
    if target.startswith(("/v1/inventory", "/v1/kept")):
        raise StoreFailed("this node's store has stopped")
    return await honest()


async def refuses(target: str, honest: Answer) -> Any:
    raise Refused("I follow somebody else")


async def says_another_term(target: str, honest: Answer) -> Any:
    """Without proof."""
    claimed = Reigned(term=99, charter=None, map=b"")
    return claimed if target == "/v1/reign" else await honest()


async def goes_round_in_circles(target: str, honest: Answer) -> Any:
    told = await honest()
    return HeadersRead(headers=told.headers, next=b"\0" * 80) if isinstance(told, HeadersRead) else told


async def tells_of_a_group_that_cannot_be(target: str, honest: Answer) -> Any:
    told = await honest()
    if not isinstance(told, SumsRead):
        return told
    return SumsRead(store=told.store, slots=[SlotSum(2**64 - 1, 0, 1, digest_of(b""))], next=b"")


@pytest.mark.parametrize(
    "fault",
    [tells_of_a_group_that_cannot_be, does_not_tell, refuses, says_another_term, goes_round_in_circles],
)
async def test_the_others_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    async with stored_cluster(tmp_path, 6) as cluster:
        await cluster.backup(range(5))
        await keep_witnesses(cluster.desk)
        await _rebuilt(cluster, tmp_path, monkeypatch, fault)


async def _rebuilt(cluster: StoredCluster, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    bad, ask = cluster.nodes[0], NodeCalls.ask

    async def asked(self: NodeCalls, node: Any, method: str, target: str, *rest: Any, **named: Any) -> Any:
        async def honest() -> Any:
            return await ask(self, node, method, target, *rest, **named)

        return await (fault(target, honest) if node.id == bad.id else honest())

    monkeypatch.setattr(NodeCalls, "ask", asked)
    urls = [node.url for node in cluster.nodes]
    kit = folder / "coordinator" / "cluster-kit.pem"
    made = await rebuild(kit, folder / "new", urls, cluster.office.clock, lambda text: None)
    assert (made.accounts, made.chunks) == (1, 5)
    catalogue = Catalogue(sqlite_url(folder / "new" / "catalogue.sqlite"))
    rows = catalogue.read_now(lambda c: list(c.execute(chunks.select())))
    catalogue.close()
    assert {row.id for row in rows} == {bytes(chunk) for chunk in cluster.rows()}


async def test_shards_whose_nodes_are_not_all_known_are_told_of_and_are_found_with_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if no node kept a map that names the sixth one."""
    async with stored_cluster(tmp_path, 6) as cluster:
        await cluster.backup(range(5))
        kit, urls = tmp_path / "coordinator" / "cluster-kit.pem", [node.url for node in cluster.nodes]
        with monkeypatch.context() as patched:
            patched.setattr(Kept, "take_map", lambda kept, opened: None)
            some = await rebuild(kit, tmp_path / "some", urls[:5], cluster.office.clock, lambda text: None)
        assert (some.nodes, some.chunks, some.unplaced, some.silent) == (5, 0, 25, [])
        every = await rebuild(kit, tmp_path / "every", urls, cluster.office.clock, lambda text: None)
        assert (every.nodes, every.groups, every.unplaced) == (6, 1, 0)


async def test_the_newest_device_list_counts_whoever_s_term_is_higher(tmp_path: Path) -> None:
    """A coordinator restored from before a device was let go has the higher term, and lists it still."""
    async with stored_cluster(tmp_path, 2) as cluster:
        person, kept = cluster.person, Kept()
        newer = person.next_list([decode(person.listed.payload, DeviceList).devices[0]])
        row = next(iter(cluster.desk.live.nodes.values()))
        first = AccountFacts(1, 1, person.account, newer, 5, 7)
        restored = AccountFacts(1, 2, person.account, person.listed, 6, 3)
        for order in ((first, restored), (restored, first)):
            kept = Kept()
            for facts in order:
                kept.take_facts(facts, row)
            assert kept.facts[person.account] == AccountFacts(1, 2, person.account, newer, 6, 7)
