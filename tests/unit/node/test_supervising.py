"""A node killed by its own disk is started again, and leaves alone what killed it. Real SIGBUS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.cluster.processes import start_time, wait_until
from holdfast.node.limits import CRASH_RESTARTS_MAX, CRASH_WINDOW_S
from holdfast.node.store import ShardKey
from holdfast.node.store_folder import damage_of, suspects_of
from holdfast.node.supervising import may_restart

HEAD = """
import json, os, shutil, signal, sys, threading, time
from pathlib import Path
from holdfast.node.supervising import supervised
from holdfast.protocol.clock import SYSTEM
folder = Path(sys.argv[1])
told = folder / "told"
def tell(**values):
    with told.open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), **values}) + "\\n")
parent = supervised(folder, SYSTEM)
from support.shards import key_of, made_put
from holdfast.node.opening import StoreOpener
from holdfast.node.store import Damaged, Found, Absent
puts = [made_put(number, sealed_bytes=200_000) for number in range(20)]
opener = StoreOpener(folder, SYSTEM, known=None, capacity_bytes=50_000_000, replace_damaged=False)
starts = len(told.read_text().splitlines()) if told.exists() else 0
data = folder / "store" / "data.mdb"
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    """Starts a supervised process with this code in it."""

    def started(code: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        return subprocess.Popen(
            [sys.executable, "-c", HEAD + code, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    return started


def told(folder: Path) -> list[dict[str, object]]:
    try:
        return [json.loads(line) for line in (folder / "told").read_text().splitlines()]
    except FileNotFoundError:
        return []


DIES_OF_ONE_SHARD = """
bad, good = puts[7], puts[8]
if starts == 0:
    store = opener()
    store.put([puts])
    shutil.copy(data, folder / "copy")
    at = data.read_bytes().find(bytes(bad.shard))
    assert at > 0
    tell(start=1)
    os.truncate(data, at // 4096 * 4096)  # from here on the disk has nothing: whoever reads it gets SIGBUS
    reader = threading.Thread(target=lambda: store.read([key_of(bad)]))
    reader.start()
    reader.join()
    tell(survived=True)
    sys.exit(1)
if starts == 1:
    shutil.copy(folder / "copy", data)  # the rest of the disk is well
store = opener()
kinds = [type(outcome).__name__ for outcome in store.read([key_of(bad), key_of(good)])]
findings = [key.pack().hex() for key in store.findings(10)]
scanned = len(store.scan(b"", b"\\xff" * 90, 100))
replaced = store.put([[bad]])
after = [type(outcome).__name__ for outcome in store.read([key_of(bad), key_of(good)])]
erased = [store.mark(1, [key_of(bad)], 0), store.erase_due(0, 10), store.stats().shards]
tell(kinds=kinds, findings=findings, bad=key_of(bad).pack().hex(), scanned=scanned, after=after,
     erased=erased, replaced=[str(outcome) for outcome in replaced], parent=parent)
store.close()
sys.exit(7)
"""


def test_a_shard_that_kills_its_reader_is_left_alone_reported_and_can_be_stored_again(
    run: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = run(DIES_OF_ONE_SHARD)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 7, errors
    first, second = told(tmp_path)
    assert first["pid"] != second["pid"] and second["parent"] == process.pid
    assert "SIGBUS" in errors and str(second["bad"]) in errors
    assert second["kinds"] == ["Damaged", "Found"], "it is not read again, and nothing else is suspected"
    assert second["findings"] == [second["bad"]]
    assert second["scanned"] == 19
    assert second["replaced"] == ["None"] and second["after"] == ["Found", "Found"]
    assert second["erased"] == [[1, 0], 1, 19], "and its new place is emptied like any other"
    assert suspects_of(tmp_path / "store") == []


def test_a_store_that_kills_again_and_again_is_declared_damaged(
    run: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = run(
        "try:\n    opener()\nexcept Exception as error:\n    print(error)\n    sys.exit(23)\n"
        "tell(start=1)\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 23, errors
    assert len(told(tmp_path)) == CRASH_RESTARTS_MAX + 1
    assert "killed the node 6 times" in out and "--replace-damaged-store" in out
    assert damage_of(tmp_path / "store")


def test_every_other_end_is_the_parent_s_end_too(
    run: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    for code, expected in (
        ("sys.exit(0)", 0),
        ("sys.exit(11)", 11),
        ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ):
        process = run(f"tell(start=1)\n{code}\n")
        process.communicate(timeout=60)
        assert process.returncode == expected
    assert len(told(tmp_path)) == 3, "none of these was started again"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(
    run: Callable[[str], subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    process = run(
        f"signal.signal({int(number)}, lambda *_: (tell(end=1), os._exit(5)))\n"
        "tell(start=1)\nwhile True:\n    time.sleep(60)\n"
    )
    assert wait_until(lambda: bool(told(tmp_path)), 30)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 5
    assert told(tmp_path)[-1] == {"pid": told(tmp_path)[0]["pid"], "end": 1}


def test_a_parent_that_is_killed_takes_its_child_with_it(
    run: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = run("tell(start=1)\nwhile True:\n    time.sleep(60)\n")
    assert wait_until(lambda: bool(told(tmp_path)), 30)
    child = int(str(told(tmp_path)[0]["pid"]))
    assert child != process.pid and start_time(child) is not None
    process.kill()
    process.communicate(timeout=30)
    assert wait_until(lambda: start_time(child) is None, 10)


def test_restarts_are_bounded_in_an_hour_and_old_crashes_are_forgotten() -> None:
    crashes = [float(number) for number in range(CRASH_RESTARTS_MAX)]
    assert may_restart(crashes, crashes[-1])
    assert not may_restart([*crashes, 10.0], 10.0)
    assert may_restart([*crashes, CRASH_WINDOW_S + 10], CRASH_WINDOW_S + 10)


def test_a_list_of_suspects_that_was_cut_off_names_what_it_still_can(tmp_path: Path) -> None:
    key = ShardKey.unpack(bytes(range(89)))
    (tmp_path / "suspects").write_text(f"{key.pack().hex()}\n{key.pack().hex()[:50]}\nnonsense\n")
    assert suspects_of(tmp_path) == [key]
