"""POST /v1/audit: the coordinator challenges this node to show what it vouched for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from holdfast.node.service.door import Door
from holdfast.node.store import Damaged, Found, ReadOutcome, ShardKey
from holdfast.node.writer import Writer
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.limits import AUDIT_COLUMNS_MAX, AUDIT_ENTRIES_MAX, NONCE_BYTES, STRIPE_SHARDS_MAX
from holdfast.protocol.messages.audit import Audit, AuditAnswer, Audited, AuditEntry, AuditResult
from holdfast.protocol.signing import Signed, sign

__all__ = ["AuditHandlers"]


class AuditHandlers:
    """See protocol.messages.audit.

    Args:
        pool: where shards are read and hashed.
        met_damaged: told, in the event loop, which damaged shards were met.
    """

    def __init__(
        self,
        door: Door,
        writer: Writer,
        pool: ThreadPoolExecutor,
        met_damaged: Callable[[list[ShardKey]], None],
    ) -> None:
        self._door = door
        self._writer = writer
        self._pool = pool
        self._met_damaged = met_damaged
        # One challenge at a time: it reads whole shards, and clients and repair come first.
        self._turn = asyncio.Lock()

    def routes(self, router: Routes) -> None:
        """Add the path."""
        router.add_post("/v1/audit", self.audit)

    async def audit(self, request: Request) -> Answer:
        """Each shard is read from the disk and verified, as for anybody; then its bytes are shown."""
        asked = decode(await self._door.coordinator(request), Audit)
        _check(asked)
        keys = [ShardKey(e.group, e.slot, e.account, e.chunk, e.generation) for e in asked.entries]
        async with self._turn:
            loop = asyncio.get_running_loop()
            results, damaged = await loop.run_in_executor(self._pool, self._show, asked.entries, keys)
        if damaged:
            self._met_damaged(damaged)
        identity = self._door.identity
        payload = encode(Audited(1, identity.node, asked.nonce, results))
        signature = sign(identity.key, "audited", identity.cluster, payload)
        return msgpack_answer(AuditAnswer(audited=Signed(payload, signature)))

    def _show(
        self, entries: list[AuditEntry], keys: list[ShardKey]
    ) -> tuple[list[AuditResult], list[ShardKey]]:
        """One shard in memory at a time; runs in a thread."""
        results: list[AuditResult] = []
        damaged: list[ShardKey] = []
        for entry, key in zip(entries, keys, strict=True):
            (outcome,) = self._writer.store.read([key])
            results.append(_shown(entry, outcome))
            if isinstance(outcome, Damaged):
                damaged.append(key)
        return results, damaged


def _check(asked: Audit) -> None:
    if len(asked.nonce) != NONCE_BYTES:
        raise BadRequest(f"a challenge has a nonce of {NONCE_BYTES} bytes")
    if not 1 <= len(asked.entries) <= AUDIT_ENTRIES_MAX:
        raise BadRequest(f"a challenge names 1 to {AUDIT_ENTRIES_MAX} shards")
    for entry in asked.entries:
        if entry.whole and len(asked.entries) > 1:
            raise BadRequest("a whole shard is asked for alone")
        if len(entry.columns) > AUDIT_COLUMNS_MAX or any(column < 0 for column in entry.columns):
            raise BadRequest(f"a challenge names at most {AUDIT_COLUMNS_MAX} places of a shard")
        if entry.group < 0 or not 0 <= entry.slot < STRIPE_SHARDS_MAX:
            raise BadRequest("a challenge names a slot that no stripe has")


def _shown(entry: AuditEntry, outcome: ReadOutcome) -> AuditResult:
    if not isinstance(outcome, Found):
        return AuditResult("damaged" if isinstance(outcome, Damaged) else "absent", b"", b"", b"")
    shard = outcome.shard
    if any(column >= len(shard) for column in entry.columns):
        raise BadRequest("a challenge names places beyond the shard's end")
    columns = bytes(shard[column] for column in entry.columns)
    return AuditResult("ok", bytes(outcome.header), columns, bytes(shard) if entry.whole else b"")
