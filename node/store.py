"""What a shard store does, whoever keeps the bytes.

The LMDB store and the model in the tests pass the same contract suite. All
methods block; one thread writes, others read. Keys sort by group, slot,
account, chunk, generation, so that whatever concerns one slot is a range.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn, Protocol

from holdfast.protocol.errors import HoldfastError, StoreFailed
from holdfast.protocol.ids import AccountId, ChunkId, StoreId, UploadId
from holdfast.protocol.stripes import ShardRecord

__all__ = [
    "Absent",
    "Compaction",
    "Damaged",
    "Found",
    "Mark",
    "Put",
    "Quarantined",
    "ReadOutcome",
    "ShardKey",
    "ShardStore",
    "StoreDamaged",
    "StoreRoom",
    "StoreStats",
]

_KEY: Final = struct.Struct(">QB32s32s16s")


@dataclass(frozen=True, slots=True)
class ShardKey:
    """Names one shard on one node."""

    group: int
    slot: int
    account: AccountId
    chunk: ChunkId
    generation: UploadId

    @staticmethod
    def range_of(group: int, slot: int | None = None) -> tuple[bytes, bytes]:
        """(after, until) for a scan over all shards of a group, or of one slot of it."""
        if slot is None:
            return group.to_bytes(8, "big"), (group + 1).to_bytes(8, "big")
        return group.to_bytes(8, "big") + bytes([slot]), (group * 256 + slot + 1).to_bytes(9, "big")

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
    """One verified shard to store: the caller has checked its digest.

    Attributes:
        stored: the packed record and the shard in one piece of memory, where they lie so already.
    """

    record: ShardRecord
    shard: bytes | memoryview
    stored: bytearray | None = field(default=None, compare=False, repr=False)

    @classmethod
    def in_place(cls, record: ShardRecord) -> Put:
        """Room for a shard, behind its packed record: see :meth:`room`."""
        packed = record.pack()
        stored = bytearray(len(packed) + record.stripe.shard_bytes)
        stored[: len(packed)] = packed
        return cls(record, memoryview(stored)[len(packed) :], stored)

    def room(self) -> memoryview:
        """Where whoever receives the shard of a put that was made in place puts it."""
        assert isinstance(self.shard, memoryview)
        return self.shard

    def whole(self) -> bytes | bytearray:
        """The packed record and the shard: what a store keeps."""
        return self.stored if self.stored is not None else b"".join((self.record.pack(), self.shard))


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
class Quarantined:
    """A damaged shard kept aside: what was stored under ``key``, whole, is ``stored_bytes`` long.

    ``number`` grows with every entry; ``at_ms`` is the wall time it was put aside.
    """

    number: int
    key: ShardKey
    at_ms: int
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counts as of the last commit.

    Attributes:
        counter: durable commits since the store was made.
        damaged: reads since it was opened that found a damaged shard.
        quarantined, quarantined_bytes: damaged shards kept aside.
        dropped: entries of the quarantine that made room for newer ones.
        findings: shards found bad that the coordinator has not taken note of yet.
        changes: rises by one before and by one after the commit of each shard that comes or goes, from 0
            when the store was opened: while it stays the same, so does what is in the store.
        unreadable: shards that must not be touched.
        order: the number of the last deletion order taken.
    """

    shards: int
    used_bytes: int
    counter: int
    marked: int
    damaged: int
    quarantined: int = 0
    quarantined_bytes: int = 0
    dropped: int = 0
    findings: int = 0
    changes: int = 0
    unreadable: int = 0
    order: int = 0


@dataclass(frozen=True, slots=True)
class StoreRoom:
    """How long the data file is, and how much of it could be given back to the disk."""

    file_bytes: int
    free_bytes: int


class Compaction(Protocol):
    """A store's file being copied without what is free in it. See ShardStore.compact."""

    @property
    def copied_bytes(self) -> int:
        """So far."""
        ...

    @property
    def total_bytes(self) -> int:
        """About how many there are to copy."""
        ...

    def step(self, most_bytes: int) -> bool:
        """Copy about so many bytes on, in any thread; True: it is time to finish."""
        ...

    def finish(self) -> int:
        """In the thread that writes: the copy takes the file's place; gives the bytes given back."""
        ...

    def abandon(self) -> None:
        """Give up; nothing has changed."""
        ...


