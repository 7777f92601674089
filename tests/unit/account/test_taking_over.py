"""A catalogue put back from a copy takes over whoever came since: accounts, devices, nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update
from support.devices import OpenDevice, post, tags
from support.witness_nodes import WitnessNode

from holdfast.coordinator.catalogue import schema
from holdfast.coordinator.catalogue.accounts import account_row
from holdfast.coordinator.catalogue.adopted import NO_STORE
from holdfast.coordinator.catalogue.nodes import all_nodes
from holdfast.coordinator.identity import found_anew, read_kit
from holdfast.coordinator.keeping_witnesses import keep_witnesses
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.reigning import Reigning
from holdfast.coordinator.taking_over import take_over
from holdfast.coordinator.telling import tell_nodes
from holdfast.protocol.accounts import DeviceList
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.messages.witness import AccountFacts


def new_reign(coordinator: Any, folder: Path) -> None:
    """As a restore does: the next term under a new key."""
    desk = coordinator.desk
    identity = found_anew(
        folder, read_kit(folder / "cluster-kit.pem"), desk.identity.term + 1, SYSTEM, desk.identity.operator
    )
    desk.calls = NodeCalls(desk.calls._transport, identity)
    desk.identity, desk.reigning = identity, Reigning()


async def all_told(coordinator: Any, nodes: list[WitnessNode]) -> None:
    for node in nodes:
        await take_over(coordinator.desk, node.id)


async def test_a_device_enrolled_since_the_copy_goes_on_and_its_snapshots_are_there(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], tmp_path: Path
) -> None:
    desk = coordinator.desk
    one = await device("one")
    await post(one, coordinator, "first")
    before = desk.catalogue.read_now(lambda c: account_row(c, one.known.account))
    two = await device("two")
    await post(two, coordinator, "second")
    await keep_witnesses(desk)

    def put_back(c: Any) -> None:
        c.execute(delete(schema.heads).where(schema.heads.c.seq > 1))
        c.execute(
            update(schema.accounts).values(
                head_seq=1, device_list=encode(before.device_list), device_list_seq=1
            )
        )

    desk.catalogue.write_now(put_back)
    desk.live.device_lists.clear()
    new_reign(coordinator, tmp_path / "coordinator")
    await tell_nodes(desk, 60.0)
    await keep_witnesses(desk)  # gives the nodes what this catalogue knows of the account
    for node in nodes:
        assert node.store is not None
        kept = node.store.facts(one.known.account)
        if kept is not None:
            seq = decode(decode(kept.facts.payload, AccountFacts).device_list.payload, DeviceList).seq
            assert seq == 2, "an older device list does not take the place of a newer one"
    await all_told(coordinator, nodes)
    assert desk.catalogue.read_now(lambda c: account_row(c, one.known.account)).device_list_seq == 2
    assert desk.live.device_lists[one.known.account].seq == 2
    state = desk.catalogue.read_now(lambda c: list(c.execute(select(schema.heads.c.seq)).scalars()))
    assert sorted(state) == [1, 2]


async def test_an_account_made_since_the_copy_is_there_again(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode]
) -> None:
    desk = coordinator.desk
    one = await device("one")
    await post(one, coordinator, "first")
    await keep_witnesses(desk)

    def put_back(c: Any) -> None:
        for table in ("heads", "snapshot_records", "uploads", "accounts"):
            c.execute(delete(getattr(schema, table)))

    desk.catalogue.write_now(put_back)
    desk.live.device_lists.clear()
    await all_told(coordinator, nodes)
    assert await tags(one) == ["first"]
    again = desk.catalogue.read_now(lambda c: account_row(c, one.known.account))
    await all_told(coordinator, nodes)
    assert desk.catalogue.read_now(lambda c: account_row(c, one.known.account)) == again


async def test_a_node_that_joined_since_the_copy_is_in_and_one_that_was_let_go_stays_out(
    coordinator: Any, nodes: list[WitnessNode]
) -> None:
    desk = coordinator.desk
    joined, removed = nodes[0], nodes[1]

    def put_back(c: Any) -> None:
        c.execute(delete(schema.nodes).where(schema.nodes.c.id == bytes(joined.id)))
        c.execute(update(schema.nodes).where(schema.nodes.c.id == bytes(removed.id)).values(state="removed"))

    desk.catalogue.write_now(put_back)
    await desk.live.refresh(desk.catalogue)
    desk.live.nodes = desk.catalogue.read_now(all_nodes)
    desk.reigning = Reigning()  # as after a start
    await all_told(coordinator, nodes[2:])
    row = desk.live.nodes[joined.id]
    assert (row.url, row.state, row.store) == (joined.url, "joined", NO_STORE), "it is to be proven"
    assert removed.id not in desk.live.nodes
