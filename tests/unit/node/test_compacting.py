"""Room goes back to the disk, and nothing else changes, whatever is written meanwhile, wherever it dies."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.node_service import CLUSTER, COORDINATOR, RunningNode, running_node
from support.shards import key_of, made_put

from holdfast.node.compacting import Compactor, is_worth_it
from holdfast.node.limits import COMPACT_FREE_BYTES_MIN
from holdfast.node.store import Absent, Found, StoreRoom
from holdfast.node.store_lmdb import LmdbStore
from holdfast.node.store_lmdb_opening import COPY_FOLDER
from holdfast.node.writer import Writer
from holdfast.protocol.clock import SYSTEM, FixedSource
from holdfast.protocol.errors import NoRoom, Refused
from holdfast.protocol.failpoints import VARIABLE
from holdfast.protocol.messages.compact import Compact, Compacted
from holdfast.protocol.requests import Signer
from holdfast.protocol.signing import generate_signing_key, key_id, public_key
from holdfast.protocol.transport import Transport

SIZE = 40_000
PUTS = [made_put(number, sealed_bytes=SIZE) for number in range(120)]
KEPT = PUTS[::10]
GONE = [put for put in PUTS if put not in KEPT]


def open_store(folder: Path, capacity: int = 20_000_000) -> LmdbStore:
    return LmdbStore(folder, source=FixedSource(), capacity_bytes=capacity)


def fill_and_erase(store: LmdbStore) -> None:
    for start in range(0, len(PUTS), 20):
        store.put([PUTS[start : start + 20]])
    store.mark(1, [key_of(put) for put in GONE], due_ms=0)
    assert store.erase_due(0, len(PUTS)) == len(GONE)


def compact(store: LmdbStore, step_bytes: int = 50_000) -> int:
    copy = store.compact()
    while not copy.step(step_bytes):
        pass
    return copy.finish()


def require_whole(store: LmdbStore) -> None:
    for put, outcome in zip(KEPT, store.read([key_of(put) for put in KEPT]), strict=True):
        assert outcome == Found(put.record.pack(), put.shard)
    assert store.read([key_of(put) for put in GONE]) == [Absent()] * len(GONE)


def file_of(folder: Path) -> Path:
    return folder / "data.mdb"


def test_the_file_on_disk_really_becomes_smaller_and_everything_left_reads(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = open_store(folder)
    fill_and_erase(store)
    before, told, id_ = file_of(folder).stat().st_size, store.stats(), store.id
    room = store.room()
    assert room.file_bytes == before and room.free_bytes > 0.7 * before
    given_back = compact(store)
    after = file_of(folder).stat().st_size
    assert after == before - given_back and after < 0.3 * before
    assert store.room().free_bytes < room.free_bytes / 10
    require_whole(store)
    assert (store.id, store.stats().counter, store.stats().shards) == (id_, told.counter, told.shards)
    assert store.put([[GONE[0]]]) == [None] and store.stats().counter == told.counter + 1
    store.close()
    store = open_store(folder)
    require_whole_but(store, GONE[0])
    assert store.stats().counter == told.counter + 1, "LMDB's own number began anew; the store's did not"
    assert sorted(path.name for path in folder.iterdir()) == ["data.mdb", "lock.mdb"]
    store.close()


def require_whole_but(store: LmdbStore, back: object) -> None:
    gone = [put for put in GONE if put is not back]
    assert all(isinstance(found, Found) for found in store.read([key_of(put) for put in KEPT]))
    assert store.read([key_of(put) for put in gone]) == [Absent()] * len(gone)


def test_readers_and_the_writer_go_on_meanwhile_and_lose_nothing(tmp_path: Path) -> None:
    """Reads come from threads of their own, puts and erasures between the steps; several times over."""
    store = open_store(tmp_path / "store", 60_000_000)
    fill_and_erase(store)
    stop, wrong = threading.Event(), list[object]()

    def read() -> None:
        chance = random.Random(threading.get_ident())
        while not stop.is_set():
            put = chance.choice(KEPT)
            (outcome,) = store.read([key_of(put)])
            if outcome != Found(put.record.pack(), put.shard):
                wrong.append(outcome)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    chance = random.Random(7)
    there, order = {key_of(put): put for put in KEPT}, 1
    try:
        for _ in range(4):
            copy = store.compact()
            while not copy.step(30_000):
                put = chance.choice(GONE)
                if key_of(put) in there:
                    order += 1
                    store.mark(order, [key_of(put)], due_ms=0)
                    store.erase_due(0, 1)
                    del there[key_of(put)]
                else:
                    assert store.put([[put]]) == [None]
                    there[key_of(put)] = put
            copy.finish()
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    found = store.read([key_of(put) for put in PUTS])
    assert {
        key_of(put) for put, one in zip(PUTS, found, strict=True) if isinstance(one, Found)
    } == there.keys()
    assert store.stats().shards == len(there)
    store.close()


CHILD = """
import sys
from pathlib import Path
from support.shards import made_put
from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.clock import FixedSource
store = LmdbStore(Path(sys.argv[1]), source=FixedSource(), capacity_bytes=20_000_000)
number = 1000
while True:
    copy = store.compact()
    while not copy.step(100_000):
        assert store.put([[made_put(number, sealed_bytes=40_000)]]) == [None]
        print(number, flush=True)
        number += 1
    copy.finish()
    print("compacted", flush=True)
