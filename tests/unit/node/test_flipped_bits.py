"""Random bits flipped anywhere in a store's data file: refused, damaged or dead, but never wrong bytes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.shards import key_of, made_put

from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.clock import FixedSource

COUNT = 150
LOOK = """
import os, resource, shutil, sys
from pathlib import Path
from support.shards import key_of, made_put
from holdfast.node.store import Absent, Damaged, Found, StoreDamaged
from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import Conflict, HoldfastError, IntegrityFailure, StoreFailed, WrongDirectory
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
puts = {key_of(put): put for number in range(COUNT)
        for put in [made_put(number, sealed_bytes=(9_000, 90_000)[number % 2])]}
def look(folder):
    '''Exit code: 0 every shard verified or found, 1 refused at open, 2 declared damaged, 99 wrong bytes.'''
    try:
        store = LmdbStore(folder, source=FixedSource(), capacity_bytes=50_000_000)
    except (IntegrityFailure, WrongDirectory):
        return 1
    try:
        listed, after = [], b""
        while portion := store.scan(after, b"\\xff" * 90, 64):
            listed += portion
            after = portion[-1].pack()
        found = dict(zip(listed, store.read(listed)))
        for key, outcome in found.items():
            if isinstance(outcome, Found):
                if key not in puts or outcome != Found(puts[key].record.pack(), puts[key].shard):
                    return 99
        store.quarantine([key for key, outcome in found.items() if isinstance(outcome, Damaged)])
        if len(found) != store.stats().shards + store.stats().quarantined:
            return 2  # what a scrub says when its walk does not meet all that is counted
        known = set(store.findings(10_000))
        for key, outcome in zip(puts, store.read(list(puts))):
            if isinstance(outcome, Found) and outcome != Found(puts[key].record.pack(), puts[key].shard):
                return 99
            if not isinstance(outcome, Found) and key not in known:
                return 98
        for (key, put), outcome in zip(puts.items(), store.put([[put] for put in puts.values()])):
            if outcome is None and store.read([key]) != [Found(put.record.pack(), put.shard)]:
                return 97
            if outcome is not None:
                return 96
    except StoreFailed:
        return 2
    return 0
for folder in map(Path, sys.argv[1:]):
    child = os.fork()
    if child == 0:
        code = 95
        try:
            code = look(folder)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The data file of a store with shards in pages of their own and among others."""
    folder = tmp_path_factory.mktemp("whole")
    store = LmdbStore(folder, source=FixedSource(), capacity_bytes=50_000_000)
    for first in range(0, COUNT, 30):
        puts = [
            made_put(number, sealed_bytes=(9_000, 90_000)[number % 2]) for number in range(first, first + 30)
        ]
        assert store.put([puts]) == [None]
    assert store.mark(1, [key_of(made_put(999))], 0) == (0, 1)
    store.close()
    return (folder / "data.mdb").read_bytes()


def tree_pages(raw: bytes) -> list[int]:
    """The pages that hold LMDB's own trees: neither shards' bytes nor empty. Flags at offset 10 (mdb.c)."""
    pages = range(0, len(raw), 4096)
    return [at for at in pages if int.from_bytes(raw[at + 10 : at + 12], "little") in (0x01, 0x02, 0x08)]


@pytest.mark.parametrize(
    ("where", "flips"), [("anywhere", 1000), ("anywhere", 50), ("in the tree", 1), ("in the tree", 40)]
)
def test_flipped_bits_never_give_wrong_bytes(whole: bytes, tmp_path: Path, where: str, flips: int) -> None:
    folders = []
    pages = tree_pages(whole)
    assert len(pages) > 5
    for seed in range(40):
        chance, raw = random.Random(f"{where}/{flips}/{seed}"), bytearray(whole)
        for _ in range(flips):
            at = chance.randrange(len(raw))
            if where == "in the tree":
                at = chance.choice(pages) + chance.randrange(4096)
            raw[at] ^= 1 << chance.randrange(8)
        folder = tmp_path / str(seed)
        folder.mkdir()
        (folder / "data.mdb").write_bytes(raw)
        folders.append(str(folder))
    done = subprocess.run(
        [sys.executable, "-c", LOOK.replace("COUNT", str(COUNT)), *folders],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes = Counter(int(line) for line in done.stdout.split())
    killed = sum(count for code, count in outcomes.items() if code < 0)
    # Dead is what the supervisor is for; anything else that is not foreseen would be a wrong answer.
    assert outcomes[0] + outcomes[1] + outcomes[2] + killed == len(folders), json.dumps(outcomes)
    assert killed < len(folders)
