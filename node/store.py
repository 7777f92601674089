"""What a shard store does, whoever keeps the bytes.

The LMDB store and the model in the tests pass the same contract suite. All
methods block; one thread writes, others read. Keys sort by group, slot,
account, chunk, generation, so that whatever concerns one slot is a range.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import AccountId, ChunkId, StoreId, UploadId
from holdfast.protocol.stripes import ShardRecord

__all__ = ["Absent", "Damaged", "Found", "Mark", "Put", "ReadOutcome", "ShardKey", "ShardStore", "StoreStats"]

_KEY: Final = struct.Struct(">QB32s32s16s")


@dataclass(frozen=True, slots=True)
class ShardKey:
    """Names one shard on one node."""

    group: int
    slot: int
    account: AccountId
    chunk: ChunkId
    generation: UploadId

    def pack(self) -> bytes:
        """89 bytes that sort as the fields do."""
        return _KEY.pack(self.group, self.slot, self.account, self.chunk, self.generation)

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> ShardKey:
        """The key of stored bytes."""
        group, slot, account, chunk, generation = _KEY.unpack(raw)
        return cls(group, slot, AccountId(account), ChunkId(chunk), UploadId(generation))

    @classmethod
    def of(cls, record: ShardRecord) -> ShardKey:
        """The key a record is stored under."""
        return cls(record.group, record.slot, record.account, record.chunk, record.generation)


@dataclass(frozen=True, slots=True)
class Put:
    """One verified shard to store: the caller has checked its digest."""

    record: ShardRecord
    shard: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Found:
    """A shard that was read and verified; ``header`` is its packed record."""

    header: bytes
    shard: bytes


@dataclass(frozen=True, slots=True)
class Damaged:
    """There is a record, but its bytes are not what was stored. Never handed out."""

    why: str


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such shard."""


ReadOutcome = Found | Damaged | Absent


@dataclass(frozen=True, slots=True)
class Mark:
    """A shard to erase once the store has been running until ``due_ms`` (its own running clock)."""

    key: ShardKey
    due_ms: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counts as of the last commit. ``counter``: durable commits since the store was made."""

    shards: int
    used_bytes: int
    counter: int
    marked: int
    damaged: int


class ShardStore(Protocol):
    """Durable shards. Raises StoreFailed from anything that writes once a commit went wrong."""

    @property
    def id(self) -> StoreId:
        """Made with the store, never again."""
        ...

    @property
    def capacity_bytes(self) -> int:
        """Bytes of records it accepts."""
        ...

    def put(self, batches: Sequence[Sequence[Put]]) -> list[HoldfastError | None]:
        """Store batches in one durable transaction; each batch whole or not at all.

        Gives, per batch, None or why it was not stored: Conflict (other bytes are there),
        NoRoom, IntegrityFailure (equal key, damaged bytes). Equal bytes again are fine.

        Raises:
            StoreFailed: the commit failed; nothing of it counts, and the store must be reopened.
        """
        ...

    def read(self, keys: Sequence[ShardKey]) -> list[ReadOutcome]:
        """Each shard, verified against its own record."""
        ...

    def mark(self, number: int, keys: Sequence[ShardKey], due_ms: int) -> tuple[int, int]:
        """Note a deletion order: (marked, absent). Orders at or below the last number change nothing."""
        ...

    def erase_due(self, now_ms: int, most: int) -> int:
        """Erase up to ``most`` marked shards whose time has come; gives how many."""
        ...

    def save_running(self, running_ms: int) -> None:
        """Make the running clock durable."""
        ...

    @property
    def running_ms(self) -> int:
        """Milliseconds the store had been running when last saved."""
        ...

    def term(self) -> int:
        """The highest coordinator term seen."""
        ...

    def raise_term(self, term: int) -> None:
        """Keep a higher term; a lower one changes nothing."""
        ...

    def stats(self) -> StoreStats:
        """Counts for heartbeats."""
        ...

    def close(self) -> None:
        """Let go of everything; nothing is lost that was acknowledged."""
        ...
