"""Heads, snapshot lists, snapshot records."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from holdfast.coordinator.catalogue.accounts import account_row
from holdfast.coordinator.catalogue.heads import head_state, newest_witnesses, records
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.witnesses import proposed
from holdfast.coordinator.witnessing import post_head
from holdfast.protocol.accounts import Witness
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.failpoints import reached
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.ids import AccountId
from holdfast.protocol.messages.heads import FetchRecords, HeadState, PostHead, Records

__all__ = ["HeadHandlers", "shown"]

_NUMBER: Final = re.compile(r"[0-9]{1,15}")


def shown(desk: Desk, account: AccountId, state: HeadState, witnesses: Collection[Witness]) -> HeadState:
    """The newest head, whose witnesses these are, with those that shall witness the next one."""
    return HeadState(
        head=state.head,
        snapshot_list=state.snapshot_list,
        links=state.links,
        proposed=proposed(desk, account, witnesses),
    )


class HeadHandlers:
    """See protocol.messages.heads."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_post("/v1/heads", self.post)
        router.add_get("/v1/heads", self.get)
        router.add_post("/v1/records", self.records)

    async def post(self, request: Request) -> Answer:
        """The next head: compare-and-swap, acknowledged when it is witnessed."""
        desk = self._desk
        asked = await desk.device(request)
        posted = decode(asked.body, PostHead)
        state = await post_head(desk, asked.account, posted)
        reached("coordinator.head.committed")
        return msgpack_answer(state)

    async def get(self, request: Request) -> Answer:
        """The newest head and the links since one that is known."""
        asked = await self._desk.device(request)
        since = request.query.get("since", "0")
        if not _NUMBER.fullmatch(since):
            raise BadRequest("'since' is the number of a head")
        state, witnesses = await self._desk.catalogue.read(
            lambda c: (
                head_state(c, (row := account_row(c, asked.account)), int(since)),
                newest_witnesses(c, row),
            )
        )
        return msgpack_answer(shown(self._desk, asked.account, state, witnesses))

    async def records(self, request: Request) -> Answer:
        """Sealed snapshot records."""
        asked = await self._desk.device(request)
        told = decode(asked.body, FetchRecords)
        found = await self._desk.catalogue.read(
            lambda c: records(c, account_row(c, asked.account), told.snapshots)
        )
        return msgpack_answer(Records(records=found))
