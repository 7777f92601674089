"""Shards of made-up stripes, and a shard store that is a dict: the model of the contract suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from holdfast.node.limits import QUARANTINE_ENTRIES_MAX
from holdfast.node.store import (
    Absent,
    Damaged,
    Found,
    Put,
    Quarantined,
    ReadOutcome,
    ShardKey,
    StoreDamaged,
    StoreRoom,
    StoreStats,
)
from holdfast.node.store_quarantine import quarantine_bytes_max
from holdfast.protocol import erasure
from holdfast.protocol.errors import Conflict, HoldfastError, IntegrityFailure, NoRoom, StoreFailed
from holdfast.protocol.ids import AccountId, ChunkId, StoreId, UploadId
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of

PROFILE = Profile(4, 2)
ACCOUNT = AccountId(b"a" * 32)


def made_put(
    number: int,
    *,
    slot: int = 0,
    group: int = 1,
    generation: int = 1,
    sealed_bytes: int = 400,
    account: AccountId = ACCOUNT,
    variant: int = 0,
) -> Put:
    """One shard of a stripe whose content follows from its numbers; ``variant`` changes the bytes alone."""
    content = digest_of(b"%d/%d" % (number, variant)) * -(-sealed_bytes // 32)
    shards = erasure.encode(PROFILE, content[:sealed_bytes])
    digests = b"".join(digest_of(shard) for shard in shards)
    record = ShardRecord(
        account,
        ChunkId(digest_of(b"chunk %d" % number)),
        UploadId(generation.to_bytes(16, "big")),
        group,
        slot,
        StripeHeader(PROFILE, sealed_bytes, digests),
    )
    return Put(record, bytes(shards[slot]))


def key_of(put: Put) -> ShardKey:
    return ShardKey.of(put.record)


def flip(stored: bytes, at: int = -1) -> bytes:
    """Bytes with one bit flipped."""
    broken = bytearray(stored)
    broken[at] ^= 1
    return bytes(broken)


def _is_damaged(key: bytes, stored: bytes) -> bool:
    try:
        record, shard = ShardRecord.unpack(stored)
        record.verify(shard)
    except IntegrityFailure:
        return True
    return ShardKey.of(record).pack() != key


@dataclass
class ModelStore:
    """What a shard store promises, in a dict. ``durable`` is what a reopened store starts from."""

    capacity_bytes: int = 10**9
    id: StoreId = field(default_factory=lambda: StoreId(b"m" * 16))
    shards: dict[bytes, bytes] = field(default_factory=dict)
    marks: dict[bytes, int] = field(default_factory=dict)
    counter: int = 0
    order: int = 0
    running_ms: int = 0
    highest_term: int = 0
    highest_pulse: int = 0
    damaged: int = 0
    kept: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    kept_last: int = 0
    dropped: int = 0
    noted: set[bytes] = field(default_factory=set)
    scrub: bytes = b""
    changes: int = 0
    fail_next_commit: bool = False
    failed: bool = False
    compaction: ModelCompaction | None = None

    def _commit(self, change: Callable[[], None]) -> None:
        if self.failed:
            raise StoreFailed("the model stopped after a failed commit")
        if self.fail_next_commit:
            self.failed, self.fail_next_commit = True, False
            raise StoreFailed("the model could not make a commit durable")
        change()
        self.counter += 1

    def put(self, batches: Sequence[Sequence[Put]]) -> list[HoldfastError | None]:
        """See ShardStore.put."""
        shards, marks = dict(self.shards), dict(self.marks)
        damaged: dict[bytes, bytes] = {}
        outcomes = [self._put_batch(batch, shards, marks, damaged) for batch in batches]

        def change() -> None:
            self.shards, self.marks = shards, marks
            for key, stored in damaged.items():
                self._keep(key, stored)

        self._commit(change)
        return outcomes

    def _put_batch(
        self,
        batch: Sequence[Put],
        shards: dict[bytes, bytes],
        marks: dict[bytes, int],
        damaged: dict[bytes, bytes],
    ) -> HoldfastError | None:
        fresh: dict[bytes, bytes] = {}
        replaced: dict[bytes, bytes] = {}
        unmarked = []
        for put in batch:
            key = key_of(put).pack()
            value = put.record.pack() + bytes(put.shard)
            there = shards.get(key)
            if there is None:
                fresh[key] = value
            elif _is_damaged(key, there):
                fresh[key], replaced[key] = value, there
            elif there != value:
                return Conflict("other bytes")
            else:
                unmarked.append(key)
        size = sum(map(len, fresh.values())) - sum(map(len, replaced.values()))
        if fresh and sum(map(len, shards.values())) + size > self.capacity_bytes:
            return NoRoom("full")
        for key in (*unmarked, *replaced):
            marks.pop(key, None)
        shards.update(fresh)
        damaged.update(replaced)
        self.changes += 2 * len(fresh)
        return None

    def _keep(self, key: bytes, stored: bytes) -> None:
        most = quarantine_bytes_max(self.capacity_bytes)
        if len(stored) > most:
            self.dropped += 1
            return
        while len(self.kept) >= QUARANTINE_ENTRIES_MAX or self._kept_bytes() + len(stored) > most:
            del self.kept[min(self.kept)]
            self.dropped += 1
        self.kept_last += 1
        self.kept[self.kept_last] = (key, stored)

    def _kept_bytes(self) -> int:
        return sum(len(stored) for _, stored in self.kept.values())

    def quarantine(self, keys: Sequence[ShardKey]) -> int:
        """See ShardStore.quarantine."""
        packed = [key.pack() for key in dict.fromkeys(keys)]
        bad = [key for key in packed if key in self.shards and _is_damaged(key, self.shards[key])]

        def change() -> None:
            for key in bad:
                self.noted.add(key)
                self.marks.pop(key, None)
                self._keep(key, self.shards.pop(key))

        self._commit(change)
        self.changes += 2 * len(bad)
        return len(bad)

    def quarantined(self, after: int, most: int) -> list[Quarantined]:
        """See ShardStore.quarantined."""
        entries = [
            Quarantined(number, ShardKey.unpack(key), 0, len(stored))
            for number, (key, stored) in sorted(self.kept.items())
            if number > after
        ]
        return entries[:most]

    def findings(self, most: int) -> list[ShardKey]:
        """See ShardStore.findings."""
        return [ShardKey.unpack(key) for key in sorted(self.noted)][:most]

    def declare_damaged(self, why: str) -> NoReturn:
        """See ShardStore.declare_damaged."""
        self.failed = True
        raise StoreDamaged("the model is damaged", why=why)

    def findings_told(self, keys: Sequence[ShardKey]) -> None:
        """See ShardStore.findings_told."""
        self._commit(lambda: self.noted.difference_update(key.pack() for key in keys))

    def scrub_state(self) -> bytes:
        """See ShardStore.scrub_state."""
        return self.scrub

    def save_scrub_state(self, state: bytes) -> None:
        """See ShardStore.save_scrub_state."""
        self._commit(lambda: setattr(self, "scrub", state))

    def read(self, keys: Sequence[ShardKey]) -> list[ReadOutcome]:
        """See ShardStore.read."""
        outcomes: list[ReadOutcome] = []
        for key in keys:
            stored = self.shards.get(key.pack())
            if stored is None:
                outcomes.append(Absent())
                continue
            try:
                record, shard = ShardRecord.unpack(stored)
                record.verify(shard)
            except IntegrityFailure as error:
                self.damaged += 1
                outcomes.append(Damaged(error.what))
            else:
                outcomes.append(Found(bytes(stored[: -len(shard)]), bytes(shard)))
        return outcomes

    def scan(self, after: bytes, until: bytes, most: int) -> list[ShardKey]:
        """See ShardStore.scan."""
        return [ShardKey.unpack(key) for key in sorted(self.shards) if after < key < until][:most]

    def unmarked(self, after: bytes, until: bytes, most: int) -> tuple[list[bytes], bytes]:
        """See ShardStore.unmarked."""
        looked_at = [key for key in sorted(self.shards) if after < key < until][:most]
        here = [key for key in looked_at if key not in self.marks]
        return here, looked_at[-1] if len(looked_at) == most else b""

    def headers(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ShardStore.headers."""
        found: list[bytes | None] = []
        for key in keys:
            try:
                record, _ = ShardRecord.unpack(self.shards.get(key, b""))
            except IntegrityFailure:
                found.append(None)
            else:
                found.append(record.pack() if ShardKey.of(record).pack() == key else None)
        return found

    def mark(self, number: int, keys: Sequence[ShardKey], due_ms: int) -> tuple[int, int]:
        """See ShardStore.mark."""
        here = [key.pack() for key in keys if key.pack() in self.shards]

        def change() -> None:
            if number > self.order:
                self.order = number
                for key in here:
                    self.marks.setdefault(key, due_ms)

        self._commit(change)
        return len(here), len(keys) - len(here)

    def keep(self, keys: Sequence[ShardKey]) -> list[bool]:
        """See ShardStore.keep."""
        packed = [key.pack() for key in keys]
        if marked := [key for key in packed if key in self.marks]:
            self._commit(lambda: [self.marks.pop(key, None) for key in marked] and None)
        return [key in self.shards for key in packed]

    def erase_due(self, now_ms: int, most: int) -> int:
        """See ShardStore.erase_due."""
        due = sorted(key for key, at in self.marks.items() if at <= now_ms)[:most]
        if not due:
            return 0

        def change() -> None:
            for key in due:
                del self.marks[key]
                self.changes += 2 * (self.shards.pop(key, None) is not None)

        self._commit(change)
        return len(due)

    def save_running(self, running_ms: int) -> None:
        """See ShardStore.save_running."""
        self._commit(lambda: setattr(self, "running_ms", running_ms))

    def term(self) -> int:
        """See ShardStore.term."""
        return self.highest_term

    def raise_term(self, term: int) -> None:
        """See ShardStore.raise_term."""
        if term > self.highest_term:
            self._commit(lambda: setattr(self, "highest_term", term))

    def pulse(self) -> int:
        """See ShardStore.pulse."""
        return self.highest_pulse

    def raise_pulse(self, pulse: int) -> None:
        """See ShardStore.raise_pulse."""
        if pulse > self.highest_pulse:
            self._commit(lambda: setattr(self, "highest_pulse", pulse))

    def stats(self) -> StoreStats:
        """See ShardStore.stats."""
        used = sum(map(len, self.shards.values()))
        return StoreStats(
            len(self.shards),
            used,
            self.counter,
            len(self.marks),
            self.damaged,
            len(self.kept),
            self._kept_bytes(),
            self.dropped,
            len(self.noted),
            self.changes,
            order=self.order,
        )

    def room(self) -> StoreRoom:
        """See ShardStore.room. Nothing is ever free in a dict."""
        used = sum(map(len, self.shards.values()))
        return StoreRoom(used, 0)

    def compact(self) -> ModelCompaction:
        """See ShardStore.compact."""
        if self.compaction is not None:
            raise Conflict("the model is being compacted already")
        if self.failed:
            raise StoreFailed("the model stopped after a failed commit")
        self.compaction = ModelCompaction(self)
        return self.compaction

    def close(self) -> None:
        """See ShardStore.close."""


@dataclass
class ModelCompaction:
    """There is nothing to copy."""

    store: ModelStore
    copied_bytes: int = 0
    total_bytes: int = 0
    is_over: bool = False

    def step(self, most_bytes: int) -> bool:
        """See Compaction.step."""
        if self.is_over:
            raise StoreFailed("the model's copy was given up")
        return True

    def finish(self) -> int:
        """See Compaction.finish."""
        self.step(1)
        self.abandon()
        return 0

    def abandon(self) -> None:
        """See Compaction.abandon."""
        if not self.is_over:
            self.is_over, self.store.compaction = True, None