class StoreDamaged(StoreFailed):
    """The store's own pages are damaged: opening it again will not help, only peers will."""


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

        Gives, per batch, None or why it was not stored: Conflict (other bytes are there) or NoRoom.
        Equal bytes again are fine; a damaged shard that is met is put into quarantine and replaced,
        all in the same transaction.

        Raises:
            StoreFailed: the commit failed; nothing of it counts, and the store must be reopened.
        """
        ...

    def read(self, keys: Sequence[ShardKey]) -> list[ReadOutcome]:
        """Each shard, verified against its own record."""
        ...

    def scan(self, after: bytes, until: bytes, most: int) -> list[ShardKey]:
        """Up to ``most`` keys in order, behind the packed key ``after`` and before ``until``."""
        ...

    def unmarked(self, after: bytes, until: bytes, most: int) -> tuple[list[bytes], bytes]:
        """Packed keys of what is not marked to be erased, in order, between the packed ones given.

        Looks at ``most`` keys, and gives with them where to go on behind; empty: at the end.
        """
        ...

    def headers(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The record header under each packed key; None where there is none that holds."""
        ...

    def mark(self, number: int, keys: Sequence[ShardKey], due_ms: int) -> tuple[int, int]:
        """Note a deletion order: (marked, absent). Orders at or below the last number change nothing."""
        ...

    def keep(self, keys: Sequence[ShardKey]) -> list[bool]:
        """Clear the marks of shards that are needed after all; for each, is there one?

        Durable before it returns. Afterwards only a new order can have those that are there erased.
        """
        ...

    def erase_due(self, now_ms: int, most: int) -> int:
        """Erase up to ``most`` marked shards whose time has come; gives how many."""
        ...

    def quarantine(self, keys: Sequence[ShardKey]) -> int:
        """Put aside those of these shards that are damaged now; gives how many.

        One durable transaction moves them, whole, out of the way, so that they can be stored again, and
        notes each as a finding. What is whole by now stays. What must not be touched (see ``suspects``
        of the LMDB store) cannot be moved and is noted alone. The oldest entries make room for new ones.
        """
        ...

    def quarantined(self, after: int, most: int) -> list[Quarantined]:
        """Up to ``most`` entries of the quarantine with numbers above ``after``, oldest first."""
        ...

    def findings(self, most: int) -> list[ShardKey]:
        """Up to ``most`` shards found bad that :meth:`findings_told` was not called for."""
        ...

    def findings_told(self, keys: Sequence[ShardKey]) -> None:
        """Forget findings: the coordinator has taken note."""
        ...

    def scrub_state(self) -> bytes:
        """What :meth:`save_scrub_state` kept last; empty in a new store."""
        ...

    def save_scrub_state(self, state: bytes) -> None:
        """Keep how far the scrub is, durably."""
        ...

    def declare_damaged(self, why: str) -> NoReturn:
        """Take nothing more, and do not open again: what is in it cannot be relied on as a whole.

        Raises:
            StoreDamaged: always.
        """
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

    def pulse(self) -> int:
        """The highest pulse of the catalogue heard of."""
        ...

    def raise_pulse(self, pulse: int) -> None:
        """Keep a higher pulse; a lower one changes nothing."""
        ...

    def stats(self) -> StoreStats:
        """Counts for heartbeats."""
        ...

    def room(self) -> StoreRoom:
        """How much compacting would give back."""
        ...

    def compact(self) -> Compaction:
        """Begin to copy the store; in the thread that writes. Everything goes on meanwhile.

        Raises:
            NoRoom: the disk has not enough room for a copy. Conflict: it is being copied already.
        """
        ...

    def close(self) -> None:
        """Let go of everything; nothing is lost that was acknowledged."""
        ...
