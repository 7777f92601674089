"""From a finished backup to a snapshot that exists: its parent, its record, the head that names it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from holdfast.client.backup import BackupPlan, BackupResult, run_backup
from holdfast.client.chunks import MemoryChunks
from holdfast.client.heads import HeadView, append_snapshot
from holdfast.client.progress import OnProgress
from holdfast.client.session import Session
from holdfast.client.snapshot_record import SnapshotRecord, seal_record, snapshot_id
from holdfast.client.snapshots import Snapshot, parent_of
from holdfast.client.upload import Uploader
from holdfast.protocol.errors import BadRequest, Conflict
from holdfast.protocol.ids import SnapshotId
from holdfast.protocol.limits import SNAPSHOTS_MAX
from holdfast.protocol.program import program_version

__all__ = ["NO_SNAPSHOT", "find_parent", "post_snapshot", "rehearse", "snapshots_of"]

NO_SNAPSHOT = SnapshotId(bytes(32))
"""The id of what a dry run returns."""
_LOOKED_AT_TOGETHER = 64


async def snapshots_of(session: Session, wanted: Sequence[SnapshotId]) -> list[Snapshot]:
    """These snapshots, opened, in order.

    Raises:
        IntegrityFailure: a record is gone or does not open.
    """
    records = await session.records(wanted)
    return [Snapshot.of(snapshot, record) for snapshot, record in zip(wanted, records, strict=True)]


async def find_parent(session: Session, head: HeadView, roots: Sequence[bytes]) -> Snapshot | None:
    """The snapshot to compare with: the newest of this device and these paths.

    The newest ones are nearly always enough; older ones are opened only when they are not.
    """
    wanted = [os.fsdecode(root) for root in roots]
    for end in range(len(head.snapshots), 0, -_LOOKED_AT_TOGETHER):
        portion = head.snapshots[max(0, end - _LOOKED_AT_TOGETHER) : end]
        found = parent_of(await snapshots_of(session, portion), session.device.id, wanted)
        if found is not None:
            return found
    return None


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

    await append_snapshot(
        session.link,
        head,
        session.head,
        device=session.device.id,
        key=session.device.sign_key,
        snapshot=snapshot,
        sealed_record=sealed,
        upload=uploader.upload,
        time_ns=record.time_ns,
        parent_kept=parent_kept,
    )
    return Snapshot.of(snapshot, record, result)
