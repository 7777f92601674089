"""A node whose shards were replaced by forgeries that prove themselves: named, left, and no longer needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from holdfast.cluster import LocalCluster
from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of

COMMAND = [sys.executable, "-m", "holdfast.client.console"]
LIAR = 3


def forge(folder: Path) -> int:
    """Replace every shard in a stopped node's store by other bytes, with records that fit them."""
    store = LmdbStore(folder, source=SYSTEM)
    keys = store.scan(b"", b"\xff" * 90, 100_000)
    with store._env.begin(write=True) as txn:
        for key in keys:
            record, shard = ShardRecord.unpack(txn.get(key.pack(), db=store._shards))
            forged = bytes(byte ^ 0xFF for byte in shard)
            digests = bytearray(record.stripe.digests)
            digests[32 * record.slot : 32 * record.slot + 32] = digest_of(forged)
            stripe = StripeHeader(record.stripe.profile, record.stripe.sealed_bytes, bytes(digests))
            made = ShardRecord(
                record.account, record.chunk, record.generation, record.group, record.slot, stripe
            )
            txn.put(key.pack(), made.pack() + forged, db=store._shards)
    store.close()
    return len(keys)


def admin(cluster: LocalCluster, *arguments: object, code: int = 0) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*COMMAND, "admin", *map(str, arguments), "--operator-key", str(cluster.operator_key), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_node_with_forged_shards_is_named_left_and_trusted_again_only_by_the_operator(
    visitor: Any, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(8):
        (tree / f"{number}.raw").write_bytes(os.urandom(3_000_000))
    with LocalCluster(7, profile="4+2", folder=tmp_path / "cluster") as cluster:
        person = visitor("home", **cluster.env())
        person.run("init")
        person.run("backup", tree)
        cluster.stop(LIAR)
        assert forge(cluster.folder / f"node-{LIAR}" / "store") > 0
        cluster.start(LIAR)
        cluster.wait_healthy()
        (liar,) = [node for node, number in cluster.numbers().items() if number == LIAR]
        # Its own scrub finds nothing: what lies there proves itself.
        assert admin(cluster, "scrub", liar[:8], "--wait")[-1]["found"] == 0

        told = admin(cluster, "audit", "--chunks", 100)[-1]
        assert {false["node"] for false in told["known"]} == {liar}
        standing = {node["id"]: node["standing"] for node in admin(cluster, "nodes")[-1]["nodes"]}
        assert standing[liar] == "distrusted" and list(standing.values()).count("joined") == 6

        def is_left(status: Any) -> bool:
            (node,) = [node for node in status.nodes if node.id.hex() == liar]
            return node.slots == 0 and status.verdict == "safe"

        assert cluster.wait_until(is_left, 60), "the slots are held by others, whole"
        cluster.kill(LIAR)
        person.run("restore", f"latest:{tree}", "--target", tmp_path / "back", "--verify")
        for path in tree.rglob("*"):
            assert (tmp_path / "back" / path.relative_to(tree)).read_bytes() == path.read_bytes()

        cluster.start(LIAR)
        assert {node["standing"] for node in admin(cluster, "nodes")[-1]["nodes"] if node["id"] == liar} == {
            "distrusted"
        }
        admin(cluster, "undrain", liar[:8], code=1)
        admin(cluster, "trust", liar[:8])
        assert {node["standing"] for node in admin(cluster, "nodes")[-1]["nodes"]} == {"joined"}
