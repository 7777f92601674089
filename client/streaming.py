"""One file of a snapshot as a stream of its bytes."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator

from holdfast.client.manifest import UnreadablePage, read_manifest
from holdfast.client.restore import open_refs
from holdfast.client.session import Session
from holdfast.client.snapshots import Snapshot
from holdfast.protocol.errors import BadRequest, HoldfastError, NotFound

__all__ = ["read_file"]

_STREAM_EXTENTS = 8
"""Extents fetched together: about so many mebibytes."""


async def read_file(session: Session, chosen: Snapshot, wanted: bytes) -> AsyncGenerator[bytes, None]:
    """The bytes of one file, in order.

    Raises:
        NotFound: there is no such file. BadRequest: it is sparse: restore it.
        TooFewShards, IntegrityFailure: it cannot be had (any more).
    """
    found = False
    async for entry in read_manifest(chosen.pages, session.pages):
        if isinstance(entry, UnreadablePage) or entry.path != wanted or entry.kind not in ("file", "more"):
            if found:
                break
            continue
        if entry.holes:
            raise BadRequest("a sparse file is restored, not streamed", do="Use restore().")
        found = True
        for start in range(0, len(entry.extents), _STREAM_EXTENTS):
            extents = entry.extents[start : start + _STREAM_EXTENTS]
            refs = list(dict.fromkeys(extent.ref for extent in extents))
            opened = await open_refs(refs, session.downloader, session.sealing_keys)
            for extent in extents:
                plain = opened[extent.ref]
                if isinstance(plain, HoldfastError):
                    raise plain
                yield bytes(plain[extent.offset : extent.offset + extent.length])
    if not found:
        raise NotFound(f"there is no file {os.fsdecode(wanted)} in snapshot {chosen.id.short}")
