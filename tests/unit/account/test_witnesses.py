"""Witnesses: what was acknowledged is kept by a majority, and a new device notices when it is hidden."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from support.devices import OpenDevice, post, tags
from support.witness_nodes import WitnessNode, beat, joined_nodes

from holdfast.client.head_posting import next_head
from holdfast.client.session import Session
from holdfast.coordinator.catalogue.accounts import account_row
from holdfast.coordinator.catalogue.heads import head_state, pending_head
from holdfast.coordinator.catalogue.nodes import set_standing
from holdfast.coordinator.keeping_witnesses import complete_account, keep_witnesses
from holdfast.coordinator.telling import tell_nodes
from holdfast.coordinator.witnesses import Witnessing
from holdfast.coordinator.witnessing import post_head
from holdfast.protocol.accounts import Head, signed_digest
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import (
    HeadMoved,
    NoQuorum,
    OutcomeUnknown,
    Refused,
    Rollback,
    SweepRefused,
    Unwitnessed,
)
from holdfast.protocol.ids import NodeId
from holdfast.protocol.messages.heads import HeadState, PostHead
from holdfast.protocol.messages.witness import KeptHead


@pytest.fixture
async def nodes(coordinator: Any, tmp_path: Path) -> AsyncIterator[list[WitnessNode]]:
    """Six nodes that keep heads; with 4+2 a head has five witnesses."""
    zones = [f"zone-{number % 3}" for number in range(1, 7)]
    cluster = coordinator.address.cluster
    async with joined_nodes(coordinator.desk, cluster, tmp_path, SYSTEM, zones) as made:
        yield made


async def stop(coordinator: Any, nodes: list[WitnessNode], chosen: list[WitnessNode]) -> None:
    for node in chosen:
        await node.stop()
    beat(coordinator.desk, nodes)


async def start(coordinator: Any, nodes: list[WitnessNode]) -> None:
    for node in nodes:
        if not node.is_up:
            await node.start()
    beat(coordinator.desk, nodes)


def witnesses_of(session: Session, nodes: list[WitnessNode], head: Head) -> list[WitnessNode]:
    named = {each.node for each in head.witnesses}
    return [node for node in nodes if node.id in named]


def keeping(session: Session, nodes: list[WitnessNode], seq: int) -> set[NodeId]:
    """Who keeps the head of this number."""
    account = session.known.account
    return {node.id for node in nodes if node.is_up and node.store and node.store.head(account, seq)}


async def head_of(session: Session) -> Head:
    view = await session.head()
    assert view.head is not None
    return view.head


async def test_an_acknowledged_head_is_kept_by_a_majority_of_the_five_witnesses_it_names(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode]
) -> None:
    one = await device("one")
    await post(one, coordinator, "first")
    head = await head_of(one)
    assert len(head.witnesses) == 5
    kept = keeping(one, nodes, 1)
    assert len(kept) >= 3 and kept <= {each.node for each in head.witnesses}


async def test_losing_two_nodes_stops_no_backup_and_the_next_head_names_others_for_them(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode]
) -> None:
    one = await device("one")
    await post(one, coordinator, "first")
    gone = witnesses_of(one, nodes, await head_of(one))[:2]
    await stop(coordinator, nodes, gone)
    await post(one, coordinator, "second")
    assert await tags(one) == ["first", "second"]
    named = {each.node for each in (await head_of(one)).witnesses}
    assert len(named & {node.id for node in gone}) == 1, "four others are up, the fifth is down"


async def test_with_too_few_witnesses_up_nothing_is_taken_and_nothing_is_visible(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode]
) -> None:
    one = await device("one")
    await post(one, coordinator, "first")
    await stop(coordinator, nodes, witnesses_of(one, nodes, await head_of(one))[:3])
    view = await one.head()
    with pytest.raises(NoQuorum) as refused:
        await post(one, coordinator, "second", view=view)
    assert refused.value.exit_code == 22 and refused.value.details["nodes"]
    await start(coordinator, nodes)
    assert await tags(one) == ["first"]
    await post(one, coordinator, "third")
    assert await tags(one) == ["first", "third"]


async def posted(session: Session, coordinator: Any) -> PostHead:
    """A head that says the same as the newest one, to post by hand."""
    view = await session.head()
    signed, exact = next_head(
        view,
        session.device.id,
        session.device.sign_key,
        session.link.cluster,
        view.snapshots,
        SYSTEM.now_ns(),
    )
    upload = coordinator.open_upload(session.known.account, session.device.id)
    return PostHead(head=signed, snapshot_list=exact, records=[], upload=upload)


async def test_a_head_whose_witnesses_die_under_way_is_settled_when_they_are_back(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode]
) -> None:
    one = await device("one")
    one.link._patience_s = 0.0
    await post(one, coordinator, "first")
    message = await posted(one, coordinator)
    for node in witnesses_of(one, nodes, await head_of(one))[:3]:
        await node.stop()  # and nobody has noticed yet
    with pytest.raises(OutcomeUnknown) as unknown:
        await one.link.post_head(message)
    assert unknown.value.exit_code == 26
    assert (await one.head()).seq == 1, "what is not agreed is not shown"
    await start(coordinator, nodes)
    await keep_witnesses(coordinator.desk)
    view = await one.head()
    assert view.seq == 2 and view.digest == signed_digest(message.head)
    again = await one.link.post_head(message)
    assert again.head == message.head and len(again.statements) >= 3


@pytest.mark.parametrize("standing", ["lost", "removed"])
async def test_a_head_that_waits_for_witnesses_that_are_gone_for_good_does_not_end_the_account(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], standing: Any
) -> None:
    """It can be neither agreed nor refused by a majority any more, and while it waits no other is taken."""
    one, desk = await device("one"), coordinator.desk
    one.link._patience_s = 0.0
    await post(one, coordinator, "first")
    message = await posted(one, coordinator)
    gone = witnesses_of(one, nodes, await head_of(one))[:3]
    for node in gone:
        await node.stop()
    with pytest.raises(OutcomeUnknown):
        await one.link.post_head(message)
    for node in gone[:2]:
        await desk.catalogue.write(lambda c, n=node: set_standing(c, n.id, standing))
    await desk.live.refresh(desk.catalogue)
    await keep_witnesses(desk)
    assert (await one.head()).seq == 1, "three of five are left, and one of them may still say something"
    await desk.catalogue.write(lambda c: set_standing(c, gone[2].id, standing))
    await desk.live.refresh(desk.catalogue)
    await tell_nodes(desk, 60.0)
    await keep_witnesses(desk)
    assert (await one.head()).seq == 2
    await post(one, coordinator, "second")
    assert await tags(one) == ["first", "second"]


async def test_while_a_head_waits_no_other_is_taken_and_nothing_is_swept(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode]
) -> None:
    one, two = await device("one"), await device("two")
    for session in (one, two):
        session.link._patience_s = 0.0
    await post(one, coordinator, "first")
    first, second = await posted(one, coordinator), await posted(two, coordinator)
    gone = witnesses_of(one, nodes, await head_of(one))[:3]
    for node in gone:
        await node.stop()
    with pytest.raises(OutcomeUnknown):
        await one.link.post_head(first)
    with pytest.raises(NoQuorum):
        await two.link.post_head(second)
    view = await one.head()
    with pytest.raises((HeadMoved, SweepRefused)):
        await one.link.begin_sweep(view.seq, view.digest)
    await start(coordinator, nodes)
    with pytest.raises(HeadMoved):  # the one that waited is settled first
        await two.link.post_head(second)
    assert (await two.head()).digest == signed_digest(first.head)


async def test_an_answer_that_was_lost_is_given_again(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], transport: Any
) -> None:
    one = await device("one")
    view = await one.head()
    transport.after["/v1/heads"] = 1
    await post(one, coordinator, "once", view=view)
    assert await tags(one) == ["once"] and (await one.head()).seq == 1


async def test_a_new_device_takes_the_newest_head_with_the_word_of_its_witnesses(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode]
) -> None:
    one = await device("one")
    for text in ("first", "second"):
        await post(one, coordinator, text)
    two = await device("two")
    await stop(coordinator, nodes, witnesses_of(one, nodes, await head_of(one))[:2])
    view = await two.head()
    assert view.seq == 2 and view.confirmed is not None
    assert view.confirmed[0] >= 3 and view.confirmed[1] == 5


async def test_a_new_device_notices_that_an_older_head_is_shown(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], transport: Any, impatient: None
) -> None:
    one = await device("one")
    await post(one, coordinator, "first")
    old = await one.link.heads(0)
    await post(one, coordinator, "second")
    await complete_account(coordinator.desk, one.known.account)
    two = await device("two")
    transport.rewrite["/v1/heads"] = lambda _: old
    with pytest.raises(Rollback) as refused:
        await two.head()
    assert refused.value.exit_code == 25
    assert two.home.account().head_seq == 0, "what was refused is not remembered"
    with pytest.raises(Rollback):
        await one.head()  # a device that saw the second one knows by itself


async def test_a_new_device_notices_that_all_heads_are_hidden(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], transport: Any, impatient: None
) -> None:
    one = await device("one")
    await post(one, coordinator, "first")
    two = await device("two")
    transport.rewrite["/v1/heads"] = lambda _: HeadState(head=None, snapshot_list=b"", links=[])
    with pytest.raises(Rollback):
        await two.head()


async def test_a_first_head_that_its_witnesses_have_before_it_is_shown_is_no_rollback(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], transport: Any
) -> None:
    """Another device posts the account's first head in the very moment in which a new one looks."""
    one = await device("one")
    await post(one, coordinator, "first")
    two = await device("two")
    looks: list[HeadState] = []

    def not_yet(state: HeadState) -> HeadState:
        looks.append(state)
        return HeadState(head=None, snapshot_list=b"", links=[]) if len(looks) == 1 else state

    transport.rewrite["/v1/heads"] = not_yet
    view = await two.head()
    assert view.seq == 1 and view.confirmed is not None and len(looks) > 1


