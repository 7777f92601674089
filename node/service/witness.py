"""Heads that this node witnesses, the coordinator it follows, and what it keeps for rebuilding one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import structlog

from holdfast.node.reigning import KnownReign, Reigning
from holdfast.node.service.door import Door
from holdfast.node.witnessing import Witnessing
from holdfast.protocol.address import parse_url
from holdfast.protocol.clock import Source
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, NoRoom, Refused, StoreFailed
from holdfast.protocol.failpoints import reached
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.ids import SnapshotId
from holdfast.protocol.limits import NONCE_BYTES
from holdfast.protocol.messages.cluster import open_map
from holdfast.protocol.messages.witness import (
    AccountsKept,
    AskWitness,
    HeadsKept,
    KeepHead,
    KeptMap,
    ReadAccounts,
    ReadHeads,
    ReadRecords,
    RecordsKept,
    Reigned,
)
from holdfast.protocol.threads import Threads

__all__ = ["WitnessHandlers"]

T = TypeVar("T")
_SEQ_MAX = 1 << 53
_log = structlog.get_logger()


class WitnessHandlers:
    """See protocol.messages.witness."""

    def __init__(self, door: Door, witnessing: Witnessing, reigning: Reigning, source: Source) -> None:
        self._door = door
        self._witnessing = witnessing
        self._reigning = reigning
        self._source = source
        # One at a time: what is decided by looking at what is kept holds until it is kept.
        self._turn = Threads(1, "heads")

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_get("/v1/reign", self.reigned)
        router.add_post("/v1/reign", self.reign)
        router.add_post("/v1/witness", self.tell)
        router.add_post("/v1/witness/keep", self.keep)
        router.add_post("/v1/kept/accounts", self.accounts)
        router.add_post("/v1/kept/heads", self.heads)
        router.add_post("/v1/kept/records", self.records)

    def close(self) -> None:
        """Let the thread go."""
        self._turn.end()

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await self._turn.run(operator.call, work)

    def _known(self) -> Reigned:
        known, digest = self._reigning.known, b""
        with suppress(StoreFailed):  # who reigns is known all the same
            digest = self._witnessing.store.map_digest
        charter = known.signed if known is not None else None
        return Reigned(term=self._reigning.term, charter=charter, map=digest)

    async def reigned(self, request: Request) -> Answer:
        """GET /v1/reign: the highest term this node has met."""
        return msgpack_answer(self._known())

    async def reign(self, request: Request) -> Answer:
        """POST /v1/reign: a coordinator says who it is; one whose term is over is shown the newer charter."""
        told, charter = await self._door.reign(request)
        url = parse_url(told.url) if told.url else ""
        if await self._reigning.follow(KnownReign(charter, told.root, told.charter, url)) and told.map:
            opened = open_map(told.map, self._door.identity.cluster, charter.coordinator)
            kept = KeptMap(1, told.map, told.charter)
            try:
                await self._off_loop(lambda: self._witnessing.store.keep_map(kept, opened))
            except (StoreFailed, NoRoom) as error:  # the answer says which map is kept
                _log.warning("the cluster map cannot be kept", why=str(error))
        return msgpack_answer(self._known())

    async def keep(self, request: Request) -> Answer:
        """POST /v1/witness/keep: durable, then the statement."""
        asked = decode(await self._door.coordinator(request), KeepHead)
        reign = self._reigning.known
        if reign is None:
            raise Refused("this node has not met its coordinator yet")
        now_ms = self._source.now_ms()
        kept = await self._off_loop(lambda: self._witnessing.keep(asked, reign, now_ms))
        reached("node.head.kept")
        return msgpack_answer(kept)

    async def tell(self, request: Request) -> Answer:
        """POST /v1/witness: a device asks what is known of its account's heads."""
        body, account, device = await self._door.listed_device(
            request, lambda sent: decode(sent, AskWitness).device_list
        )
        asked = decode(body, AskWitness)
        if len(asked.nonce) != NONCE_BYTES or not 0 <= asked.seq < _SEQ_MAX:
            raise BadRequest(f"a witness is asked with a nonce of {NONCE_BYTES} bytes, for a head's number")
        now_ms = self._source.now_ms()
        return msgpack_answer(
            await self._off_loop(
                lambda: self._witnessing.tell(
                    account, asked.device_list, device, asked.seq, asked.nonce, now_ms
                )
            )
        )

    async def accounts(self, request: Request) -> Answer:
        """POST /v1/kept/accounts."""
        asked = decode(await self._door.coordinator(request), ReadAccounts)
        store = self._witnessing.store
        found = await self._off_loop(lambda: store.accounts(asked.after))
        kept = None if asked.after else await self._off_loop(store.map)
        return msgpack_answer(AccountsKept(accounts=found, map=kept))

    async def heads(self, request: Request) -> Answer:
        """POST /v1/kept/heads."""
        asked = decode(await self._door.coordinator(request), ReadHeads)
        if not 0 <= asked.after < _SEQ_MAX:
            raise BadRequest("heads are read behind a head's number")
        store = self._witnessing.store
        return msgpack_answer(
            HeadsKept(heads=await self._off_loop(lambda: store.heads(asked.account, asked.after)))
        )

    async def records(self, request: Request) -> Answer:
        """POST /v1/kept/records."""
        asked = decode(await self._door.coordinator(request), ReadRecords)
        if len(asked.after) not in (0, SnapshotId.SIZE):
            raise BadRequest("records are read behind a snapshot id")
        store = self._witnessing.store
        return msgpack_answer(
            RecordsKept(records=await self._off_loop(lambda: store.records(asked.account, asked.after)))
        )
