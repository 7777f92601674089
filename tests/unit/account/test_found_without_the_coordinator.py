"""What counts can be found without the coordinator that made it count: nodes know each other in time."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import pytest
from sqlalchemy import update
from support.coordinator_service import KeyNode
from support.devices import OpenDevice, post, tags
from support.witness_nodes import WitnessNode, beat

from holdfast.client.session import Session
from holdfast.coordinator import reigning
from holdfast.coordinator.catalogue.adopted import NO_STORE, adopt_nodes
from holdfast.coordinator.catalogue.nodes import add_token, raise_epoch, set_standing
from holdfast.coordinator.catalogue.schema import meta
from holdfast.coordinator.limits import EPOCH_AHEAD_MAX
from holdfast.coordinator.live import Live
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.placement import Group
from holdfast.coordinator.reigning import cluster_map, note_map, tell_nodes
from holdfast.node.store_lmdb_heads import HeadStore
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import OutcomeUnknown, Refused, Superseded, Unreachable
from holdfast.protocol.limits import LARGE_BODY_BYTES
from holdfast.protocol.messages.cluster import ClusterMap, MapNode
from holdfast.protocol.messages.nodes import Joined
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import digest_of


def map_of(node: WitnessNode) -> ClusterMap:
    assert node.store is not None
    kept = node.store.map()
    assert kept is not None
    return decode(kept.map.payload, ClusterMap)


def epochs_beside_a_head(nodes: list[WitnessNode], session: Session) -> set[int]:
    """Of the maps that those keep who keep a head of this account: a majority of five at least."""
    keepers = [node for node in nodes if node.store and node.store.newest(session.known.account)]
    assert len(keepers) >= 3
    return {map_of(node).epoch for node in keepers}


async def groups_were_made(desk: Any) -> None:
    """As an upload does that finds none: the map changes, and no background turn has told of it."""
    desk.catalogue.write_now(raise_epoch)
    await desk.live.refresh(desk.catalogue)


async def test_who_keeps_a_head_keeps_the_map_by_which_its_chunks_are_found(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice
) -> None:
    desk, one = coordinator.desk, await device("one")
    await groups_were_made(desk)
    assert all(map_of(node).epoch < desk.live.epoch for node in nodes)
    await post(one, coordinator, "first")
    assert epochs_beside_a_head(nodes, one) == {desk.live.epoch}


async def test_where_witnesses_do_not_take_the_map_no_head_counts_until_they_do(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, one, ask = coordinator.desk, await device("one"), NodeCalls.ask

    async def lost(self: NodeCalls, node: Any, method: str, target: str, *rest: Any, **named: Any) -> Any:
        if target == "/v1/reign":
            raise Unreachable("it does not answer", why="on purpose")
        return await ask(self, node, method, target, *rest, **named)

    one.link._patience_s = 0.0
    await groups_were_made(desk)
    with monkeypatch.context() as patched:
        patched.setattr(NodeCalls, "ask", lost)
        with pytest.raises(OutcomeUnknown):
            await post(one, coordinator, "first")
        assert await tags(one) == []
    await post(one, coordinator, "second")
    assert await tags(one) == ["first", "second"]
    assert epochs_beside_a_head(nodes, one) == {desk.live.epoch}


async def test_a_node_whose_heads_were_moved_away_is_told_again_before_it_counts(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice
) -> None:
    """As its own error says is to be done; that it was started anew nobody knows yet."""
    one = await device("one")
    for node in nodes:
        await node.stop()
        shutil.rmtree(node.folder / "heads")
        await node.start()
    await post(one, coordinator, "first")
    assert epochs_beside_a_head(nodes, one) == {coordinator.desk.live.epoch}


@pytest.mark.parametrize("first", ["a head", "a node that joins"])
async def test_numbers_that_a_newer_copy_of_the_catalogue_has_given_are_not_given_again(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice, transport: Any, first: str
) -> None:
    """An old copy was put back in the same term: nodes would keep the map of the one before."""
    desk, one = coordinator.desk, await device("one")
    before = desk.live.epoch
    for _ in range(5):
        await groups_were_made(desk)
    await tell_nodes(desk)
    desk.catalogue.write_now(lambda c: c.execute(update(meta).values(number=before)))
    desk.live.epoch, desk.reigning.map = before, None
    desk.reigning.told.clear()
    joined = await join(coordinator, transport) if first == "a node that joins" else nodes[0]
    await post(one, coordinator, "first")
    assert desk.live.epoch > before + 5
    assert epochs_beside_a_head(nodes, one) == {desk.live.epoch}
    assert all(joined.id in {known.id for known in map_of(node).nodes} for node in nodes)


async def test_a_node_that_says_yes_and_keeps_no_map_does_not_count(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await device("one")
    one.link._patience_s = 0.0
    await groups_were_made(coordinator.desk)
    monkeypatch.setattr(HeadStore, "keep_map", lambda *_: None)
    with pytest.raises(OutcomeUnknown):
        await post(one, coordinator, "first")


async def test_a_map_number_that_cannot_be_is_not_passed_over(
    coordinator: Any, nodes: list[WitnessNode]
) -> None:
    desk, liar = coordinator.desk, nodes[0]
    before = desk.live.epoch
    for epoch in (before + EPOCH_AHEAD_MAX + 1, (1 << 64) - 1):
        with pytest.raises(Refused, match="cannot be"):
            await note_map(desk, liar.id, desk.identity.term, epoch)
    desk.catalogue.write_now(lambda c: set_standing(c, liar.id, "distrusted"))
    await desk.live.refresh(desk.catalogue)
    now = desk.live.epoch
    with pytest.raises(Refused, match="cannot be"):
        await note_map(desk, liar.id, desk.identity.term, now + 1)
    await note_map(desk, liar.id, desk.identity.term + 1, now + 1)  # another coordinator's
    assert desk.live.epoch == now


async def test_the_map_of_a_very_large_cluster_is_kept_too(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, one, refresh = coordinator.desk, await device("one"), Live.refresh
    members = tuple(node.id for node in nodes)

    async def many_groups(self: Live, catalogue: Any) -> None:
        await refresh(self, catalogue)
        self.groups = {
            number: Group(number, 1, Profile(4, 2), "usual", members) for number in range(1, 12_000)
        }

    monkeypatch.setattr(Live, "refresh", many_groups)
    await groups_were_made(desk)
    assert len(cluster_map(desk).payload) > LARGE_BODY_BYTES
    await post(one, coordinator, "first")
    assert epochs_beside_a_head(nodes, one) == {desk.live.epoch}

    for node in nodes:  # they have met nobody, as after a rebuild
        assert node.reigning is not None
        node.reigning._admission.coordinator = None
    desk.reigning.told.clear()
    await tell_nodes(desk)
    assert desk.reigning.told.keys() == {node.id for node in nodes}


async def test_a_map_that_was_told_is_not_told_again_with_every_head(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, ask, told = await device("one"), NodeCalls.ask, []

    async def counted(self: NodeCalls, node: Any, method: str, target: str, *rest: Any, **named: Any) -> Any:
        told.append(target)
        return await ask(self, node, method, target, *rest, **named)

    monkeypatch.setattr(NodeCalls, "ask", counted)
    await post(one, coordinator, "first")
    assert "/v1/reign" not in told


async def join(coordinator: Any, transport: Any) -> KeyNode:
    """Over the wire, with a token of its own."""
    desk, node = coordinator.desk, KeyNode(50, coordinator.address.cluster)
    secret, later_ms = SYSTEM.random_bytes(16), SYSTEM.now_ms() + 60_000
    desk.catalogue.write_now(lambda c: add_token(c, digest_of(secret), "node", later_ms, 0))
    await transport.call(
        *("POST", coordinator.address.url, "/v1/nodes/join", node.join(secret)),
        answer=Joined,
        signer=node.signer(),
        receiver=desk.identity.public,
    )
    return node


async def test_the_others_know_who_joined_before_it_is_told_that_it_belongs(
    coordinator: Any, nodes: list[WitnessNode], transport: Any
) -> None:
    joined = await join(coordinator, transport)
    for node in nodes:
        assert joined.id in {known.id for known in map_of(node).nodes}


async def test_also_those_that_could_not_be_told_a_moment_ago(
    coordinator: Any, nodes: list[WitnessNode], transport: Any
) -> None:
    desk = coordinator.desk
    await groups_were_made(desk)
    for node in nodes:
        await node.stop()
    await tell_nodes(desk)
    for node in nodes:
        await node.start()
    beat(desk, nodes)
    joined = await join(coordinator, transport)
    for node in nodes:
        assert joined.id in {known.id for known in map_of(node).nodes}


async def test_nodes_that_join_at_once_are_all_in_the_map_that_each_is_told_with(
    coordinator: Any, nodes: list[WitnessNode], transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, rounds = coordinator.desk, 0

    async def counted(desk: Any, **more: Any) -> None:
        nonlocal rounds
        rounds += 1
        await asyncio.sleep(0.05)

    monkeypatch.setattr(reigning, "tell_nodes", counted)
    await asyncio.gather(*(reigning.tell_soon(desk) for _ in range(50)))
    assert rounds == 2, "one that was under way, and one for all who came meanwhile"


async def test_whoever_does_not_answer_keeps_nobody_from_joining(
    coordinator: Any, nodes: list[WitnessNode], transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reigning, "TELL_SOON_S", 0.05)
    never = asyncio.Event()

    async def hangs(*_: Any, **__: Any) -> None:
        await never.wait()

    async def breaks(*_: Any, **__: Any) -> None:
        raise KeyError("nobody foresaw this")

    for how in (breaks, hangs):
        monkeypatch.setattr(reigning, "tell_nodes", how)
        assert (await join(coordinator, transport)).id in coordinator.desk.live.nodes
    never.set()


async def test_who_joins_a_coordinator_that_finds_itself_succeeded_is_not_told_that_it_belongs(
    coordinator: Any, nodes: list[WitnessNode], transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def learns(desk: Any, **_: Any) -> None:
        desk.reigning.superseded = 7

    monkeypatch.setattr(reigning, "tell_nodes", learns)
    with pytest.raises(Superseded):
        await join(coordinator, transport)


async def test_a_node_that_is_known_by_a_map_alone_may_still_join(coordinator: Any, transport: Any) -> None:
    """The coordinator was lost before it answered; the one that was rebuilt knows the node and no store."""
    desk, node = coordinator.desk, KeyNode(50, coordinator.address.cluster)
    told = [MapNode(node.id, node.public, node.url, "zone")]
    desk.catalogue.write_now(lambda c: adopt_nodes(c, told, SYSTEM.now_ms()))
    await desk.live.refresh(desk.catalogue)
    joined = await join(coordinator, transport)
    assert desk.live.nodes[joined.id].store == NO_STORE, "its first report has it proven"
