"""Pruning: mark what the snapshots reach, sign it, and let the coordinator sweep the rest.

The order matters: the head is read, the lease is taken for that very head, and only then is
what it reaches gathered. The coordinator seals only while that head is still the newest and
the lease is ours, so whatever happens beside makes the seal fail, never the snapshots.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from holdfast.client.heads import HeadView
from holdfast.client.limits import PRUNE_TRIES_MAX
from holdfast.client.progress import OnProgress, Progress
from holdfast.client.reach import Reached, snapshots_reach
from holdfast.client.session import Session
from holdfast.client.snapshots import snapshots_of
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import Conflict, HeadMoved, HoldfastError
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import ChunkId
from holdfast.protocol.limits import SWEEP_MARKS_MAX
from holdfast.protocol.messages.sweep import LiveSet, live_set_digest
from holdfast.protocol.signing import Signed, sign

__all__ = ["PruneReport", "prune"]


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune did, or would do.

    Attributes:
        live: chunks that snapshots reach.
        chunks, bytes: moved to the trash up to now (sealed bytes).
        finished: nothing more follows by itself.
        waiting_for: backups that were under way; what they may need is looked at again when they end.
        hold_s: for how long the trash can be undeleted.
    """

    snapshots: int
    live: int
    chunks: int
    bytes: int
    finished: bool
    waiting_for: int
    hold_s: int
    dry_run: bool = False


async def prune(
    session: Session, *, dry_run: bool = False, on_progress: OnProgress | None = None
) -> PruneReport:
    """Move what no snapshot reaches to the trash.

    Raises:
        Locked: another device of the account is pruning.
        SweepRefused: it would not be safe now; the error says why.
        TooFewShards, IntegrityFailure: the list of files of a snapshot cannot be read.
        Conflict: snapshots were made again and again meanwhile.
    """
    for _ in range(PRUNE_TRIES_MAX):
        try:
            return await _prune_by(session, await session.head(), dry_run, on_progress)
        except HeadMoved:
            continue
    raise Conflict(
        "other devices of this account kept changing the list of snapshots meanwhile",
        do="Prune again when no backup runs; nothing was swept.",
    )


async def _prune_by(
    session: Session, head: HeadView, dry_run: bool, on_progress: OnProgress | None
) -> PruneReport:
    link = session.link
    lease = await link.begin_sweep(head.seq, head.digest)
    keeping = asyncio.create_task(_keep_lease(session, lease.number, lease.lease_ms / 3000))
    is_sealed = False
    try:
        live = await _reached_by(session, head, on_progress)
        ascending = sorted(live)
        for start in range(0, len(ascending), SWEEP_MARKS_MAX):
            await link.mark_live(lease.number, ascending[start : start + SWEEP_MARKS_MAX])
        if dry_run:
            counted = await link.count_sweep(lease.number)
            return PruneReport(
                len(head.snapshots), len(live), counted.chunks, counted.bytes, True, 0, 0, True
            )
        reached("client.sweep.marked")
        sealed = await link.seal_sweep(lease.number, _signed(session, head, lease.number, ascending))
        is_sealed = True
        reached("client.sweep.sealed")
        return PruneReport(
            len(head.snapshots),
            len(live),
            sealed.chunks,
            sealed.bytes,
            sealed.finished,
            sealed.uploads,
            sealed.hold_s,
        )
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        if not is_sealed:
            # Nobody waits for this: a lease that is not given up runs out.
            with suppress(HoldfastError):
                await link.end_sweep(lease.number)


async def _reached_by(session: Session, head: HeadView, on_progress: OnProgress | None) -> Reached:
    snapshots = await snapshots_of(session, head.snapshots)

    def told(done: int) -> None:
        if on_progress is not None:
            on_progress(Progress("prune", files=done, total_files=len(snapshots)))

    return await snapshots_reach(snapshots, session.pages, told)


def _signed(session: Session, head: HeadView, number: int, ascending: list[ChunkId]) -> Signed:
    live = LiveSet(
        1,
        session.known.account,
        session.device.id,
        number,
        head.seq,
        head.digest,
        live_set_digest(ascending),
        len(ascending),
    )
    payload = encode(live)
    return Signed(payload, sign(session.device.sign_key, "sweep", session.link.cluster, payload))


async def _keep_lease(session: Session, number: int, every_s: float) -> None:
    """Reading the lists of files may take longer than the lease."""
    while True:
        await asyncio.sleep(every_s)
        # When it is lost, the seal says so.
        with suppress(HoldfastError):
            await session.link.mark_live(number, [])
