"""When a store is copied to give room back to its disk, and how fast. The copy itself is the store's.

It is worth it by itself when half of a large file is free; an operator may ask for it at
any time. Between portions it rests, so that clients and repair come first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import structlog

from holdfast.node.limits import (
    COMPACT_ASKED_BYTES_PER_S,
    COMPACT_BYTES_PER_S,
    COMPACT_FREE_BYTES_MIN,
    COMPACT_FREE_SHARE,
    COMPACT_LOOK_S,
    COMPACT_RETRY_S,
    COMPACT_STEP_BYTES,
)
from holdfast.node.store import Compaction, StoreRoom
from holdfast.node.writer import Writer
from holdfast.protocol.clock import Source
from holdfast.protocol.errors import HoldfastError, StoreFailed
from holdfast.protocol.limits import TROUBLE_BYTES_MAX
from holdfast.protocol.messages.compact import Compacted

__all__ = ["Compactor", "is_worth_it"]

T = TypeVar("T")
_log = structlog.get_logger()


def is_worth_it(room: StoreRoom) -> bool:
    """Is so much of the file free that copying the rest pays?"""
    return (
        room.free_bytes >= COMPACT_FREE_BYTES_MIN and room.free_bytes >= COMPACT_FREE_SHARE * room.file_bytes
    )


class Compactor:
    """One for the process."""

    def __init__(self, writer: Writer, source: Source) -> None:
        self._writer = writer
        self._source = source
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compacting")
        self._asked = asyncio.Event()
        self._copy: Compaction | None = None
        self._room = StoreRoom(0, 0)
        self._given_back = 0
        self._ended_ms = 0
        self._trouble = ""
        self._rest_until_s = 0.0

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Let the thread go."""
        self._pool.shutdown()

    # What others ask

    def ask(self) -> None:
        """Copy the store as soon as may be."""
        self._asked.set()

    def room(self) -> StoreRoom:
        """Of the store now; as it was last while it cannot tell."""
        with suppress(StoreFailed):
            self._room = self._writer.store.room()
        return self._room

    @property
    def per_cent(self) -> int:
        """How far a copy is; -1: none is under way."""
        if self._copy is None:
            return -1
        return min(99, 100 * self._copy.copied_bytes // max(1, self._copy.total_bytes))

    def stands(self) -> Compacted:
        """As the coordinator is told."""
        room, copy = self.room(), self._copy
        return Compacted(
            running=copy is not None or self._asked.is_set(),
            copied_bytes=copy.copied_bytes if copy is not None else 0,
            total_bytes=copy.total_bytes if copy is not None else 0,
            file_bytes=room.file_bytes,
            free_bytes=room.free_bytes,
            given_back_bytes=self._given_back,
            ended_ms=self._ended_ms,
            trouble=self._trouble.encode()[:TROUBLE_BYTES_MAX].decode(errors="ignore"),
        )

    # The copy

    async def compact_forever(self) -> None:
        """Copies, when they are worth it or asked for; until cancelled."""
        while True:
            asked = self._asked.is_set()
            if asked or (self._source.monotonic() >= self._rest_until_s and is_worth_it(self.room())):
                await self.compact(COMPACT_ASKED_BYTES_PER_S if asked else COMPACT_BYTES_PER_S)
                self._asked.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(COMPACT_LOOK_S):
                    await self._asked.wait()

    async def compact(self, bytes_per_s: int) -> None:
        """Once; what goes wrong is told in :meth:`stands`."""
        try:
            self._copy = await self._writer.run(lambda store: store.compact())
            self._trouble = ""
            _log.info("compacting the store", bytes=self._copy.total_bytes)
            self._given_back = await self._run(self._copy, bytes_per_s)
            self._ended_ms = self._source.now_ms()
            _log.info("the store was compacted", given_back_bytes=self._given_back)
        except HoldfastError as error:
            self._trouble = str(error)
            self._rest_until_s = self._source.monotonic() + COMPACT_RETRY_S
            _log.warning("the store was not compacted", why=self._trouble)
        finally:
            if (copy := self._copy) is not None:
                self._copy = None
                await self._off_loop(copy.abandon)

    async def _run(self, copy: Compaction, bytes_per_s: int) -> int:
        while True:
            began_s, before = self._source.monotonic(), copy.copied_bytes
            if await self._off_loop(lambda: copy.step(COMPACT_STEP_BYTES)):
                break
            took_s = self._source.monotonic() - began_s
            await asyncio.sleep(max(took_s, (copy.copied_bytes - before) / bytes_per_s - took_s))
        given_back: int = await self._writer.run(lambda _: copy.finish())
        return given_back
