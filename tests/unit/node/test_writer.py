"""Durable before acknowledged, together where possible, and silent after a failed commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.shards import ModelStore, flip, key_of, made_put

from holdfast.node.limits import COMMIT_GROUP_BYTES_MAX
from holdfast.node.store import Found, Put, StoreDamaged
from holdfast.node.writer import Writer
from holdfast.protocol.errors import Conflict, HoldfastError, StoreFailed


class SlowStore(ModelStore):
    """The model, with a gate before each commit and a note of what each commit held."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.commits: list[int] = []

    def put(self, batches: Sequence[Sequence[Put]]) -> list[HoldfastError | None]:
        self.entered.set()
        assert self.gate.wait(10)
        self.commits.append(len(batches))
        return super().put(batches)

    def close(self) -> None:
        pass


@dataclass
class Opened:
    """Gives stores one after the other; each entry may be an error instead."""

    store: SlowStore = field(default_factory=SlowStore)
    then: list[Any] = field(default_factory=list)
    count: int = 0

    def __call__(self) -> Any:
        self.count += 1
        if self.count > 1 and self.then:
            following = self.then.pop(0)
            if isinstance(following, Exception):
                raise following
            return following
        self.store.failed = False
        return self.store


@pytest.fixture
def opened() -> Opened:
    return Opened()


@pytest.fixture
async def writer(opened: Opened) -> AsyncIterator[Writer]:
    made = Writer(opened)
    yield made
    opened.store.gate.set()
    await made.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the writer's thread
            await asyncio.sleep(0)


async def test_requests_that_wait_go_into_one_commit(opened: Opened, writer: Writer) -> None:
    opened.store.gate.clear()
    first = asyncio.create_task(writer.put([made_put(0)]))
    await until(opened.store.entered.is_set)
    others = [asyncio.create_task(writer.put([made_put(number)])) for number in range(1, 11)]
    await until(lambda: writer._queue.qsize() == 10)
    assert not any(task.done() for task in (first, *others)), "nothing is acknowledged before its commit"
    opened.store.gate.set()
    await asyncio.gather(first, *others)
    assert opened.store.commits == [1, 10]


async def test_one_commit_holds_a_bounded_number_of_bytes(opened: Opened, writer: Writer) -> None:
    opened.store.gate.clear()
    first = asyncio.create_task(writer.put([made_put(0)]))
    await until(opened.store.entered.is_set)
    large = Put(made_put(1).record, bytes(COMMIT_GROUP_BYTES_MAX // 2 + 1))
    others = [asyncio.create_task(writer.put([large])) for _ in range(3)]
    await until(lambda: writer._queue.qsize() == 3)
    opened.store.gate.set()
    await asyncio.gather(first, *others, return_exceptions=True)
    assert opened.store.commits == [1, 1, 1, 1]


async def test_a_refused_batch_does_not_spoil_its_neighbours(opened: Opened, writer: Writer) -> None:
    await writer.put([made_put(1)])
    right, wrong = await asyncio.gather(
        writer.put([made_put(2)]), writer.put([made_put(1, variant=1)]), return_exceptions=True
    )
    assert isinstance(right, int)
    assert isinstance(wrong, Conflict)


async def test_each_answer_carries_a_counter_that_rose(writer: Writer) -> None:
    counters = [await writer.put([made_put(number)]) for number in range(5)]
    assert counters == sorted(set(counters))


async def test_a_failed_commit_acknowledges_nothing_then_the_store_proves_itself(
    opened: Opened, writer: Writer
) -> None:
    await writer.put([made_put(1)])
    opened.store.fail_next_commit = True
    with pytest.raises(StoreFailed):
        await writer.put([made_put(2)])
    await until(lambda: opened.count == 2 and writer.failed is None)
    assert await writer.put([made_put(2)])
    assert isinstance(writer.store.read([key_of(made_put(1))])[0], Found)


async def test_a_store_that_lost_an_acknowledged_shard_stays_stopped(opened: Opened, writer: Writer) -> None:
    await writer.put([made_put(1)])
    forgetful = SlowStore()
    forgetful.counter = 10**6
    opened.then = [forgetful]
    opened.store.fail_next_commit = True
    with pytest.raises(StoreFailed):
        await writer.put([made_put(2)])
    await until(
        lambda: (writer.failed is not None and "lost" in writer.failed) or "gone" in (writer.failed or "")
    )
    with pytest.raises(StoreFailed, match="stopped"):
        await writer.put([made_put(3)])
    with pytest.raises(StoreFailed):
        await writer.run(lambda store: store.stats())


async def test_an_older_or_another_store_is_not_believed(opened: Opened, writer: Writer) -> None:
    await writer.put([made_put(1)])
    older = SlowStore()
    older.shards = dict(opened.store.shards)
    opened.then = [older]
    opened.store.fail_next_commit = True
    with pytest.raises(StoreFailed):
        await writer.put([made_put(2)])
    await until(lambda: "older" in (writer.failed or ""))


async def test_where_reopening_fails_the_node_says_so_and_does_not_die(
    opened: Opened, writer: Writer
) -> None:
    opened.then = [StoreFailed("the disk is gone")]
    opened.store.fail_next_commit = True
    with pytest.raises(StoreFailed):
        await writer.put([made_put(1)])
    await until(lambda: "the disk is gone" in (writer.failed or ""))
    with pytest.raises(StoreFailed):
        await writer.put([made_put(2)])


async def test_closing_finishes_what_is_queued_and_takes_nothing_new(opened: Opened) -> None:
    writer = Writer(opened)
    opened.store.gate.clear()
    waiting = [asyncio.create_task(writer.put([made_put(number)])) for number in range(3)]
    await until(opened.store.entered.is_set)
    await until(lambda: writer._queue.qsize() >= 0)
    closing = asyncio.create_task(writer.close())
    await until(lambda: writer._closing)
    with pytest.raises(StoreFailed, match="stopping"):
        await writer.put([made_put(9)])
    opened.store.gate.set()
    await closing
    assert all(isinstance(counter, int) for counter in await asyncio.gather(*waiting))
    assert opened.store.stats().shards == 3


async def test_a_store_that_is_damaged_as_a_whole_is_not_opened_again_and_still_read(
    opened: Opened, writer: Writer
) -> None:
    put = made_put(1)
    await writer.put([put])
    with pytest.raises(StoreDamaged):
        await writer.run(lambda store: store.declare_damaged("its pages lie"))
    assert writer.failed == "its pages lie" and opened.count == 1
    with pytest.raises(StoreFailed):
        await writer.put([made_put(2)])
    assert isinstance(writer.store.read([key_of(put)])[0], Found)


async def test_a_shard_put_into_quarantine_is_not_taken_for_lost_when_the_store_is_proven(
    opened: Opened, writer: Writer
) -> None:
    put = made_put(1)
    await writer.put([put])
    key = key_of(put).pack()
    opened.store.shards[key] = flip(opened.store.shards[key])
    assert await writer.run(lambda store: store.quarantine([key_of(put)])) == 1
    opened.store.fail_next_commit = True
    with pytest.raises(StoreFailed):
        await writer.put([made_put(2)])
    await until(lambda: writer.failed is None)
    await writer.put([made_put(3)])