async def test_without_a_majority_of_witnesses_a_new_device_believes_nothing(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], impatient: None
) -> None:
    one = await device("one")
    await post(one, coordinator, "first")
    two = await device("two")
    await stop(coordinator, nodes, witnesses_of(one, nodes, await head_of(one))[:3])
    with pytest.raises(Unwitnessed) as refused:
        await two.head()
    assert refused.value.exit_code == 25
    await start(coordinator, nodes)
    assert (await two.head()).seq == 1


async def test_a_device_posts_no_head_whose_witnesses_are_not_the_cluster_s(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], transport: Any
) -> None:
    one = await device("one")

    def none_proposed(state: HeadState) -> HeadState:
        return HeadState(head=state.head, snapshot_list=state.snapshot_list, links=state.links)

    transport.rewrite["/v1/heads"] = none_proposed
    with pytest.raises(Refused):
        await post(one, coordinator, "first")


async def test_a_head_without_its_witnesses_word_is_not_done(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], transport: Any
) -> None:
    """A coordinator that acknowledges by itself is found out by the device that posted."""
    one = await device("one")
    view = await one.head()
    transport.rewrite["/v1/heads"] = lambda state: HeadState(
        head=state.head, snapshot_list=state.snapshot_list, links=state.links, proposed=state.proposed
    )
    with pytest.raises(OutcomeUnknown):
        await post(one, coordinator, "first", view=view)


