"""The upload's leases: which groups to write to, which nodes failed this client, and for how long."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from holdfast.client.link import Link
from holdfast.protocol.clock import Source
from holdfast.protocol.errors import GroupMoved, HoldfastError, NoQuorum, TicketExpired
from holdfast.protocol.ids import NodeId, UploadId
from holdfast.protocol.limits import TICKET_LIFETIME_MS, UPLOAD_SILENCE_MS
from holdfast.protocol.messages.uploads import Lease, UploadOpened

__all__ = ["Leases", "OpenUpload"]

OpenUpload = Callable[[UploadId, int], Awaitable[UploadOpened]]
"""Opens an upload for so many sealed bytes."""

_log = logging.getLogger(__name__)
_BLAMED_S = 60.0
_RENEW_BEFORE_MS = TICKET_LIFETIME_MS // 3
_FRESH_S = TICKET_LIFETIME_MS / 2000
"""The coordinator hands out tickets that are good for longer than this."""
_KEEP_ALIVE_S = min(TICKET_LIFETIME_MS, UPLOAD_SILENCE_MS) / 3000


class Leases:
    """Leases of one upload. A blamed node is excluded from this upload for a minute."""

    def __init__(self, link: Link, upload: UploadId, source: Source) -> None:
        self._link = link
        self._upload = upload
        self._source = source
        self._leases: list[Lease] = []
        self._turn = 0
        self._blamed: dict[NodeId, float] = {}
        self._stale = False
        self._taken_s = 0.0
        self._renewing = asyncio.Lock()
        self._renewals = 0
        self.epoch = 0

    async def open(self, expected_bytes: int, open_upload: OpenUpload | None = None) -> int:
        """Open the upload, by another call where one is given; gives the account's head number."""
        opened = await (open_upload or self._link.open_upload)(self._upload, expected_bytes)
        self._take(opened)
        return opened.head_seq

    def _take(self, opened: UploadOpened) -> None:
        if not opened.leases:
            raise NoQuorum("the coordinator leased no group", do="Look at the nodes with 'holdfast status'.")
        self._leases, self.epoch, self._stale = opened.leases, opened.epoch, False
        self._taken_s = self._source.monotonic()

    def blame(self, node: NodeId, error: HoldfastError) -> None:
        """This node failed; leases that need it are looked for anew.

        A node that calls a fresh ticket expired has a wrong clock, and would say so of the next one, too.
        """
        is_fresh = self._source.monotonic() - self._taken_s < _FRESH_S
        if isinstance(error, GroupMoved) or (isinstance(error, TicketExpired) and not is_fresh):
            self._stale = True
            return
        if not self.is_failing(node):
            _log.info("node %s fails; going on without it: %s", node.short, error.what)
        self._blamed[node] = self._source.monotonic() + _BLAMED_S
        self._stale = True

    def is_failing(self, node: NodeId) -> bool:
        """Is it blamed now?"""
        return self._blamed.get(node, 0.0) > self._source.monotonic()

    async def next(self) -> Lease:
        """The next group to write to: in turn, so that all nodes carry the same load."""
        now_ms = self._source.now_ms()
        if self._stale or any(lease.expires_ms - now_ms < _RENEW_BEFORE_MS for lease in self._leases):
            await self._renew(self._renewals)
        self._turn += 1
        return self._leases[self._turn % len(self._leases)]

    async def renew(self, after: HoldfastError) -> None:
        """Fresh leases after a failed batch."""
        self._stale = True
        await self._renew(self._renewals)

    async def _renew(self, seen: int) -> None:
        async with self._renewing:
            if self._renewals != seen:
                return  # somebody else just did
            blamed = [node for node in self._blamed if self.is_failing(node)]
            try:
                self._take(await self._link.renew_upload(self._upload, blamed))
            except NoQuorum:
                if not blamed:
                    raise
                # Perhaps it is our own network: give every node one more chance.
                self._blamed.clear()
                await asyncio.sleep(1.0)
                self._take(await self._link.renew_upload(self._upload, []))
            self._renewals += 1

    async def keep_alive(self) -> None:
        """Renew now and then, so that a long pause does not end the upload."""
        while True:
            await asyncio.sleep(_KEEP_ALIVE_S)
            try:
                await self._renew(self._renewals)
            except HoldfastError as error:
                _log.warning("the upload could not be renewed: %s", error)
