"""A backup's first step: its upload, and the head of that moment. Apart from what comes after it, which is
loaded while the coordinator answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from holdfast.client.heads import HeadView
from holdfast.client.session import Session
from holdfast.client.upload import Uploader
from holdfast.protocol.ids import UploadId
from holdfast.protocol.messages.backups import BackupBegun
from holdfast.protocol.messages.uploads import UploadOpened

__all__ = ["begin_backup"]


@asynccontextmanager
async def begin_backup(session: Session) -> AsyncIterator[tuple[Uploader, HeadView]]:
    """An upload, and the head when it opened: what a snapshot in that holds may be reused unclaimed."""
    known = session.known = session.home.account()
    begun: list[BackupBegun] = []

    async def open_upload(upload: UploadId, expected_bytes: int) -> UploadOpened:
        begun.append(await session.link.begin_backup(upload, expected_bytes, known.head_seq))
        return begun[0].opened

    async with Uploader(
        session.link, source=session.source, open_upload=open_upload, recent=session.recent
    ) as uploader:
        yield uploader, await session.head_begun(known, begun[0])
