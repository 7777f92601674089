"""A backup's first and last conversation: each one request, one transaction, where it would be three."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.coordinator.catalogue.accounts import account_row
from holdfast.coordinator.catalogue.heads import head_state
from holdfast.coordinator.catalogue.uploads import open_upload
from holdfast.coordinator.quorum import DurableStripe
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.service.heads import shown
from holdfast.coordinator.service.uploads import UploadHandlers, check_opening, proven_stripes
from holdfast.coordinator.witnessing import post_head
from holdfast.protocol.accounts import Head
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.failpoints import reached
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.messages.accounts import AccountState
from holdfast.protocol.messages.backups import BackupBegun, BeginBackup, PostSnapshot

__all__ = ["BackupHandlers"]

_SINCE_MAX = 10**15


class BackupHandlers:
    """See protocol.messages.backups."""

    def __init__(self, desk: Desk, uploads: UploadHandlers) -> None:
        self._desk = desk
        self._uploads = uploads

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_post("/v1/backups", self.begin)
        router.add_post("/v1/snapshots", self.post)

    async def begin(self, request: Request) -> Answer:
        """An upload opens; account and heads are those of the same transaction."""
        desk = self._desk
        asked = await desk.device(request)
        told = decode(asked.body, BeginBackup)
        check_opening(told.exclude, told.expected_bytes)
        if not 0 <= told.since < _SINCE_MAX:
            raise BadRequest("'since' is the number of a head")
        now_ms = desk.live.steady_ms()
        row, account, state = await desk.catalogue.write(
            lambda c: (
                open_upload(
                    c,
                    (found := account_row(c, asked.account)),
                    told.upload,
                    asked.device.id,
                    told.expected_bytes,
                    now_ms,
                ),
                found,
                head_state(c, found, told.since),
            )
        )
        reached("coordinator.backup.begun")
        witnesses = decode(state.head.payload, Head).witnesses if state.head is not None else ()
        return msgpack_answer(
            BackupBegun(
                opened=await self._uploads.opened(asked, row, told.exclude),
                account=AccountState(
                    account=account.id, device_list=account.device_list, quota_bytes=account.quota_bytes
                ),
                heads=shown(desk, asked.account, state, witnesses),
            )
        )

    async def post(self, request: Request) -> Answer:
        """Chunks and the head that needs them: taken together, acknowledged when the head is witnessed."""
        desk = self._desk
        asked = await desk.device(request)
        told = decode(asked.body, PostSnapshot)
        stripes: Sequence[DurableStripe] = ()
        refused: HoldfastError | None = None
        try:
            stripes = proven_stripes(desk, asked, told.post.upload, told.commit)
        except HoldfastError as error:
            # Where the answer got lost, groups may have moved since: what was taken then stays taken.
            refused = error.bare()
        state = await post_head(desk, asked.account, told.post, stripes=stripes, ends=True, refused=refused)
        reached("coordinator.snapshot.committed")
        return msgpack_answer(state)
