"""Rereading every shard: verify, put bad ones aside, tell the coordinator until it knows.

The walk and its durable cursor; pacing is decided in node/scrub_pacing.py. What is
met by a client's read goes the same way (:meth:`Scrubber.met`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Literal, TypeVar

import structlog

from holdfast.node import scrub_pacing as pacing
from holdfast.node.limits import (
    FINDINGS_EVERY_S,
    READ_TOGETHER_ENTRIES,
    SCRUB_LOOK_S,
    SCRUB_SAVE_S,
    SCRUB_SCAN_ENTRIES,
)
from holdfast.node.store import Absent, Damaged, Found, ShardKey, StoreDamaged
from holdfast.node.writer import Writer
from holdfast.protocol.clock import Source
from holdfast.protocol.errors import HoldfastError, StoreFailed
from holdfast.protocol.limits import FINDINGS_MAX
from holdfast.protocol.messages.scrub import FindingEntry, Findings, Scrubbed

__all__ = ["Scrubber"]

T = TypeVar("T")
_log = structlog.get_logger()
_END: Final = b"\xff" * 90


class Scrubber:
    """One for the process.

    Args:
        pool: where reading and hashing run.
        period_s: within which everything is reread.
        tell: brings findings to the coordinator; raises HoldfastError when it did not take note.
    """

    def __init__(
        self,
        writer: Writer,
        pool: ThreadPoolExecutor,
        source: Source,
        *,
        period_s: float,
        tell: Callable[[Findings], Awaitable[object]],
    ) -> None:
        self._writer = writer
        self._pool = pool
        self._source = source
        self._period_s = period_s
        self._tell = tell
        self._state = pacing.open_state(writer.store.scrub_state())
        self._pass = 0
        self._asked = asyncio.Event()
        self._new_findings = asyncio.Event()
        self._looked_at: set[asyncio.Task[int]] = set()

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    # What others ask

    def ask(self) -> None:
        """Reread everything, from the first shard on, now."""
        self._begin(asked=True)
        self._asked.set()

    def met(self, keys: Sequence[ShardKey]) -> None:
        """A read met damaged shards: put them aside and report them, soon."""
        task = asyncio.create_task(self._put_aside(keys))
        self._looked_at.add(task)
        task.add_done_callback(self._looked_at.discard)

    @property
    def ended_ms(self) -> int:
        """When the last whole pass ended; 0: never."""
        return self._state.ended_ms

    def stands(self) -> Scrubbed:
        """As the coordinator is told."""
        state, stats = self._state, self._writer.store.stats()
        return Scrubbed(
            running=state.running,
            started_ms=state.started_ms,
            ended_ms=state.ended_ms,
            shards=state.shards,
            read_bytes=state.read_bytes,
            found=state.found,
            quarantined=stats.quarantined,
            unreported=stats.findings,
        )

    # The walk

    async def scrub_forever(self) -> None:
        """Passes, when they are due or asked for; until cancelled."""
        while True:
            try:
                if pacing.is_due(self._state, self._source.now_ms(), self._period_s):
                    self._begin(asked=False)
                if self._state.running and self._writer.failed is None:
                    await self._walk()
            except StoreDamaged as error:
                await self._declare(error.why or error.what)
            except HoldfastError as error:
                _log.warning("the scrub rests", why=str(error))
            await _first(self._asked, SCRUB_LOOK_S)
            self._asked.clear()

    def _begin(self, *, asked: bool) -> None:
        self._state = pacing.begin(self._state, self._source.now_ms(), asked)
        self._pass += 1

    async def _walk(self) -> None:
        """Go on with the pass to its end, or until another one is begun.

        Raises:
            StoreDamaged: the store as a whole does not hold.
        """
        number, whole = self._pass, not self._state.cursor
        store = self._writer.store
        before, moved = store.stats(), 0
        save_at = self._source.monotonic() + SCRUB_SAVE_S
        while keys := await self._scan(self._state.cursor, _END, SCRUB_SCAN_ENTRIES):
            for start in range(0, len(keys), READ_TOGETHER_ENTRIES):
                portion = keys[start : start + READ_TOGETHER_ENTRIES]
                began = self._source.monotonic()
                size, bad = await self._reread(portion)
                moved += await self._put_aside(bad)
                if self._pass != number:
                    return
                self._state = self._state.advanced(portion[-1].pack(), len(portion), size, len(bad))
                await self._rest(size, began)
                if self._pass != number:
                    return
            if self._source.monotonic() > save_at:
                save_at = self._source.monotonic() + SCRUB_SAVE_S
                await self._save()
        if self._pass != number:
            return  # asked for while the last look was under way: that one counts from the first shard on
        # A page that lost its way hides shards; it shows when nobody else changed anything meanwhile.
        quiet = whole and store is self._writer.store and not before.unreadable
        if (
            quiet
            and store.stats().changes == before.changes + 2 * moved
            and self._state.shards != before.shards
        ):
            raise StoreDamaged(f"a walk over it meets {self._state.shards} of {before.shards} shards")
        self._state = self._state.ended(self._source.now_ms())
        await self._save()
        _log.info("every shard was reread", shards=self._state.shards, bad=self._state.found)

    async def _scan(self, after: bytes, until: bytes, most: int) -> list[ShardKey]:
        store = self._writer.store
        return await self._off_loop(lambda: store.scan(after, until, most))

    async def _rest(self, size: int, began_s: float) -> None:
        took = self._source.monotonic() - began_s
        used = self._writer.store.stats().used_bytes
        speed = pacing.rate(self._state, self._source.now_ms(), self._period_s, used)
        await _first(self._asked, pacing.pause_s(size, took, speed))

    async def _reread(self, keys: Sequence[ShardKey]) -> tuple[int, list[ShardKey]]:
        """(bytes read, what is damaged).

        Raises:
            StoreDamaged: what the walk lists cannot be found.
        """
        store = self._writer.store
        outcomes = await self._off_loop(lambda: store.read(keys))
        size = sum(len(o.header) + len(o.shard) for o in outcomes if isinstance(o, Found))
        for key, outcome in zip(keys, outcomes, strict=True):
            if not isinstance(outcome, Absent):
                continue
            packed = key.pack()
            listed = await self._scan(packed[:-1], packed + b"\0", SCRUB_SCAN_ENTRIES)
            (again,) = await self._off_loop(lambda k=key: store.read([k]))  # type: ignore[misc]
            if key in listed and isinstance(again, Absent):
                raise StoreDamaged("a shard that it lists cannot be found in it")
        return size, [key for key, o in zip(keys, outcomes, strict=True) if isinstance(o, Damaged)]

    async def _declare(self, why: str) -> None:
        """The store as a whole is damaged: nothing more goes into it."""
        with suppress(StoreFailed):
            await self._writer.run(lambda store: store.declare_damaged(why))

    async def _save(self) -> None:
        raw = pacing.saved(self._state)
        await self._writer.run(lambda store: store.save_scrub_state(raw))

    # What it finds

    async def _put_aside(self, keys: Sequence[ShardKey]) -> int:
        if not keys:
            return 0
        try:
            moved: int = await self._writer.run(lambda store: store.quarantine(keys))
        except HoldfastError as error:
            _log.warning("damaged shards could not be put aside", count=len(keys), why=str(error))
            return 0
        _log.warning("damaged shards were put aside", count=moved, first=keys[0].chunk.short)
        self._new_findings.set()
        return moved

    async def report_forever(self) -> None:
        """Tell the coordinator of every finding until it has taken note; until cancelled."""
        while True:
            try:
                while await self._report():
                    pass
            except HoldfastError as error:
                _log.info("findings wait", why=error.what)
            await _first(self._new_findings, FINDINGS_EVERY_S)
            self._new_findings.clear()

    async def _report(self) -> bool:
        """One portion; False when there is nothing (more) to tell."""
        store = self._writer.store
        keys = await self._off_loop(lambda: store.findings(FINDINGS_MAX))
        if not keys or self._writer.failed is not None:
            return False
        entries: list[FindingEntry] = []
        for start in range(0, len(keys), READ_TOGETHER_ENTRIES):
            portion = keys[start : start + READ_TOGETHER_ENTRIES]
            outcomes = await self._off_loop(lambda p=portion: store.read(p))  # type: ignore[misc]
            entries.extend(_entries(zip(portion, outcomes, strict=True)))
        if entries:
            await self._tell(Findings(entries=entries))
        await self._writer.run(lambda opened: opened.findings_told(keys))
        return True


def _entries(looked_at: Iterable[tuple[ShardKey, object]]) -> Iterable[FindingEntry]:
    """What is still bad of what was found; a shard that is whole again is no news."""
    for key, outcome in looked_at:
        if isinstance(outcome, Found):
            continue
        kind: Literal["damaged", "unreadable"] = "unreadable" if isinstance(outcome, Damaged) else "damaged"
        yield FindingEntry(key.group, key.slot, key.account, key.chunk, key.generation, kind)


async def _first(event: asyncio.Event, within_s: float) -> None:
    """Until it is set, or so many seconds are over."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        pass
