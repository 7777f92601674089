"""A node rereads what it keeps: every bad shard is put aside and told of, until somebody has listened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.shards import flip, key_of, made_put

from holdfast.node.limits import SCRUB_SCAN_ENTRIES
from holdfast.node.opening import StoreOpener
from holdfast.node.scrubbing import Scrubber
from holdfast.node.store import Absent, Found, Put, ShardKey
from holdfast.node.store_failed import FailedStore
from holdfast.node.store_lmdb import LmdbStore
from holdfast.node.writer import Writer
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import IntegrityFailure, StoreFailed, Unreachable
from holdfast.protocol.messages.scrub import Findings

YEAR_S = 365 * 86400.0


class Ear:
    """The coordinator, as findings see it: away until told otherwise."""

    def __init__(self) -> None:
        self.listens = True
        self.asked = 0
        self.heard: list[tuple[ShardKey, str]] = []

    async def __call__(self, findings: Findings) -> None:
        self.asked += 1
        if not self.listens:
            raise Unreachable("nobody is there")
        self.heard += [
            (ShardKey(e.group, e.slot, e.account, e.chunk, e.generation), e.kind) for e in findings.entries
        ]


def opener(folder: Path, **changed: Any) -> StoreOpener:
    values: dict[str, Any] = {"known": None, "capacity_bytes": 60_000_000, "replace_damaged": False}
    return StoreOpener(folder, SYSTEM, **{**values, **changed})


@asynccontextmanager
async def scrubbing(
    folder: Path, ear: Ear, period_s: float = YEAR_S
) -> AsyncIterator[tuple[Writer, Scrubber]]:
    opened = opener(folder)
    writer = Writer(opened)
    with ThreadPoolExecutor(2) as pool:
        scrubber = Scrubber(writer, pool, SYSTEM, period_s=period_s, tell=ear)
        tasks = [
            asyncio.create_task(scrubber.scrub_forever()),
            asyncio.create_task(scrubber.report_forever()),
        ]
        try:
            yield writer, scrubber
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await writer.close()
            opened.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - it comes true in another thread
            await asyncio.sleep(0.01)


def damage(writer: Writer, *puts: Put) -> None:
    """Flip a bit of each shard behind the store's back."""
    store = writer.store
    assert isinstance(store, LmdbStore)
    with store._env.begin(write=True) as txn:
        for put in puts:
            key = key_of(put).pack()
            txn.put(key, flip(txn.get(key, db=store._shards)), db=store._shards)


PUTS = [made_put(number, sealed_bytes=8000, slot=number % 3) for number in range(2 * SCRUB_SCAN_ENTRIES + 9)]


async def test_every_bad_shard_is_found_put_aside_and_told_and_no_good_one(tmp_path: Path) -> None:
    ear = Ear()
    async with scrubbing(tmp_path, ear) as (writer, scrubber):
        await until(lambda: scrubber.ended_ms > 0)  # the first pass, over nothing
        await writer.put(PUTS)
        bad = PUTS[::17]
        damage(writer, *bad)
        scrubber.ask()
        await until(lambda: not scrubber.stands().running and not scrubber.stands().unreported)
        told = scrubber.stands()
        assert (told.shards, told.found, told.quarantined) == (len(PUTS), len(bad), len(bad))
        assert sorted(key.pack() for key, _ in ear.heard) == sorted(key_of(put).pack() for put in bad)
        assert {kind for _, kind in ear.heard} == {"damaged"}
        outcomes = writer.store.read([key_of(put) for put in PUTS])
        assert sum(isinstance(outcome, Found) for outcome in outcomes) == len(PUTS) - len(bad)
        await writer.put(bad)
        scrubber.ask()
        await until(lambda: not scrubber.stands().running)
        assert scrubber.stands().found == 0, "what was brought back is whole"


async def test_a_finding_is_told_again_until_somebody_took_note_even_after_a_restart(tmp_path: Path) -> None:
    ear = Ear()
    ear.listens = False
    async with scrubbing(tmp_path, ear) as (writer, scrubber):
        await writer.put(PUTS[:20])
        damage(writer, PUTS[3])
        scrubber.ask()
        await until(lambda: ear.asked > 1)
        assert scrubber.stands().unreported == 1
    ear.listens = True
    async with scrubbing(tmp_path, ear) as (_, scrubber):
        await until(lambda: bool(ear.heard))
        await until(lambda: scrubber.stands().unreported == 0)
    assert ear.heard == [(key_of(PUTS[3]), "damaged")]


async def test_a_pass_that_is_asked_for_as_another_ends_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scrubbing(tmp_path, Ear()) as (writer, scrubber):
        await writer.put(PUTS[:5])
        scan, asked = scrubber._scan, []

        async def scan_and_ask(after: bytes, end: bytes, most: int) -> list[ShardKey]:
            found = await scan(after, end, most)
            if not found and not asked:
                damage(writer, PUTS[3])
                scrubber.ask()
                asked.append(True)
            return found

        monkeypatch.setattr(scrubber, "_scan", scan_and_ask)
        scrubber.ask()
        await until(lambda: scrubber.stands().found == 1)


