"""What counts can be found without the coordinator that made it count: nodes know each other in time."""

from __future__ import annotations

import asyncio
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest
from sqlalchemy import delete, update
from support.coordinator_service import KeyNode
from support.devices import OpenDevice, post, tags
from support.witness_nodes import WitnessNode, beat

from holdfast.client.session import Session
from holdfast.coordinator import telling
from holdfast.coordinator.catalogue import schema
from holdfast.coordinator.catalogue.adopted import NO_STORE, adopt_nodes
from holdfast.coordinator.catalogue.erasures import is_unreconciled
from holdfast.coordinator.catalogue.nodes import add_token, all_nodes, epoch, raise_epoch, set_map_made_of
from holdfast.coordinator.identity import found_anew, read_kit
from holdfast.coordinator.live import Live
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.placement import Group
from holdfast.coordinator.reigning import Reigning, cluster_map, tell_node
from holdfast.coordinator.service import nodes as node_service
from holdfast.coordinator.taking_over import take_over
from holdfast.coordinator.telling import tell_nodes
from holdfast.node.store_lmdb_heads import HeadStore
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import (
    IntegrityFailure,
    NoRoom,
    OutcomeUnknown,
    Refused,
    Superseded,
    Unreachable,
)
from holdfast.protocol.limits import LARGE_BODY_BYTES
from holdfast.protocol.messages.cluster import ClusterMap, MapNode
from holdfast.protocol.messages.nodes import Joined
from holdfast.protocol.messages.witness import Reign, Reigned
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import digest_of


def map_of(node: WitnessNode) -> ClusterMap:
    assert node.store is not None
    kept = node.store.map()
    assert kept is not None
    return decode(kept.map.payload, ClusterMap)


async def epochs_beside_a_head(desk: Any, nodes: list[WitnessNode], session: Session) -> set[int]:
    """Of the maps that those keep who keep a head of this account: a majority of five at least.

    Once a majority is told, nobody waits for the others any more: they are told all the same.
    """
    await asyncio.gather(*desk.witnessing.tasks)
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
    assert await epochs_beside_a_head(desk, nodes, one) == {desk.live.epoch}


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
    assert await epochs_beside_a_head(desk, nodes, one) == {desk.live.epoch}


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
    assert await epochs_beside_a_head(coordinator.desk, nodes, one) == {coordinator.desk.live.epoch}


def put_back(desk: Any, gone: WitnessNode, epochs: int) -> None:
    """The coordinator was started with an old copy of its catalogue, from before a node joined."""

    def older(c: Any) -> None:
        c.execute(delete(schema.nodes).where(schema.nodes.c.id == bytes(gone.id)))
        c.execute(update(schema.meta).where(schema.meta.c.name == "epoch").values(number=epoch(c) - epochs))

    desk.catalogue.write_now(older)
    desk.live.nodes, desk.live.epoch = desk.catalogue.read_now(lambda c: (all_nodes(c), epoch(c)))
    desk.live.beats.pop(gone.id, None)
    desk.reigning = Reigning()


@pytest.mark.parametrize("first", ["a head", "a node that joins", "nothing"])
async def test_what_a_map_of_a_newer_catalogue_tells_is_taken_over_before_it_gives_way(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice, transport: Any, first: str
) -> None:
    desk, one, joined = coordinator.desk, await device("one"), nodes[-1]
    for _ in range(5):
        await groups_were_made(desk)
    await tell_nodes(desk, 60.0)
    newer = desk.live.epoch
    put_back(desk, joined, 5)
    if first == "a node that joins":
        await join(coordinator, transport)
    elif first == "nothing":
        await tell_nodes(desk, 60.0)
    await post(one, coordinator, "first")
    assert joined.id in desk.live.nodes, "nobody else may know of it"
    assert desk.live.epoch > newer, "numbers are not given twice"
    assert await epochs_beside_a_head(desk, nodes, one) == {desk.live.epoch}


async def test_another_map_under_the_same_number_does_not_count(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice
) -> None:
    desk, one, joined = coordinator.desk, await device("one"), nodes[-1]
    await groups_were_made(desk)
    await tell_nodes(desk, 60.0)
    put_back(desk, joined, 1)
    await groups_were_made(desk)
    await post(one, coordinator, "first")
    assert joined.id in desk.live.nodes
    assert await epochs_beside_a_head(desk, nodes, one) == {desk.live.epoch}


async def test_a_coordinator_restored_under_a_new_term_takes_over_maps_of_the_term_before(
    coordinator: Any, nodes: list[WitnessNode], tmp_path: Path
) -> None:
    desk, joined, folder = coordinator.desk, nodes[-1], tmp_path / "coordinator"
    await groups_were_made(desk)
    await tell_nodes(desk, 60.0)
    put_back(desk, joined, 1)
    identity = found_anew(
        folder, read_kit(folder / "cluster-kit.pem"), desk.identity.term + 1, SYSTEM, desk.identity.operator
    )
    desk.calls, desk.identity = NodeCalls(desk.calls._transport, identity), identity
    await tell_nodes(desk, 60.0)
    assert joined.id in desk.live.nodes
    assert desk.reigning.told.keys() >= {node.id for node in nodes[:-1]}


