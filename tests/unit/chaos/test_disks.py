"""What chaos does to disks, seen by the real store; and a store looked at from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from support.shards import key_of, made_put

from holdfast.cluster.chaos.disks import (
    copy_store,
    cut_off,
    flip_pages,
    flip_values,
    put_back,
    swap_values,
    wipe,
)
from holdfast.cluster.chaos.lying import Liar
from holdfast.cluster.chaos.syscalls import SyscallFault, why_unavailable
from holdfast.node.store import Absent, Damaged, Found, ShardKey
from holdfast.node.store_lmdb import LmdbStore
from holdfast.node.store_lmdb_looking import look_at_store
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import HoldfastError, IntegrityFailure, NotFound

PUTS = [made_put(number, sealed_bytes=40_000) for number in range(40)]
KEYS = [key_of(put) for put in PUTS]


def opened(path: Path) -> LmdbStore:
    return LmdbStore(path, source=FixedSource(), capacity_bytes=50_000_000)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with 40 shards, closed."""
    made = opened(tmp_path / "store")
    assert made.put([PUTS]) == [None]
    made.close()
    return tmp_path / "store"


def damaged_in(path: Path, keys: Sequence[ShardKey] = KEYS) -> int:
    made = opened(path)
    try:
        return sum(isinstance(outcome, Damaged) for outcome in made.read(keys))
    finally:
        made.close()


def test_looking_finds_every_key_and_writes_nothing(store: Path) -> None:
    before = (store / "data.mdb").read_bytes()
    look = look_at_store(store, verify=True)
    assert look.shards == {key.pack() for key in KEYS}
    assert not look.damaged and not look.marked
    assert look.stripes[KEYS[3].pack()] == PUTS[3].record.stripe.stripe_digest
    assert (store / "data.mdb").read_bytes() == before


def test_looking_works_beside_a_running_store(store: Path) -> None:
    running = opened(store)
    code = (
        "import sys; from pathlib import Path; from holdfast.node.store_lmdb_looking import look_at_store\n"
        "print(len(look_at_store(Path(sys.argv[1])).shards))"
    )
    more = [made_put(100, sealed_bytes=40_000)]
    for wanted in (40, 41):
        told = subprocess.run(
            [sys.executable, "-c", code, str(store)], capture_output=True, text=True, timeout=60, check=True
        )
        assert int(told.stdout) == wanted
        running.put([more])
    running.close()


def test_flipped_values_are_damaged_for_the_store_and_for_who_looks(store: Path) -> None:
    assert flip_values(store, look_at_store(store).shards, 5, Random(1)) == 5
    assert len(look_at_store(store, verify=True).damaged) == 5
    assert damaged_in(store) == 5


def test_a_small_value_is_flipped_where_it_is_read_not_where_it_was_before(store: Path) -> None:
    """Small values lie in pages of the tree, of which the file keeps older ones."""
    running = opened(store)
    small = [made_put(number, sealed_bytes=600) for number in range(200, 212)]
    for put in small:
        running.put([[put]])
    running.close()
    keys = [key_of(put) for put in small]
    assert flip_values(store, {key.pack() for key in keys}, 6, Random(1)) == 6
    assert damaged_in(store, keys) == 6


def test_what_lies_behind_the_beginning_of_an_old_copy_is_left_alone(store: Path) -> None:
    """A page that was freed and taken again keeps the old copy's beginning in the page before it."""
    file, record = store / "data.mdb", PUTS[0].record.pack()
    with file.open("ab") as growing:
        growing.write(record + b"a page of the tree, by now" * 2000)
    before = file.read_bytes()
    live = look_at_store(store).shards
    assert flip_values(store, live, len(live), Random(1)) == len(live)
    assert file.read_bytes()[-50_000:] == before[-50_000:]


def test_values_that_changed_places_are_damaged_in_both(store: Path) -> None:
    assert swap_values(store, look_at_store(store).shards, 3, Random(1)) == 3
    assert len(look_at_store(store, verify=True).damaged) == 6
    assert damaged_in(store) == 6