async def test_a_shard_that_was_brought_back_before_its_finding_was_told_is_no_news(tmp_path: Path) -> None:
    ear = Ear()
    ear.listens = False
    async with scrubbing(tmp_path, ear) as (writer, scrubber):
        await writer.put(PUTS[:20])
        damage(writer, PUTS[3], PUTS[4])
        scrubber.ask()
        await until(lambda: scrubber.stands().unreported == 2)
        await writer.put([PUTS[3]])
        ear.listens = True
        await until(lambda: scrubber.stands().unreported == 0)
    assert [key for key, _ in ear.heard] == [key_of(PUTS[4])]


async def test_what_a_read_met_goes_the_same_way(tmp_path: Path) -> None:
    ear = Ear()
    async with scrubbing(tmp_path, ear) as (writer, scrubber):
        await writer.put(PUTS[:20])
        damage(writer, PUTS[7])
        scrubber.met([key_of(PUTS[7]), key_of(PUTS[8])])
        await until(lambda: bool(ear.heard))
        assert [key for key, _ in ear.heard] == [key_of(PUTS[7])], "only what is damaged"
        assert isinstance(writer.store.read([key_of(PUTS[7])])[0], Absent)
        assert isinstance(writer.store.read([key_of(PUTS[8])])[0], Found)


async def test_a_restart_goes_on_where_the_pass_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.node.scrubbing.SCRUB_SAVE_S", 0.0)
    monkeypatch.setattr("holdfast.node.scrub_pacing.SCRUB_BYTES_PER_S_MIN", 3_000_000)
    monkeypatch.setattr("holdfast.node.scrub_pacing.SCRUB_BYTES_PER_S_MAX", 3_000_000)
    ear = Ear()
    async with scrubbing(tmp_path, ear) as (writer, scrubber):
        await until(lambda: scrubber.ended_ms > 0)
        await writer.put(PUTS)
    async with scrubbing(tmp_path, ear, period_s=0.001) as (writer, scrubber):
        await until(lambda: scrubber.stands().shards > SCRUB_SCAN_ENTRIES)
        before = scrubber.stands()
        assert before.running
    monkeypatch.undo()
    async with scrubbing(tmp_path, ear) as (_, scrubber):
        assert scrubber.stands().shards >= SCRUB_SCAN_ENTRIES, "what was reread counts"
        await until(lambda: not scrubber.stands().running)
        told = scrubber.stands()
        assert (told.shards, told.started_ms) == (len(PUTS), before.started_ms)


async def test_a_scrub_asked_for_in_the_middle_of_a_pass_begins_at_the_first_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.node.scrub_pacing.SCRUB_BYTES_PER_S_MIN", 1_000_000)
    monkeypatch.setattr("holdfast.node.scrub_pacing.SCRUB_BYTES_PER_S_MAX", 1_000_000)
    ear = Ear()
    async with scrubbing(tmp_path, ear, period_s=0.001) as (writer, scrubber):
        await writer.put(PUTS)
        await until(lambda: scrubber.stands().shards > 20)
        damage(writer, min(PUTS, key=lambda put: key_of(put).pack()))
        scrubber.ask()
        asked = scrubber.stands().started_ms
        await until(lambda: scrubber.ended_ms >= asked)
        assert len(ear.heard) == 1


async def test_shards_that_a_damaged_tree_hides_make_the_store_fail_instead_of_pass(tmp_path: Path) -> None:
    """A branch that leads astray: fewer shards are met than are counted."""
    ear = Ear()
    async with scrubbing(tmp_path, ear) as (writer, scrubber):
        await until(lambda: scrubber.ended_ms > 0)
        await writer.put(PUTS[:50])
        store = writer.store
        assert isinstance(store, LmdbStore)
        with store._env.begin(write=True) as txn:
            txn.delete(key_of(PUTS[5]).pack(), db=store._shards)
        scrubber.ask()
        await until(lambda: writer.failed is not None)
        assert "meets 49 of 50 shards" in (writer.failed or "")
        with pytest.raises(StoreFailed):
            await writer.put([PUTS[60]])
        assert isinstance(store.read([key_of(PUTS[6])])[0], Found), "what proves itself is still read"
    with pytest.raises(IntegrityFailure, match="damaged"):
        opener(tmp_path)()


async def test_a_damaged_store_is_told_of_kept_and_replaced_only_when_asked(tmp_path: Path) -> None:
    first = opener(tmp_path)
    store = first()
    store.put([PUTS[:10]])
    store.close()
    first.close()
    raw = bytearray((tmp_path / "store" / "data.mdb").read_bytes())
    raw[:8192] = bytes(8192)  # both of LMDB's first pages
    (tmp_path / "store" / "data.mdb").write_bytes(raw)
    failed = opener(tmp_path, known=store.id)()
    assert isinstance(failed, FailedStore) and failed.id == store.id and failed.why
    with pytest.raises(StoreFailed) as caught:
        failed.read([key_of(PUTS[0])])
    assert "--replace-damaged-store" in caught.value.do
    writer = Writer(lambda: failed)
    assert writer.failed == failed.why
    with pytest.raises(StoreFailed):
        await writer.put(PUTS[:1])
    await writer.close()
    asked = opener(tmp_path, known=store.id, replace_damaged=True)
    fresh = asked()
    assert fresh.id != store.id and fresh.stats().shards == 0
    assert (tmp_path / "store.quarantined-1" / "data.mdb").read_bytes() == raw
    fresh.close()
    asked.close()
