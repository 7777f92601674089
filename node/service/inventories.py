"""POST /v1/inventory/...: the coordinator asks what this node has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from holdfast.node import inventory
from holdfast.node.limits import INVENTORY_PORTION_ENTRIES
from holdfast.node.service.door import Door
from holdfast.node.writer import Writer
from holdfast.protocol.byte_gate import ByteGate
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, StoreFailed
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.inventories import POSITION_BYTES
from holdfast.protocol.limits import (
    INVENTORY_HEADERS_MAX,
    INVENTORY_KEYS_MAX,
    INVENTORY_RANGE_SHARDS,
    INVENTORY_SCAN_MAX,
    STRIPE_SHARDS_MAX,
)
from holdfast.protocol.messages.inventory import (
    HeadersRead,
    KeysRead,
    RangesRead,
    ReadHeaders,
    ReadKeys,
    ReadRanges,
    ReadSums,
    SlotSum,
    SumsRead,
)

__all__ = ["InventoryHandlers"]

T = TypeVar("T")


class InventoryHandlers:
    """See protocol.messages.inventory.

    Args:
        pool: where keys are walked over.
    """

    def __init__(self, door: Door, writer: Writer, pool: ThreadPoolExecutor) -> None:
        self._door = door
        self._writer = writer
        self._pool = pool
        # One at a time: whoever compares asks for one portion after the other.
        self._turn = ByteGate(1)

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_post("/v1/inventory/sums", self.sums)
        router.add_post("/v1/inventory/ranges", self.ranges)
        router.add_post("/v1/inventory/keys", self.keys)
        router.add_post("/v1/inventory/headers", self.headers)

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def _walk(self, after: bytes, until: bytes, most: int) -> inventory.Portion:
        """Up to ``most`` keys looked at, a few at a time: others get their turn in between.

        Raises:
            StoreFailed: what is in this store says nothing any more.
        """
        if self._writer.failed is not None:
            raise StoreFailed("this node's store has failed, and tells nothing", why=self._writer.failed)
        store, found = self._writer.store, list[bytes]()
        while most > 0:
            count = min(most, INVENTORY_PORTION_ENTRIES)
            here, after = await self._off_loop(lambda a=after, c=count: store.unmarked(a, until, c))  # type: ignore[misc]
            found += here
            most -= count
            if not after:
                break
        return found, after

    async def sums(self, request: Request) -> Answer:
        """Every group and slot, in portions."""
        asked = decode(await self._door.coordinator(request), ReadSums)
        if len(asked.after) > len(inventory.END):
            raise BadRequest("the place to go on from is too long")
        async with self._turn.hold(1):
            keys, after = await self._walk(asked.after, inventory.END, INVENTORY_SCAN_MAX)
            slots: list[SlotSum] = await self._off_loop(lambda: inventory.slot_sums(keys))
        return msgpack_answer(SumsRead(store=self._writer.store.id, slots=slots, next=after))

    async def ranges(self, request: Request) -> Answer:
        """One group and slot, in ranges."""
        asked = decode(await self._door.coordinator(request), ReadRanges)
        first, last = _bounds(asked.group, asked.slot, asked.after, b"")
        async with self._turn.hold(1):
            keys, after = await self._walk(first, last, INVENTORY_SCAN_MAX)
            ranges = await self._off_loop(lambda: inventory.range_sums(keys, INVENTORY_RANGE_SHARDS))
            while after and not ranges:  # all of them marked: an answer must get on
                keys, after = await self._walk(after, last, INVENTORY_SCAN_MAX)
                ranges = inventory.range_sums(keys, INVENTORY_RANGE_SHARDS)
        return msgpack_answer(RangesRead(ranges=ranges, is_end=not after))

    async def keys(self, request: Request) -> Answer:
        """The positions in a range."""
        asked = decode(await self._door.coordinator(request), ReadKeys)
        first, last = _bounds(asked.group, asked.slot, asked.after, asked.until)
        async with self._turn.hold(1):
            keys, after = await self._walk(first, last, INVENTORY_KEYS_MAX)
            while after and not keys:
                keys, after = await self._walk(after, last, INVENTORY_KEYS_MAX)
        return msgpack_answer(KeysRead(positions=b"".join(inventory.positions(keys)), is_end=not after))

    async def headers(self, request: Request) -> Answer:
        """The record headers in a range."""
        asked = decode(await self._door.coordinator(request), ReadHeaders)
        first, last = _bounds(asked.group, asked.slot, asked.after, asked.until)
        async with self._turn.hold(1):
            keys, after = await self._walk(first, last, INVENTORY_HEADERS_MAX)
            store, found = self._writer.store, list[bytes]()
            for start in range(0, len(keys), INVENTORY_PORTION_ENTRIES):
                portion = keys[start : start + INVENTORY_PORTION_ENTRIES]
                found += await self._off_loop(lambda p=portion: inventory.headers(store, p))  # type: ignore[misc]
        return msgpack_answer(HeadersRead(headers=found, next=after[-POSITION_BYTES:] if after else b""))


def _bounds(group: int, slot: int, after: bytes, until: bytes) -> tuple[bytes, bytes]:
    """A range as packed keys.

    Raises:
        BadRequest: a slot or group that there cannot be, or a bound that is no position.
    """
    if not 0 <= group < 1 << 63 or not 0 <= slot < STRIPE_SHARDS_MAX:
        raise BadRequest("an inventory is asked for a slot that no group has")
    if len(after) not in (0, POSITION_BYTES) or len(until) not in (0, POSITION_BYTES):
        raise BadRequest(f"the bounds of a range are empty, or positions of {POSITION_BYTES} bytes")
    return inventory.bounds(group, slot, after, until)