"""


def child(folder: Path, steps: Path | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if steps is not None:
        environment[VARIABLE] = str(steps)
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )


def acknowledged(running: subprocess.Popen[str], kill_after: int | None = None) -> list[int]:
    """Numbers of what the child said was stored, until it is dead."""
    numbers: list[int] = []
    assert running.stdout is not None
    for lines, line in enumerate(running.stdout, 1):
        if line.strip().isdigit():
            numbers.append(int(line))
        if lines == kill_after:
            running.kill()
    running.stdout.close()
    running.wait(60)
    assert running.returncode == -signal.SIGKILL
    return numbers


@pytest.mark.parametrize("step", ["node.compact.copied", "node.compact.durable", "node.compact.replaced"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_process_that_dies_at_any_step_leaves_a_whole_store(tmp_path: Path, step: str, nth: int) -> None:
    folder, steps = tmp_path / "store", tmp_path / "steps"
    store = open_store(folder)
    fill_and_erase(store)
    id_, counter = store.id, store.stats().counter
    store.close()
    steps.write_text(f"{step} {nth} kill\n")
    numbers = acknowledged(child(folder, steps))
    store = open_store(folder)
    require_whole(store)
    puts = [made_put(number, sealed_bytes=40_000) for number in numbers]
    assert all(isinstance(found, Found) for found in store.read([key_of(put) for put in puts]))
    assert store.id == id_ and store.stats().counter == counter + len(numbers)
    assert not (folder / COPY_FOLDER).exists()
    compact(store)
    require_whole(store)
    store.close()


def test_every_acknowledged_put_survives_a_kill_at_any_moment_of_compacting(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = open_store(folder)
    fill_and_erase(store)
    store.close()
    for kill_after in (1, 4, 9, 17, 23):
        numbers = acknowledged(child(folder), kill_after)
        store = open_store(folder)
        require_whole(store)
        puts = [made_put(number, sealed_bytes=40_000) for number in numbers]
        assert all(isinstance(found, Found) for found in store.read([key_of(put) for put in puts]))
        store.close()


def test_without_room_for_a_copy_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store")
    fill_and_erase(store)

    class NoSpace:
        f_bavail, f_frsize = 10, 4096

    monkeypatch.setattr(os, "statvfs", lambda _: NoSpace)
    with pytest.raises(NoRoom) as caught:
        store.compact()
    assert caught.value.do
    assert not (tmp_path / "store" / COPY_FOLDER).exists()
    monkeypatch.undo()
    compact(store)
    require_whole(store)
    store.close()


def test_a_shard_that_kills_whoever_reads_it_is_left_behind_and_its_successor_comes_home(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "store"
    store = open_store(folder)
    store.put([PUTS[:10]])
    store.close()
    deadly, stored_anew = PUTS[3], PUTS[6]
    touched: list[bytes] = []
    suspects = [key_of(deadly), key_of(stored_anew)]
    store = LmdbStore(
        folder, source=FixedSource(), capacity_bytes=20_000_000, reading=touched.append, suspects=suspects
    )
    assert store.put([[stored_anew]]) == [None]
    touched.clear()
    compact(store)
    assert len(set(touched)) > 1 and not {key.pack() for key in suspects} & set(touched)
    assert store.stats().unreadable == 0 and store.stats().shards == 9
    assert store.read([key_of(deadly)]) == [Absent()]
    assert store.read([key_of(stored_anew)]) == [Found(stored_anew.record.pack(), stored_anew.shard)]
    assert store.stats().findings == 2, "the coordinator is told all the same"
    store.close()
    store = open_store(folder)
    assert store.stats().shards == 9 and store.put([[deadly]]) == [None]
    store.close()


def test_a_copy_that_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = open_store(folder)
    fill_and_erase(store)
    store.close()
    (folder / COPY_FOLDER).mkdir()
    (folder / COPY_FOLDER / "data.mdb").write_bytes(b"half")
    store = open_store(folder)
    assert not (folder / COPY_FOLDER).exists()
    require_whole(store)
    store.close()


def test_it_is_worth_it_only_when_much_is_free() -> None:
    much = COMPACT_FREE_BYTES_MIN
    assert is_worth_it(StoreRoom(2 * much, much))
    assert not is_worth_it(StoreRoom(2 * much, much - 1))
    assert not is_worth_it(StoreRoom(2 * much + 10, much))
    assert not is_worth_it(StoreRoom(0, 0))


async def test_the_node_compacts_while_its_writer_takes_puts(tmp_path: Path) -> None:
    writer = Writer(lambda: open_store(tmp_path / "store", 60_000_000))
    compactor = Compactor(writer, SYSTEM)
    try:
        await writer.run(fill_and_erase)
        before = compactor.room().file_bytes
        more = [made_put(number, sealed_bytes=SIZE) for number in range(2000, 2040)]
        running = asyncio.create_task(compactor.compact(1 << 40))
        for put in more:
            await writer.put([put])
        await running
        told = compactor.stands()
        assert not told.running and told.trouble == "" and told.ended_ms > 0
        assert told.file_bytes < before and compactor.per_cent == -1
        assert all(isinstance(found, Found) for found in writer.store.read([key_of(put) for put in more]))
        assert writer.failed is None
    finally:
        compactor.close()
        await writer.close()


async def test_a_node_that_stops_meanwhile_gives_the_copy_up(tmp_path: Path) -> None:
    writer = Writer(lambda: open_store(tmp_path / "store", 60_000_000))
    compactor = Compactor(writer, SYSTEM)
    await writer.run(fill_and_erase)
    running = asyncio.create_task(compactor.compact(1))
    while compactor.per_cent < 0:  # noqa: ASYNC110 - as a heartbeat would look
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    compactor.close()
    await writer.close()
    store = open_store(tmp_path / "store")
    require_whole(store)
    store.close()


PEN = Signer("coordinator", b"", key_id(public_key(COORDINATOR)), COORDINATOR, CLUSTER)
FORGER = generate_signing_key(b"somebody else calls himself so..."[:32])
FORGED = Signer("coordinator", b"", key_id(public_key(FORGER)), FORGER, CLUSTER)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(tmp_path / "store") as running:
        yield running


async def test_the_coordinator_may_ask_for_it_and_nobody_else(node: RunningNode) -> None:
    async def ask(start: bool, pen: Signer) -> Compacted:
        async with Transport() as transport:
            return await transport.call(
                "POST",
                node.node.url,
                "/v1/compact",
                Compact(start=start),
                answer=Compacted,
                signer=pen,
                receiver=node.node.id,
                reads=True,
            )

    await node.writer.run(fill_and_erase)
    with pytest.raises(Refused):
        await ask(True, FORGED)
    before = await ask(False, PEN)
    assert not before.running and before.free_bytes > before.file_bytes / 2
    assert (await ask(True, PEN)).running
    async with asyncio.timeout(30):
        while (told := await ask(False, PEN)).running:  # noqa: ASYNC110 - asked for over HTTP
            await asyncio.sleep(0.01)
    assert told.given_back_bytes == before.file_bytes - told.file_bytes > before.file_bytes / 2
