"""What a node has, told in sums, ranges, positions and headers, and to the coordinator alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.node_service import CLUSTER, COORDINATOR, RunningNode, running_node
from support.shards import key_of, made_put

from holdfast.node.store import Put
from holdfast.protocol.errors import BadRequest, Refused
from holdfast.protocol.inventories import Sum, position
from holdfast.protocol.limits import INVENTORY_HEADERS_MAX, INVENTORY_KEYS_MAX, INVENTORY_RANGE_SHARDS
from holdfast.protocol.messages.inventory import (
    HeadersRead,
    KeysRead,
    RangesRead,
    ReadHeaders,
    ReadKeys,
    ReadRanges,
    ReadSums,
    SumsRead,
)
from holdfast.protocol.requests import Signer
from holdfast.protocol.signing import generate_signing_key, key_id, public_key
from holdfast.protocol.stripes import ShardRecord
from holdfast.protocol.transport import Transport

PEN = Signer("coordinator", b"", key_id(public_key(COORDINATOR)), COORDINATOR, CLUSTER)
FORGER = generate_signing_key(b"somebody else calls himself so..."[:32])
FORGED = Signer("coordinator", b"", key_id(public_key(FORGER)), FORGER, CLUSTER)
PATHS: dict[type[Any], tuple[str, type[Any]]] = {
    ReadSums: ("/v1/inventory/sums", SumsRead),
    ReadRanges: ("/v1/inventory/ranges", RangesRead),
    ReadKeys: ("/v1/inventory/keys", KeysRead),
    ReadHeaders: ("/v1/inventory/headers", HeadersRead),
}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(tmp_path / "store") as running:
        yield running


async def ask(node: RunningNode, message: Any, pen: Signer = PEN) -> Any:
    target, answer = PATHS[type(message)]
    async with Transport() as transport:
        return await transport.call(
            "POST",
            node.node.url,
            target,
            message,
            answer=answer,
            signer=pen,
            receiver=node.node.id,
            reads=True,
        )


def place(put: Put) -> bytes:
    return position(put.record.account, put.record.chunk, put.record.generation)


async def test_sums_are_those_of_each_group_and_slot_and_leave_out_what_is_to_be_erased(
    node: RunningNode,
) -> None:
    puts = {
        (group, slot): [made_put(number, group=group, slot=slot) for number in range(5 + slot)]
        for group in (1, 2**40)
        for slot in (0, 3)
    }
    for batch in puts.values():
        await node.writer.put(batch)
    gone = puts[(1, 3)].pop()
    await node.writer.run(lambda store: store.mark(1, [key_of(gone)], 10**9))
    told = await ask(node, ReadSums(after=b""))
    assert told.next == b"" and told.store == node.writer.store.id
    assert {(s.group, s.slot): (s.shards, s.sum) for s in told.slots} == {
        slot: (len(batch), Sum(map(place, batch)).digest) for slot, batch in puts.items()
    }


async def test_sums_of_several_answers_add_up(node: RunningNode) -> None:
    puts = [made_put(number) for number in range(20)]
    await node.writer.put(puts)
    places = sorted(map(place, puts))
    whole = Sum(places)
    first, rest = Sum(places[:7]), Sum(places[7:])
    assert first != whole
    first.join(Sum(count=rest.count, digest=rest.digest))
    assert first == whole and first.digest == whole.digest
    assert Sum(reversed(places)) == whole, "in whatever order"
    assert Sum([places[0], places[0]]) != Sum(), "twice the same does not cancel out"


async def test_ranges_positions_and_headers_lead_to_what_is_there(node: RunningNode) -> None:
    puts = sorted((made_put(number, slot=2) for number in range(INVENTORY_RANGE_SHARDS + 50)), key=place)
    for start in range(0, len(puts), 200):
        await node.writer.put(puts[start : start + 200])
    await node.writer.put([made_put(1, slot=1), made_put(1, slot=3)])
    told = await ask(node, ReadRanges(group=1, slot=2, after=b""))
    first, second = told.ranges
    assert told.is_end and first.until == place(puts[INVENTORY_RANGE_SHARDS - 1])
    assert first.sum == Sum(map(place, puts[:INVENTORY_RANGE_SHARDS])).digest
    assert (second.shards, second.until) == (50, place(puts[-1]))
    keys = await ask(node, ReadKeys(group=1, slot=2, after=first.until, until=second.until))
    assert keys.is_end and keys.positions == b"".join(map(place, puts[INVENTORY_RANGE_SHARDS:]))
    last = await ask(node, ReadKeys(group=1, slot=2, after=second.until, until=b""))
    assert (last.positions, last.is_end) == (b"", True)
    headers = await ask(node, ReadHeaders(group=1, slot=2, after=first.until, until=b""))
    assert [ShardRecord.unpack_header(header) for header in headers.headers] == [
        put.record for put in puts[INVENTORY_RANGE_SHARDS:]
    ]
    assert headers.next == b"" and len(puts) < min(INVENTORY_HEADERS_MAX, INVENTORY_KEYS_MAX)


@pytest.mark.parametrize(
    "message",
    [
        ReadSums(after=b"\xff" * 200),
        ReadRanges(group=-1, slot=0, after=b""),
        ReadKeys(group=1, slot=255, after=b"", until=b""),
        ReadKeys(group=1, slot=0, after=b"short", until=b""),
        ReadHeaders(group=1 << 63, slot=0, after=b"", until=b""),
    ],
)
async def test_what_no_inventory_has_is_refused(node: RunningNode, message: Any) -> None:
    with pytest.raises(BadRequest):
        await ask(node, message)


async def test_nobody_but_the_coordinator_is_told_what_a_node_has(node: RunningNode) -> None:
    position_of_nothing = dict.fromkeys(("after", "until"), b"")
    for message in (
        ReadSums(after=b""),
        ReadRanges(group=1, slot=0, after=b""),
        ReadKeys(group=1, slot=0, **position_of_nothing),
        ReadHeaders(group=1, slot=0, **position_of_nothing),
    ):
        with pytest.raises(Refused):
            await ask(node, message, FORGED)