def test_only_what_is_in_use_is_broken(store: Path) -> None:
    assert flip_values(store, frozenset(), 5, Random(1)) == 0
    assert damaged_in(store) == 0


def test_pages_of_the_tree_are_found_and_changed(store: Path) -> None:
    before = (store / "data.mdb").read_bytes()
    assert flip_pages(store, 2, Random(1)) == 2
    after = (store / "data.mdb").read_bytes()
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 2


def test_a_file_without_its_end_is_refused(store: Path) -> None:
    assert cut_off(store, 50.0) > 0
    with pytest.raises(IntegrityFailure):
        look_at_store(store)
    with pytest.raises(IntegrityFailure):
        opened(store)


def test_an_old_copy_has_what_was_there_then_and_an_empty_disk_nothing(store: Path, tmp_path: Path) -> None:
    copy_store(store, tmp_path / "copy")
    made = opened(store)
    made.put([[made_put(200)]])
    made.close()
    assert len(look_at_store(store).shards) == 41
    put_back(tmp_path / "copy", store)
    assert len(look_at_store(store).shards) == 40
    wipe(store)
    with pytest.raises(NotFound):
        look_at_store(store)


def test_a_liar_tells_what_its_file_says_and_the_truth_without_one(store: Path, tmp_path: Path) -> None:
    made = opened(store)
    true = made.read(KEYS[:5])
    made.close()
    file = tmp_path / "lies"
    liar = Liar(file)
    assert liar.answers(KEYS[:5], true) == true
    for how in ("wrong", "other", "old"):
        file.write_text(f"{how} 100\n")
        told = liar.answers(KEYS[:5], true)
        assert all(one != other for one, other in zip(told, true, strict=True))
        assert all(isinstance(outcome, Absent if how == "old" else Found) for outcome in told)
    assert Path(f"{file}.told").stat().st_size == 15
    file.write_text("wrong 0\n")
    assert liar.answers(KEYS[:5], true) == true
    file.unlink()
    assert liar.answers(KEYS[:5], true) == true


@pytest.fixture
def writer(tmp_path: Path) -> subprocess.Popen[str]:  # type: ignore[misc]
    """A process that syncs a file whenever it is told to, and says what came of it."""
    code = (
        "import os, sys\n"
        "handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "for line in sys.stdin:\n"
        "    try:\n        os.fdatasync(handle); print('ok', flush=True)\n"
        "    except OSError as error:\n        print(error.errno, flush=True)\n"
    )
    made = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "file")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield made
    made.kill()
    made.communicate()


def synced(writer: subprocess.Popen[str]) -> str:
    assert writer.stdin is not None and writer.stdout is not None
    writer.stdin.write("now\n")
    writer.stdin.flush()
    return writer.stdout.readline().strip()


def test_system_calls_fail_as_often_as_asked_and_then_no_more(
    writer: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert synced(writer) == "ok"
    if why_unavailable():
        with pytest.raises((HoldfastError, OSError)):
            SyscallFault([writer.pid], call="fdatasync", error="EIO", times=1, delay_ms=0, log=tmp_path / "t")
        return
    fault = SyscallFault(
        [writer.pid], call="fdatasync", error="EIO", times=2, delay_ms=0, log=tmp_path / "trace"
    )
    assert [synced(writer) for _ in range(3)] == ["5", "5", "ok"]
    assert fault.end() == 2
    assert synced(writer) == "ok"
    assert Path(f"/proc/{writer.pid}/status").read_text().count("TracerPid:\t0") == 1


def test_a_process_that_is_gone_cannot_be_tampered_with(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises((HoldfastError, OSError)):
        SyscallFault([gone.pid], call="fdatasync", error="EIO", times=1, delay_ms=0, log=tmp_path / "trace")
    with pytest.raises(ProcessLookupError):
        os.kill(gone.pid, signal.SIGCONT)