async def test_older_maps_tell_nothing_new_and_bring_nobody_back(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node was away while another one was let go, and the coordinator was rebuilt since."""
    desk, away, gone = coordinator.desk, nodes[0], nodes[-1]
    await away.stop()

    def rebuilt(c: Any) -> None:
        c.execute(delete(schema.nodes).where(schema.nodes.c.id == bytes(gone.id)))
        set_map_made_of(c, 1, epoch(c))

    desk.catalogue.write_now(rebuilt)
    desk.live.nodes = desk.catalogue.read_now(all_nodes)
    await groups_were_made(desk)
    await away.start()
    desk.reigning = Reigning()
    await tell_nodes(desk, 60.0)
    assert map_of(away).epoch == desk.live.epoch and gone.id not in desk.live.nodes


@pytest.mark.parametrize("where", ["before it is told", "before it is compared"])
async def test_a_map_newer_than_what_a_catalogue_was_rebuilt_from_is_read_whatever_came_since(
    coordinator: Any, nodes: list[WitnessNode], tmp_path: Path, where: str
) -> None:
    """It alone names a node that joined last, and whoever keeps it was away during the rebuild."""
    desk, away, joined = coordinator.desk, nodes[0], nodes[-1]
    await groups_were_made(desk)
    await tell_node(desk, away.id)
    made_of = desk.live.epoch - 1

    def rebuilt(c: Any) -> None:
        c.execute(delete(schema.nodes).where(schema.nodes.c.id == bytes(joined.id)))
        set_map_made_of(c, desk.identity.term, made_of)
        for _ in range(3):  # what the rebuilt coordinator changed
            raise_epoch(c)

    desk.catalogue.write_now(rebuilt)
    await desk.live.refresh(desk.catalogue)
    folder = tmp_path / "coordinator"
    identity = found_anew(folder, read_kit(folder / "cluster-kit.pem"), 2, SYSTEM, desk.identity.operator)
    desk.identity, desk.calls = identity, NodeCalls(desk.calls._transport, identity)
    desk.reigning = Reigning()  # and it was started anew
    assert joined.id not in desk.live.nodes
    if where == "before it is told":
        await tell_node(desk, away.id)
    else:
        message = Reign(root=identity.root, charter=identity.charter, url="", map=None)
        await desk.calls.ask(desk.live.nodes[away.id], "POST", "/v1/reign", message, Reigned)
        await take_over(desk, away.id)
    assert joined.id in desk.live.nodes
    assert desk.catalogue.read_now(is_unreconciled), "this catalogue knows less than there is"


async def test_a_node_that_says_yes_and_keeps_no_map_does_not_count(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await device("one")
    one.link._patience_s = 0.0
    await groups_were_made(coordinator.desk)
    monkeypatch.setattr(HeadStore, "keep_map", lambda *_: None)
    with pytest.raises(OutcomeUnknown):
        await post(one, coordinator, "first")


async def test_a_node_that_cannot_keep_the_map_says_who_reigns_all_the_same(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise NoRoom("this node's disk is full")

    desk, ask, told = coordinator.desk, NodeCalls.ask, []

    async def heard(self: NodeCalls, *rest: Any, **named: Any) -> Any:
        told.append(await ask(self, *rest, **named))
        return told[-1]

    await groups_were_made(desk)
    monkeypatch.setattr(HeadStore, "keep_map", full)
    monkeypatch.setattr(NodeCalls, "ask", heard)
    with pytest.raises(Refused, match="does not keep"):
        await tell_node(desk, nodes[0].id)
    assert all(answer.charter is not None and answer.term == desk.identity.term for answer in told)


@pytest.mark.parametrize("error", [IntegrityFailure("flipped"), lmdb.CorruptedError("a page")])
async def test_a_map_that_is_damaged_counts_as_none(
    nodes: list[WitnessNode], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise error

    node = nodes[0]
    await node.stop()
    with monkeypatch.context() as patched:
        patched.setattr(HeadStore, "_get", broken)
        await node.start()
        assert node.store is not None and node.store.map() is None and node.store.map_digest == b""


async def test_many_who_find_a_node_late_tell_it_once(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, ask, told = coordinator.desk, NodeCalls.ask, 0

    async def counted(self: NodeCalls, *rest: Any, **named: Any) -> Any:
        nonlocal told
        told += 1
        return await ask(self, *rest, **named)

    await groups_were_made(desk)
    monkeypatch.setattr(NodeCalls, "ask", counted)
    await asyncio.gather(*(tell_node(desk, nodes[0].id) for _ in range(20)))
    assert told == 1


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
    assert await epochs_beside_a_head(desk, nodes, one) == {desk.live.epoch}

    for node in nodes:  # they have met nobody, as after a rebuild
        assert node.reigning is not None
        node.reigning._admission.coordinator = None
    desk.reigning.told.clear()
    await tell_nodes(desk, 60.0)
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
    await tell_nodes(desk, 60.0)
    for node in nodes:
        await node.start()
    beat(desk, nodes)
    joined = await join(coordinator, transport)
    for node in nodes:
        assert joined.id in {known.id for known in map_of(node).nodes}


async def test_whoever_does_not_answer_keeps_nobody_from_joining(
    coordinator: Any, nodes: list[WitnessNode], transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, never = coordinator.desk, asyncio.Event()

    async def hangs(*_: Any, **__: Any) -> None:
        await never.wait()

    async def breaks(*_: Any, **__: Any) -> None:
        raise KeyError("nobody foresaw this")

    for how in (breaks, hangs):
        monkeypatch.setattr(telling, "tell_node", how)
        monkeypatch.setattr(node_service, "tell_nodes", partial(tell_nodes, within_s=0.05))
        assert (await join(coordinator, transport)).id in desk.live.nodes
        await groups_were_made(desk)
    never.set()


async def test_who_joins_a_coordinator_that_finds_itself_succeeded_is_not_told_that_it_belongs(
    coordinator: Any, nodes: list[WitnessNode], transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def learns(desk: Any) -> None:
        desk.reigning.superseded = 7

    monkeypatch.setattr(node_service, "tell_nodes", learns)
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
