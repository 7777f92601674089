"""How much is too much: orphans beyond their grace, repair beyond losses, files beyond what is in them."""

from __future__ import annotations

from pathlib import Path

from support.shards import key_of, made_put

from holdfast.cluster.chaos.allowances import Orphans, repair_bytes_most, store_bytes_most
from holdfast.cluster.chaos.limits import ORPHAN_GRACE_S
from holdfast.cluster.joining import UNNAMED, Shard
from holdfast.node.store import ShardKey
from holdfast.node.store_lmdb import LmdbStore
from holdfast.node.store_lmdb_looking import look_at_store
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.ids import AccountId, ChunkId, NodeId, UploadId

MIB = 1024 * 1024
NODE, UPLOAD = NodeId(b"n" * 16), UploadId(b"u" * 16)


def orphan(number: int, upload: UploadId = UPLOAD) -> Shard:
    return Shard(NODE, ShardKey(1, 0, AccountId(b"a" * 32), ChunkId(bytes([number]) * 32), upload), UNNAMED)


def test_an_orphan_is_overdue_when_it_lay_there_for_its_grace_without_a_break() -> None:
    orphans = Orphans()
    assert orphans.look([orphan(1), orphan(2)], {UPLOAD}, 100.0) == (2, [])
    assert orphans.look([orphan(2), orphan(3)], {UPLOAD}, 101.0) == (2, [])
    assert orphans.look([orphan(1), orphan(2)], {UPLOAD}, 99.9 + ORPHAN_GRACE_S) == (2, [])
    assert orphans.look([orphan(1), orphan(2)], {UPLOAD}, 100.0 + ORPHAN_GRACE_S) == (2, [orphan(2)])
    assert orphans.look([], {UPLOAD}, 200.0) == (0, [])


def test_what_an_upload_left_that_may_go_on_has_no_grace_that_is_known() -> None:
    orphans, open_upload = Orphans(), UploadId(b"o" * 16)
    for now_s in (0.0, 1000.0):
        assert orphans.look([orphan(1, open_upload)], {UPLOAD}, now_s) == (0, [])


def test_repair_may_read_twice_what_a_lost_node_can_have_held_and_what_was_written_without_it() -> None:
    stored = 100 * MIB
    assert repair_bytes_most(stored, times=2.0, disrupted=3, n=6) == 12 * stored
    assert repair_bytes_most(stored, times=2.0, disrupted=0, n=6) == 6 * stored
    assert repair_bytes_most(0, times=2.0, disrupted=1, n=6) == 8 * MIB


def test_a_store_that_was_emptied_takes_too_much_until_it_is_compacted(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "store", source=FixedSource(), capacity_bytes=100 * MIB)
    puts = [made_put(number, sealed_bytes=2_000_000) for number in range(24)]
    for put in puts:
        assert store.put([[put]]) == [None]
    store.mark(1, [key_of(put) for put in puts[2:]], 0)
    assert store.erase_due(1, 100) == 22
    before = look_at_store_closed(store, tmp_path)
    assert before[0] > store_bytes_most(before[1])
    store = LmdbStore(tmp_path / "store", source=FixedSource(), capacity_bytes=100 * MIB)
    store.compact().finish()
    file_bytes, pages_bytes = look_at_store_closed(store, tmp_path)
    assert pages_bytes == before[1] and file_bytes <= store_bytes_most(pages_bytes)


def look_at_store_closed(store: LmdbStore, folder: Path) -> tuple[int, int]:
    """(length of its file, pages of what is in it)"""
    store.close()
    look = look_at_store(folder / "store", verify=True)
    return look.file_bytes, look.pages_bytes
