"""Counting what no sum tells, in turn: one of those who read the catalogue is left for everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

__all__ = ["InTurn"]

T = TypeVar("T")


class InTurn:
    """Work that takes long, and that many ask for: one at a time, once for all who wait for the same.

    Whoever asks while it is already being done gets another turn: it wants what is there then. Nobody who
    ceases to wait ends it, for a thread that counts cannot be ended.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting: dict[Hashable, asyncio.Task[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, what: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """Have it done, and give what it gives; raises what it raises."""
        task = self._waiting.get(what)
        if task is None:
            task = self._waiting[what] = asyncio.create_task(self._do(what, work))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        result: T = await asyncio.shield(task)
        return result

    async def end(self) -> None:
        """Nothing is begun any more, and nobody waits for what a thread still does."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody waits any more for what went wrong

    async def _do(self, what: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        try:
            async with self._turn:
                del self._waiting[what]
                return await work()
        finally:
            if self._waiting.get(what) is asyncio.current_task():
                del self._waiting[what]  # it never had its turn
