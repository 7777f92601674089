"""Threads that the event loop hands commands to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

__all__ = ["Threads"]

T = TypeVar("T")
A = TypeVar("A")
_Task = tuple[Callable[[Any], Any], Any, asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Threads:
    """So many threads, and one queue of what they are to do, first come first served.

    What concurrent.futures has for it gives each task a future with locks of its own, and ties that to one of
    the loop's: handing over takes half as long again. They start when they are needed first.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._threads: list[Thread] = []
        self._waiting: SimpleQueue[_Task | None] = SimpleQueue()
        self._is_over = False

    async def run(self, function: Callable[[A], T], argument: A) -> T:
        """Have it done, and give what came of it. Whoever is cancelled takes back what has not begun.

        Raises:
            RuntimeError: they have ended. Else whatever ``function`` raises.
        """
        if self._is_over:
            raise RuntimeError(f"the threads of {self._name} have ended")
        if not self._threads:
            self._start()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        self._waiting.put((function, argument, loop, outcome))
        try:
            return await outcome
        finally:
            del outcome  # or an error's traceback and this frame would hold each other

    def _start(self) -> None:
        for number in range(self._count):
            # Where nobody has ended them the process need not wait: what is not committed is undone.
            self._threads.append(Thread(target=self._work, name=f"{self._name}-{number}", daemon=True))
            self._threads[-1].start()

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None:
            _do(*task)
            del task  # nothing of it is kept while the next one is waited for

    def end(self) -> None:
        """Let them do what they were handed, and end them."""
        self._is_over = True
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()


def _do(
    function: Callable[[A], T], argument: A, loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[T]
) -> None:
    if outcome.cancelled():
        return
    try:
        result = function(argument)
    except BaseException as error:
        _tell(loop, outcome, error, outcome.set_exception)
    else:
        _tell(loop, outcome, result, outcome.set_result)
    finally:
        del outcome  # as in Threads.run


def _tell(
    loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[Any], what: T, how: Callable[[T], None]
) -> None:
    def tell() -> None:
        if not outcome.cancelled():
            how(what)

    # A loop that was closed meanwhile has nobody who waits.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(tell)
