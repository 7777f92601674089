"""Everything that snapshots reach: their manifest pages, and the chunks that those name.

What is swept is what is not reached, so nothing may be passed over: a page that cannot be read
now, or that a newer program wrote, stops it, and says which snapshot it belongs to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from holdfast.client.limits import REACH_PAGES_AT_ONCE
from holdfast.client.manifest import PageLoader, page_chunks
from holdfast.client.snapshot_record import ChunkRef
from holdfast.client.snapshots import Snapshot
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import ChunkId

__all__ = ["Reached", "pages_reach", "snapshots_reach"]

Reached = set[ChunkId]
"""Chunk ids, manifest pages among them."""


async def pages_reach(pages: Sequence[ChunkRef], load: PageLoader) -> AsyncIterator[list[ChunkRef]]:
    """What each page reaches, itself first; pages are read a few at a time.

    Raises:
        HoldfastError: a page cannot be had or read.
    """
    for start in range(0, len(pages), REACH_PAGES_AT_ONCE):
        portion = pages[start : start + REACH_PAGES_AT_ONCE]
        for page, plain in zip(portion, await load(portion), strict=True):
            if isinstance(plain, HoldfastError):
                raise plain
            yield [page, *page_chunks(plain)]


async def snapshots_reach(
    snapshots: Iterable[Snapshot], load: PageLoader, on_snapshot: Callable[[int], None] | None = None
) -> Reached:
    """The chunks that these snapshots reach; a page that several share is read once.

    Args:
        on_snapshot: told how many snapshots are done.

    Raises:
        HoldfastError: of the kind of what is in the way, naming the snapshot.
    """
    reached: Reached = set()
    seen: set[ChunkRef] = set()
    for number, snapshot in enumerate(snapshots, 1):
        fresh = [page for page in dict.fromkeys(snapshot.pages) if page not in seen]
        try:
            async for refs in pages_reach(fresh, load):
                reached.update(ref.chunk for ref in refs)
        except HoldfastError as error:
            when = snapshot.time.isoformat(" ", "minutes")
            raise type(error)(
                f"the list of files of snapshot {snapshot.id.short} ({when}, {snapshot.device_name}) "
                "cannot be read",
                why=error.what,
                do=error.do,
                **{**error.details, "snapshot": snapshot.id.hex()},
            ) from error
        seen.update(fresh)
        if on_snapshot is not None:
            on_snapshot(number)
    return reached