async def test_a_witness_that_was_away_is_given_all_it_missed(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode]
) -> None:
    one = await device("one")
    await post(one, coordinator, "0")
    late = witnesses_of(one, nodes, await head_of(one))[0]
    await late.stop()  # the heartbeats still count it as up: it stays a witness
    for number in range(1, 5):
        await post(one, coordinator, f"{number}")
    await late.start()
    assert late.store is not None and late.store.newest(one.known.account) is not None
    assert await complete_account(coordinator.desk, one.known.account)
    account = one.known.account
    assert [decode(kept.head.payload, Head).seq for kept in late.store.heads(account, 0)] == [1, 2, 3, 4, 5]
    assert len(late.store.records(account, b"")) == 5
    assert late.store.run_from(account) == 1


async def test_a_witness_that_lost_what_it_kept_is_filled_again_after_its_start(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, desk = await device("one"), coordinator.desk
    for text in ("first", "second"):
        await post(one, coordinator, text)
    await keep_witnesses(desk)
    bare = witnesses_of(one, nodes, await head_of(one))[0]
    await stop(coordinator, nodes, [bare])
    shutil.rmtree(bare.folder / "heads")
    monkeypatch.setattr("holdfast.coordinator.reigning.WITNESSES_LOOK_SOON_S", 0.0)
    await start(coordinator, nodes)
    known = desk.live.beats[bare.id]
    report = msgspec.structs.replace(known.report, start=b"another process.")
    desk.live.beats[bare.id] = replace(known, report=report)
    await tell_nodes(desk, 60.0)
    await keep_witnesses(desk)
    assert bare.store is not None and bare.store.run_from(one.known.account) == 1
    assert len(bare.store.records(one.known.account, b"")) == 2


async def test_a_catalogue_older_than_its_witnesses_takes_over_their_heads(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode]
) -> None:
    from sqlalchemy import delete, update

    from holdfast.coordinator.catalogue.erasures import is_unreconciled
    from holdfast.coordinator.catalogue.schema import accounts, heads, snapshot_records

    one = await device("one")
    for text in ("first", "second", "third"):
        await post(one, coordinator, text)
    desk = coordinator.desk
    await complete_account(desk, one.known.account)

    def forget(c: Any) -> None:
        """As in a backup of the catalogue from before the second snapshot."""
        second = account_row(c, one.known.account)
        state = head_state(c, second, 0)
        c.execute(delete(heads).where(heads.c.seq > 1))
        c.execute(update(accounts).values(head_seq=1))
        assert len(state.links) == 3
        c.execute(delete(snapshot_records).where(snapshot_records.c.id != _first_record(c)))

    desk.catalogue.write_now(forget)
    with pytest.raises(Rollback):
        await one.head()
    for _ in range(3):  # who was asked first says it, then it is looked at again
        await keep_witnesses(desk)
    assert await tags(one) == ["first", "second", "third"]
    assert desk.catalogue.read_now(is_unreconciled), "the rows of what they reach may be lacking"
    await post(one, coordinator, "fourth")
    assert await tags(one) == ["first", "second", "third", "fourth"]


