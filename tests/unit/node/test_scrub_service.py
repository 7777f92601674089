"""What the coordinator may ask of a node about its shards, and nobody else may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.node_service import CLUSTER, COORDINATOR, Device, RunningNode, running_node, stripes
from support.shards import flip

from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.errors import BadRequest, Refused
from holdfast.protocol.limits import QUARANTINE_SHOWN_MAX
from holdfast.protocol.messages.scrub import QuarantineRead, ReadQuarantine, Scrub, Scrubbed
from holdfast.protocol.requests import Signer
from holdfast.protocol.signing import generate_signing_key, key_id, public_key
from holdfast.protocol.transport import Transport

PEN = Signer("coordinator", b"", key_id(public_key(COORDINATOR)), COORDINATOR, CLUSTER)
FORGER = generate_signing_key(b"somebody else calls himself so..."[:32])
FORGED = Signer("coordinator", b"", key_id(public_key(FORGER)), FORGER, CLUSTER)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(tmp_path / "store") as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as made:
        yield made


async def ask(node: RunningNode, transport: Transport, message: object, pen: Signer = PEN) -> Any:
    is_scrub = isinstance(message, Scrub)
    target, answer = ("/v1/scrub", Scrubbed) if is_scrub else ("/v1/quarantine", QuarantineRead)
    return await transport.call(
        "POST", node.node.url, target, message, answer=answer, signer=pen, receiver=node.node.id, reads=True
    )


async def test_a_read_that_meets_a_damaged_shard_has_it_put_aside_for_the_coordinator_to_see(
    node: RunningNode, transport: Transport
) -> None:
    ada = Device(node.node, transport)
    batch = stripes(3)
    await ada.put(batch)
    store = node.writer.store
    assert isinstance(store, LmdbStore)
    (first, *_) = store.scan(b"", b"\xff" * 90, 10)
    with store._env.begin(write=True) as txn:
        txn.put(first.pack(), flip(txn.get(first.pack(), db=store._shards)), db=store._shards)
    answer, _ = await ada.read(batch)
    assert [result.status for result in answer.results].count("damaged") == 1
    async with asyncio.timeout(10):
        while not (told := await ask(node, transport, ReadQuarantine(after=0, most=5))).entries:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert told.total == 1
    entry = told.entries[0]
    assert (entry.account, entry.chunk, entry.slot) == (ada.account, first.chunk, 0)
    answer, _ = await ada.read(batch)
    assert [result.status for result in answer.results].count("absent") == 1, "and it is out of the way"
    await ada.put(batch)
    answer, _ = await ada.read(batch)
    assert {result.status for result in answer.results} == {"ok"}
    stands = await ask(node, transport, Scrub(start=False))
    assert (stands.quarantined, stands.running) == (1, False)
    assert (await ask(node, transport, Scrub(start=True))).running


@pytest.mark.parametrize("message", [Scrub(start=True), ReadQuarantine(after=0, most=1)])
async def test_only_the_coordinator_may_ask(node: RunningNode, transport: Transport, message: object) -> None:
    with pytest.raises(Refused):
        await ask(node, transport, message, FORGED)
    with pytest.raises(Refused):
        await ask(node, transport, message, Device(node.node, transport).signer)


@pytest.mark.parametrize(("after", "most"), [(0, 0), (0, QUARANTINE_SHOWN_MAX + 1), (-1, 5), (1 << 63, 5)])
async def test_what_is_out_of_bounds_is_refused(
    node: RunningNode, transport: Transport, after: int, most: int
) -> None:
    with pytest.raises(BadRequest):
        await ask(node, transport, ReadQuarantine(after=after, most=most))
