"""Devices of one account that post snapshots of nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.client.head_posting import append_snapshot
from holdfast.client.heads import HeadView
from holdfast.client.session import Session
from holdfast.client.snapshot_record import SnapshotRecord, seal_record, snapshot_id
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.ids import SnapshotId

__all__ = ["OpenDevice", "nothing_to_keep", "post", "tags"]

OpenDevice = Callable[[str], Awaitable[Session]]


async def nothing_to_keep(view: HeadView) -> None:
    assert view.seq


async def post(
    session: Session,
    coordinator: Any,
    text: str,
    *,
    view: HeadView | None = None,
    kept: Callable[[HeadView], Awaitable[None]] = nothing_to_keep,
) -> SnapshotId:
    """A snapshot of nothing, with a tag."""
    view = view or await session.head()
    record = SnapshotRecord(
        1, SYSTEM.now_ns(), session.device.id, session.known.device_name, [b"/" + text.encode()], [text], [],
        0, 0, 0, 0, 0, b"", "test",
    )  # fmt: skip
    sealed = seal_record(session.current_keys, session.link.cluster, session.known.account, record)
    await append_snapshot(
        session.link,
        view,
        session.head,
        session.saw,
        device=session.device.id,
        key=session.device.sign_key,
        snapshot=snapshot_id(sealed),
        sealed_record=sealed,
        upload=coordinator.open_upload(session.known.account, session.device.id),
        time_ns=SYSTEM.now_ns(),
        parent_kept=kept,
    )
    return snapshot_id(sealed)


async def tags(session: Session) -> list[str]:
    view = await session.head()
    return [record.tags[0] for record in await session.records(view.snapshots)]
