"""Shards of made-up stripes, and a shard store that is a dict: the model of the contract suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from holdfast.node.store import Absent, Damaged, Found, Put, ReadOutcome, ShardKey, StoreStats
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
    damaged: int = 0
    fail_next_commit: bool = False
    failed: bool = False

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
        outcomes = [self._put_batch(batch, shards, marks) for batch in batches]

        def change() -> None:
            self.shards, self.marks = shards, marks

        self._commit(change)
        return outcomes

    def _put_batch(
        self, batch: Sequence[Put], shards: dict[bytes, bytes], marks: dict[bytes, int]
    ) -> HoldfastError | None:
        fresh: dict[bytes, bytes] = {}
        unmarked = []
        for put in batch:
            key = key_of(put).pack()
            value = put.record.pack() + bytes(put.shard)
            there = shards.get(key)
            if there is None:
                fresh[key] = value
            elif there != value:
                header, _ = ShardRecord.unpack(there)
                for gone in unmarked:
                    marks.pop(gone, None)
                return IntegrityFailure("damaged") if header == put.record else Conflict("other bytes")
            else:
                unmarked.append(key)
        size = sum(map(len, fresh.values()))
        for key in unmarked:
            marks.pop(key, None)
        if fresh and sum(map(len, shards.values())) + size > self.capacity_bytes:
            return NoRoom("full")
        shards.update(fresh)
        return None

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

    def erase_due(self, now_ms: int, most: int) -> int:
        """See ShardStore.erase_due."""
        due = sorted(key for key, at in self.marks.items() if at <= now_ms)[:most]
        if not due:
            return 0

        def change() -> None:
            for key in due:
                del self.marks[key]
                self.shards.pop(key, None)

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

    def stats(self) -> StoreStats:
        """See ShardStore.stats."""
        used = sum(map(len, self.shards.values()))
        return StoreStats(len(self.shards), used, self.counter, len(self.marks), self.damaged)

    def close(self) -> None:
        """See ShardStore.close."""