@pytest.mark.parametrize("standing", ["lost", "removed", "distrusted"])
async def test_an_account_goes_on_when_most_of_its_witnesses_are_gone_for_good(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], standing: Any
) -> None:
    one, desk = await device("one"), coordinator.desk
    await post(one, coordinator, "first")
    gone = witnesses_of(one, nodes, await head_of(one))[:3]
    await stop(coordinator, nodes, gone)
    with pytest.raises(NoQuorum):
        await post(one, coordinator, "not yet")
    for node in gone:
        desk.catalogue.write_now(lambda c, n=node.id: set_standing(c, n, standing))  # type: ignore[misc]
    await desk.live.refresh(desk.catalogue)
    await post(one, coordinator, "second")
    assert await tags(one) == ["first", "second"]
    named = {each.node for each in (await head_of(one)).witnesses}
    assert not named & {node.id for node in gone}


async def test_a_witness_with_a_head_that_was_never_agreed_is_named_no_more(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode]
) -> None:
    """It was given the head of a coordinator that died, and was then restored from before it."""
    one, desk = await device("one"), coordinator.desk
    await post(one, coordinator, "first")
    await asyncio.gather(*desk.witnessing.tasks)
    lonely = witnesses_of(one, nodes, await head_of(one))[0]
    stray = await posted(one, coordinator)
    assert lonely.store is not None
    lonely.store.keep(one.known.account, head=(2, KeptHead(1, stray.head, stray.snapshot_list)))
    for text in ("second", "third", "fourth"):
        await post(one, coordinator, text)
        await asyncio.gather(*desk.witnessing.tasks)
        await keep_witnesses(desk)
    assert await tags(one) == ["first", "second", "third", "fourth"]
    assert lonely.id not in {each.node for each in (await head_of(one)).witnesses}
    two = await device("two")
    assert (await two.head()).seq == 4


