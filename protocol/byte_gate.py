"""Bounding what is in memory at once, by bytes instead of by requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["ByteGate"]


class ByteGate:
    """A weighted semaphore, first come first served."""

    def __init__(self, room_bytes: int) -> None:
        self._room = room_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        """Wait for room for so many bytes, and give it back at the end."""
        if self._waiting or self._room < count:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((count, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give(count)
                elif (count, turn) in self._waiting:  # whoever gave room meanwhile has left it out already
                    self._waiting.remove((count, turn))
                raise
        else:
            self._room -= count
        try:
            yield
        finally:
            self._give(count)

    def _give(self, count: int) -> None:
        self._room += count
        while self._waiting and self._waiting[0][0] <= self._room:
            wanted, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._room -= wanted
                turn.set_result(None)
