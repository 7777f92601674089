"""Is a stored record what was stored under its key? Pure looks at bytes."""

from __future__ import annotations

from collections.abc import Iterator

from holdfast.node.store import Put, ShardKey
from holdfast.protocol.errors import Conflict, IntegrityFailure
from holdfast.protocol.stripes import ShardRecord, digest_of

__all__ = ["compare", "names_in", "why_damaged"]


def compare(stored: bytes, put: Put) -> Conflict | IntegrityFailure | None:
    """None when the very same shard is there and whole; IntegrityFailure when what is there is damaged."""
    chunk = put.record.chunk
    try:
        record, shard = ShardRecord.unpack(stored)
    except IntegrityFailure as error:
        return error
    if ShardKey.of(record) != ShardKey.of(put.record):
        return IntegrityFailure("a record lies under another shard's key")
    if record != put.record:
        return Conflict(f"another shard of chunk {chunk.short} is stored under this upload and slot")
    if digest_of(shard) != record.digest:
        return IntegrityFailure(f"the stored shard of chunk {chunk.short} is damaged", chunk=chunk.hex())
    return None


def why_damaged(key: ShardKey, stored: bytes) -> str | None:
    """What is wrong with the record under a key; None when it is whole."""
    try:
        record, shard = ShardRecord.unpack(stored)
        if ShardKey.of(record) != key:
            return "a record lies under another shard's key"
        record.verify(shard)
    except IntegrityFailure as error:
        return error.what
    return None


def names_in(stored: bytes) -> Iterator[bytes]:
    """The packed key that a record itself names, if it still does: the one it was stored under."""
    try:
        record, _ = ShardRecord.unpack(stored)
    except IntegrityFailure:
        return
    yield ShardKey.of(record).pack()
