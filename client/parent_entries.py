"""The snapshot before, as a backup sees it: its files in order, with all their extents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

from holdfast.client.entries import Entry
from holdfast.client.manifest import PageLoader, UnreadablePage, read_manifest
from holdfast.client.snapshot_record import ChunkRef

__all__ = ["parent_entries"]


def parent_entries(
    loop: asyncio.AbstractEventLoop, pages: Sequence[ChunkRef], load: PageLoader
) -> Iterator[Entry]:
    """The parent's files in order, with all their extents. A page that cannot be read is passed over:
    what it named is read again. Blocks; for the worker thread."""

    async def portion(
        reader: AsyncIterator[Entry | UnreadablePage], count: int
    ) -> list[Entry | UnreadablePage]:
        found: list[Entry | UnreadablePage] = []
        async for entry in reader:
            found.append(entry)
            if len(found) == count:
                break
        return found

    reader = read_manifest(pages, load, skip_unreadable=True)
    held: Entry | None = None
    while found := asyncio.run_coroutine_threadsafe(portion(reader, 4096), loop).result():
        for entry in found:
            if isinstance(entry, UnreadablePage):
                held = None  # it may go on inside the gap
            elif entry.kind == "more":
                if held is not None:
                    held = held.with_extents(held.extents + entry.extents)
            else:
                if held is not None:
                    yield held
                held = entry if entry.kind == "file" else None
    if held is not None:
        yield held
