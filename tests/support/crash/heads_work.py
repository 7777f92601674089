"""A witness's store of heads at work: commands that follow from a seed, and all that it keeps after each.

python -m support.crash.heads_work ROOT LOG SEED COUNT
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import lmdb

from holdfast.node.store_lmdb_heads import HeadStore
from holdfast.protocol.codec import encode
from holdfast.protocol.ids import AccountId, NodeId, PublicKey, SnapshotId
from holdfast.protocol.messages.cluster import ClusterMap, MapNode
from holdfast.protocol.messages.witness import KeptAccount, KeptHead, KeptMap
from holdfast.protocol.signing import Signed
from holdfast.protocol.stripes import digest_of

__all__ = ["describe", "work"]

_ACCOUNTS = [AccountId(bytes([number]) * AccountId.SIZE) for number in (1, 2, 3)]


def describe(store: HeadStore) -> str:
    """A digest of everything that the store keeps."""
    kept = [
        (store.facts(account), store.heads(account, 0), store.run_from(account), store.records(account, b""))
        for account in _ACCOUNTS
    ]
    return digest_of(repr((store.map(), store.map_digest, kept)).encode()).hex()


def _signed(random: Random, size: int) -> Signed:
    return Signed(random.randbytes(size), random.randbytes(64))


def _node(random: Random) -> MapNode:
    return MapNode(NodeId(random.randbytes(16)), PublicKey(random.randbytes(32)), "http://127.0.0.1:1", "")


def _command(store: HeadStore, random: Random, number: int) -> Callable[[], object]:
    account = random.choice(_ACCOUNTS)
    if random.random() < 0.15:
        listed = ClusterMap(1, 1, number, [_node(random) for _ in range(130)], [])
        kept = KeptMap(1, Signed(encode(listed), random.randbytes(64)), _signed(random, 100))
        return lambda: store.keep_map(kept, listed)
    facts = KeptAccount(1, _signed(random, 700), _signed(random, 100)) if random.random() < 0.3 else None
    records = [
        (SnapshotId(random.randbytes(32)), random.randbytes(random.choice([60, 900, 20_000])))
        for _ in range(random.randint(0, 3))
    ]
    head = (number, KeptHead(1, _signed(random, 400), random.randbytes(32 * random.randint(1, 60))))
    return lambda: store.keep(account, facts=facts, head=head, run_from=1, records=records)


def work(root: Path, note: Callable[[str, int, str], None], random: Random, count: int) -> None:
    """So many commands, each told before and after; now and then it is closed and opened again."""
    store = HeadStore(root / "heads")
    note("done", 0, describe(store))
    for number in range(1, count + 1):
        if number % 15 == 0:
            store.close()
            store = HeadStore(root / "heads")
        command = _command(store, random, number)
        note("begin", number, "")
        command()
        note("done", number, describe(store))
    store.close()


def main() -> None:
    """The recorded process."""
    from support.crash.recording import Recording

    if os.environ.get("CARELESS"):
        real = lmdb.open
        lmdb.open = lambda *values, **options: real(*values, **options, sync=False)
    root, log, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    work(root, Recording(root, log).note, Random(seed), count)


if __name__ == "__main__":
    main()
