"""From a finished backup to a snapshot that exists: its parent, its record, the head that names it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from holdfast.client.backup import BackupPlan, BackupResult, run_backup
from holdfast.client.chunks import MemoryChunks
from holdfast.client.head_posting import HeldCommit, LostAnswer, append_snapshot
from holdfast.client.heads import HeadView
from holdfast.client.limits import SWEEPS_MET_MAX
from holdfast.client.progress import OnProgress
from holdfast.client.reach import snapshots_reach
from holdfast.client.session import Session
from holdfast.client.snapshot_record import SnapshotRecord, seal_record, snapshot_id
from holdfast.client.snapshots import Snapshot, newest_first
from holdfast.client.upload import Uploader
from holdfast.protocol.errors import BadRequest, Conflict, SweptSince
from holdfast.protocol.ids import SnapshotId, UploadId
from holdfast.protocol.limits import SNAPSHOTS_MAX
from holdfast.protocol.program import program_version

__all__ = [
    "NO_SNAPSHOT",
    "claim_reached",
    "find_parent",
    "in_new_uploads",
    "post_snapshot",
    "rehearse",
]

T = TypeVar("T")


NO_SNAPSHOT = SnapshotId(bytes(32))
"""The id of what a dry run returns."""
_OWN_AMONG = 64
"""How many of the newest snapshots one of this device is looked for among, where another device has one."""


async def find_parent(session: Session, head: HeadView, roots: Sequence[bytes]) -> Snapshot | None:
    """The snapshot to compare with: the newest of this device and these paths.

    Where there is none among the newest ones, the newest of these paths by another device is. Older ones are
    opened only where there is neither.
    """
    wanted = tuple(os.fsdecode(root) for root in roots)
    looked_at, of_another = 0, None
    async with aclosing(newest_first(session, head.snapshots)) as snapshots:
        async for snapshot in snapshots:
            if snapshot.paths == wanted:
                if snapshot.device == session.device.id:
                    return snapshot
                of_another = of_another or snapshot
            looked_at += 1
            if of_another is not None and looked_at >= _OWN_AMONG:
                break
    return of_another


async def rehearse(
    session: Session, plan: BackupPlan, tags: list[str], on_progress: OnProgress | None
) -> Snapshot:
    """A dry run: what a backup would do. Nothing is sent, and the snapshot does not exist."""
    parent = await find_parent(session, await session.head(), plan.roots)
    result = await run_backup(
        plan,
        session.current_keys,
        MemoryChunks(),
        parent_pages=parent.pages if parent else (),
        load=session.pages,
        on_progress=on_progress,
        source=session.source,
    )
    return Snapshot.of(
        NO_SNAPSHOT, _record(session, parent, plan.roots, tags, result, result.read_bytes), result
    )


def _record(
    session: Session,
    parent: Snapshot | None,
    roots: Sequence[bytes],
    tags: list[str],
    result: BackupResult,
    new_bytes: int,
) -> SnapshotRecord:
    return SnapshotRecord(
        1,
        session.source.now_ns(),
        session.device.id,
        session.known.device_name,
        list(roots),
        tags,
        result.pages,
        result.files,
        result.entries,
        result.total_bytes,
        new_bytes,
        len(result.skipped),
        bytes(parent.id) if parent else b"",
        program_version(),
    )


async def post_snapshot(
    session: Session,
    uploader: Uploader,
    head: HeadView,
    parent: Snapshot | None,
    roots: Sequence[bytes],
    tags: list[str],
    result: BackupResult,
) -> Snapshot:
    """Make the snapshot visible: seal its record, post a head that names it.

    Args:
        head: the head that was read after the upload opened.

    Where unused chunks were swept since the upload opened, everything that the snapshot reaches is
    claimed again in a new upload first: what it took over from older snapshots may be in the trash.

    Raises:
        BadRequest: the account has as many snapshots as it may.
        Conflict: what it built upon was removed meanwhile. UploadEnded: it took too long.
    """
    if len(head.snapshots) >= SNAPSHOTS_MAX:
        raise BadRequest(f"an account has at most {SNAPSHOTS_MAX} snapshots")
    record = _record(session, parent, roots, tags, result, uploader.stats.new_bytes)
    sealed = seal_record(session.current_keys, session.link.cluster, session.known.account, record)
    snapshot = snapshot_id(sealed)

    async def parent_kept(newer: HeadView) -> None:
        if parent is None or parent.id in newer.snapshots:
            return
        if await uploader.reused(result.reused_chunks()):
            raise Conflict(
                "the snapshot this backup built upon was removed meanwhile",
                do="Run the backup again: what is stored is not sent twice.",
            )

    async def post(
        upload: UploadId,
        view: HeadView,
        kept: Callable[[HeadView], Awaitable[None]],
        chunks: HeldCommit | None = None,
    ) -> None:
        await append_snapshot(
            session.link,
            view,
            session.head,
            session.saw,
            device=session.device.id,
            key=session.device.sign_key,
            snapshot=snapshot,
            sealed_record=sealed,
            upload=upload,
            time_ns=record.time_ns,
            parent_kept=kept,
            chunks=chunks,
            lost=lost,
        )

    lost = LostAnswer()
    made = Snapshot.of(snapshot, record, result)
    try:
        await post(uploader.upload, head, parent_kept, uploader)
    except SweptSince:

        async def post_again(again: Uploader, view: HeadView) -> None:
            # The upload before stays open meanwhile: what it claimed is not erased.
            await claim_reached(session, again, [made])
            await post(again.upload, view, _all_claimed)

        with lost.told():
            await uploader.commit_held()
        await in_new_uploads(session, post_again, lost)
    return made


async def _all_claimed(newer: HeadView) -> None:
    """Whatever the newer head lists: everything is claimed under the upload that is posted by."""


async def in_new_uploads(
    session: Session, post: Callable[[Uploader, HeadView], Awaitable[T]], lost: LostAnswer
) -> T:
    """Post a head by a new upload; again by another one when a sweep came between.

    Args:
        post: awaitable factory, given the upload and a head that was read after it opened; claims what
            the new list names beyond that head, then posts.
        lost: what ``post`` notes of its posts.

    Raises:
        Conflict: other devices swept again and again. OutcomeUnknown: an answer was lost.
    """
    with lost.told():
        for _ in range(SWEEPS_MET_MAX):
            async with Uploader(session.link, source=session.source) as uploader:
                head = await session.head()
                lost.seen(head)
                try:
                    return await post(uploader, head)
                except SweptSince:
                    continue
        raise Conflict(
            "other devices of this account kept sweeping at the same time",
            do="Run it again: nothing is sent twice.",
        )


async def claim_reached(session: Session, uploader: Uploader, snapshots: Sequence[Snapshot]) -> None:
    """Claim everything that snapshots reach, which takes it out of the trash.

    Raises:
        Conflict: something is not stored any more; details: chunks (how many). Else as reading a manifest.
    """
    reached = await snapshots_reach(snapshots, session.pages)
    if gone := await uploader.reused(sorted(reached)):
        raise Conflict(
            f"{len(gone):,} of {len(reached):,} chunks are not stored any more",
            why="they were swept, and the trash was emptied since",
            do="Run the backup again: it sends what is lacking. What is gone cannot come back otherwise.",
            chunks=len(gone),
        )
