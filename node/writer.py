"""The one thread that writes: group commit, and what happens when a commit fails.

Requests that wait while a commit is being made durable go together into the
next one. A future is resolved after its commit's fsync, never before. After a
failed commit nothing is acknowledged: the store is closed, opened again, and
what was acknowledged last is looked for; only a store that proves itself
accepts writes again, any other stays stopped and keeps answering reads.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import structlog

from holdfast.node.limits import COMMIT_GROUP_BYTES_MAX, VERIFY_AFTER_FAILURE_MAX
from holdfast.node.store import Found, Put, ShardKey, ShardStore, StoreDamaged
from holdfast.node.store_failed import FailedStore
from holdfast.protocol.errors import HoldfastError, StoreFailed

__all__ = ["Writer"]

_log = structlog.get_logger()


class _Batch:
    __slots__ = ("future", "puts", "size")

    def __init__(self, puts: Sequence[Put], future: asyncio.Future[int]) -> None:
        self.puts = puts
        self.future = future
        self.size = sum(len(put.shard) for put in puts)


_Work = tuple[Callable[[ShardStore], Any], asyncio.Future[Any]]
_Task = _Batch | _Work | None


class Writer:
    """Runs the store's writes in a thread of its own.

    Args:
        open_store: opens the store; called at the start and again after a failed commit.

    Attributes:
        held: why no shard is taken for now, for people; None: they are.
        failed: why the store has stopped; None: it has not.
    """

    def __init__(self, open_store: Callable[[], ShardStore]) -> None:
        self._open_store = open_store
        self.store = open_store()
        self.held: str | None = None
        self.failed: str | None = self.store.why if isinstance(self.store, FailedStore) else None
        self._loop = asyncio.get_running_loop()
        # Filled by the event loop alone; None is the end.
        self._queue: SimpleQueue[_Task] = SimpleQueue()
        self._taken: deque[_Task] = deque(maxlen=1)
        self._closing = False
        self._acknowledged: deque[ShardKey] = deque(maxlen=VERIFY_AFTER_FAILURE_MAX)
        self._counter = self.store.stats().counter
        self._thread = threading.Thread(target=self._run, name="store writer")
        self._thread.start()

    async def put(self, puts: Sequence[Put]) -> int:
        """Store one batch durably; gives the store's commit counter after it.

        Raises:
            StoreFailed, Conflict, NoRoom, IntegrityFailure: nothing of the batch counts.
        """
        self.refuse_while_held()
        future: asyncio.Future[int] = self._loop.create_future()
        self._enqueue(_Batch(puts, future))
        return await future

    def refuse_while_held(self) -> None:
        """Raises StoreFailed while no shard is taken: said before one is received, too."""
        if self.held is not None:
            raise StoreFailed("this node takes no shards yet", why=self.held, do="Try again in a moment.")

    async def run(self, work: Callable[[ShardStore], Any]) -> Any:
        """Run any other writing work in the writer's thread, in turn."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._enqueue((work, future))
        return await future

    def _enqueue(self, entry: _Task) -> None:
        if self._closing:
            raise StoreFailed("this node is stopping")
        self._queue.put(entry)

    async def close(self) -> None:
        """Finish what is queued, then close the store."""
        self._closing = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self.store.close()

    def _take(self) -> list[_Batch] | _Work | None:
        """What is next; None: the end. Batches that wait already go together, as many as may."""
        first = self._taken.popleft() if self._taken else self._queue.get()
        if not isinstance(first, _Batch):
            return first
        group, size = [first], first.size
        with suppress(Empty):
            while True:
                following = self._queue.get_nowait()
                if not isinstance(following, _Batch) or size + following.size > COMMIT_GROUP_BYTES_MAX:
                    self._taken.append(following)  # after this group
                    break
                group.append(following)
                size += following.size
        return group

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            if isinstance(taken, tuple):
                self._work(*taken)
            else:
                self._commit(taken)

    def _resolve(self, future: asyncio.Future[Any], value: Any, error: BaseException | None = None) -> None:
        def settle() -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)

        self._loop.call_soon_threadsafe(settle)

    def _work(self, work: Callable[[ShardStore], Any], future: asyncio.Future[Any]) -> None:
        try:
            if self.failed is not None:
                raise StoreFailed("this node's store has stopped", why=self.failed)
            before = self.store.stats().changes
            done = work(self.store)
            if self.store.stats().changes != before:
                # It took shards out, by order or because they were damaged: they are not looked for again.
                self._acknowledged.clear()
            self._resolve(future, done)
        except Exception as error:
            if isinstance(error, StoreDamaged) and self.failed is None:
                self._stop_or_reopen(error)  # first: whoever is told of it must find it stopped
            self._resolve(future, None, error)
            if isinstance(error, StoreFailed) and self.failed is None:
                self._stop_or_reopen(error)

    def _commit(self, group: list[_Batch]) -> None:
        try:
            if self.failed is not None:
                raise StoreFailed("this node's store has stopped", why=self.failed)
            outcomes = self.store.put([batch.puts for batch in group])
            counter = self.store.stats().counter
        except Exception as error:
            failure = (
                error
                if isinstance(error, HoldfastError)
                else StoreFailed("the store failed", why=repr(error))
            )
            if isinstance(failure, StoreDamaged) and self.failed is None:
                self._stop_or_reopen(failure)  # first, as in _work
            for batch in group:
                self._resolve(batch.future, None, failure)
            if self.failed is None:
                self._stop_or_reopen(failure)
            return
        self._counter = counter
        for batch, refused in zip(group, outcomes, strict=True):
            if refused is None:
                self._acknowledged.extend(ShardKey.of(put.record) for put in batch.puts)
            self._resolve(batch.future, counter, refused)

    def _stop_or_reopen(self, error: HoldfastError) -> None:
        """A damaged store stays stopped and goes on answering reads; any other proves itself."""
        if isinstance(error, StoreDamaged):
            self.failed = error.why or error.what
            _log.error("the store is damaged and takes nothing more", why=self.failed)
        else:
            self._reopen(str(error))

    def _reopen(self, why: str) -> None:
        _log.error("a commit failed; reopening the store", why=why)
        old = self.store
        self.failed = why
        try:
            old.close()
            self.store = self._open_store()
            self._prove(old, self.store)
        except Exception as error:
            self.failed = f"{why}; reopening failed: {error}"
            _log.error("the store stays stopped", why=self.failed)
            return
        self.failed = None
        _log.warning("the store was reopened and proven")

    def _prove(self, old: ShardStore, store: ShardStore) -> None:
        if store.id != old.id or store.stats().counter < self._counter:
            raise StoreFailed("the reopened store is older than what was acknowledged")
        lost = sum(not isinstance(outcome, Found) for outcome in store.read(list(self._acknowledged)))
        if lost:
            raise StoreFailed(f"{lost} acknowledged shards are gone or damaged after reopening")