@pytest.mark.parametrize("seed", range(6))
async def test_two_devices_posting_among_crashes_never_have_two_acknowledged_heads_under_one_number(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode], seed: int
) -> None:
    """Nodes come and go; the coordinator dies between any two steps, and with it all it had in memory."""
    dice, desk = Random(seed), coordinator.desk
    sessions = [await device("one"), await device("two")]
    account = sessions[0].known.account
    await post(sessions[0], coordinator, "first")
    acknowledged = {1: (await sessions[0].head()).digest}
    await sessions[1].head()  # from now on both know what they have seen, and ask no witnesses
    for _ in range(40):
        up = [node for node in nodes if node.is_up]
        match dice.randrange(6):
            case 0 if len(up) > 3:
                await stop(coordinator, nodes, [dice.choice(up)])
            case 1:
                await start(coordinator, nodes)
            case 2:
                await keep_witnesses(desk)
            case _:
                message = await posted(dice.choice(sessions), coordinator)
                task = asyncio.create_task(post_head(desk, account, message))
                done, _pending = await asyncio.wait([task], timeout=dice.choice([0.002, 0.01, 0.03, 5.0]))
                if not done:
                    task.cancel()
                    desk.witnessing = Witnessing()
                try:
                    state = await task
                except (asyncio.CancelledError, HeadMoved, NoQuorum, OutcomeUnknown):
                    continue
                assert state.head == message.head
                head = decode(message.head.payload, Head)
                assert acknowledged.setdefault(head.seq, signed_digest(message.head)) == signed_digest(
                    message.head
                ), f"two acknowledged heads under number {head.seq}"
    await start(coordinator, nodes)
    await keep_witnesses(desk)
    links = (await sessions[0].link.heads(0)).links
    chain = {seq: signed_digest(link) for seq, link in enumerate(links, 1)}
    assert acknowledged.items() <= chain.items(), "what was acknowledged is there"
    fresh = await device("three")
    assert (await fresh.head()).seq == len(links)


def _first_record(c: Any) -> bytes:
    from sqlalchemy import select

    from holdfast.coordinator.catalogue.schema import heads
    from holdfast.protocol.accounts import SnapshotList

    exact = c.execute(select(heads.c.snapshot_list).where(heads.c.seq == 1)).scalar_one()
    return bytes(decode(exact, SnapshotList).snapshots[0])


async def test_posting_on_an_older_catalogue_meets_the_witnesses_refusal_and_catches_up(
    device: OpenDevice, coordinator: Any, nodes: list[WitnessNode]
) -> None:
    from sqlalchemy import delete, update

    from holdfast.coordinator.catalogue.schema import accounts, heads

    one, two = await device("one"), await device("two")
    await post(one, coordinator, "first")
    old = await two.head()
    await post(one, coordinator, "second")
    await asyncio.gather(*coordinator.desk.witnessing.tasks)

    def forget(c: Any) -> None:
        c.execute(delete(heads).where(heads.c.seq > 1))
        c.execute(update(accounts).values(head_seq=1))

    coordinator.desk.catalogue.write_now(forget)
    await post(two, coordinator, "third", view=old)
    assert await tags(two) == ["first", "second", "third"]
    waiting = coordinator.desk.catalogue.read_now(
        lambda c: pending_head(c, account_row(c, one.known.account))
    )
    assert waiting is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that asks witnesses once, and not for ten seconds."""
    monkeypatch.setattr("holdfast.client.heads.WITNESS_PATIENCE_S", -1.0)
