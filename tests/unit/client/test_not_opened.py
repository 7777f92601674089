"""An upload for which there are no nodes: it is told, and leaves nothing open."""

from __future__ import annotations

from typing import Any, cast

import pytest

from holdfast.client.link import Link
from holdfast.client.upload import Uploader
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import NoQuorum, OutcomeUnknown
from holdfast.protocol.ids import UploadId
from holdfast.protocol.messages.uploads import UploadOpened


class Coordinator:
    """Opens the upload, finds no nodes for it, and says so; may be gone when it is to be ended."""

    def __init__(self, *, goes: bool = False) -> None:
        self.open: set[UploadId] = set()
        self._goes = goes

    async def open_upload(self, upload: UploadId, expected_bytes: int) -> UploadOpened:
        self.open.add(upload)
        raise NoQuorum("too few nodes can take shards")

    async def end_upload(self, upload: UploadId) -> None:
        if self._goes:
            raise OutcomeUnknown("no answer")
        self.open.discard(upload)


async def opened_in(coordinator: Coordinator) -> None:
    async with Uploader(cast(Link, cast(Any, coordinator)), source=FixedSource(), calls=cast(Any, object())):
        raise AssertionError("there are no nodes")


async def test_an_upload_that_got_no_nodes_is_ended() -> None:
    """Open ones hold sweeps back, and there may only be so many: a timer tries again every hour."""
    coordinator = Coordinator()
    with pytest.raises(NoQuorum):
        await opened_in(coordinator)
    assert not coordinator.open


async def test_why_it_failed_is_told_even_where_it_cannot_be_ended() -> None:
    with pytest.raises(NoQuorum):
        await opened_in(Coordinator(goes=True))
