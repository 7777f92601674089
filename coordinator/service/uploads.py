"""The write path, and where stripes are."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.coordinator.catalogue import chunks as chunk_rows
from holdfast.coordinator.catalogue import uploads as upload_rows
from holdfast.coordinator.catalogue.accounts import account_row
from holdfast.coordinator.limits import COUNTED_BYTES_MAX
from holdfast.coordinator.live import Live
from holdfast.coordinator.placement import Group
from holdfast.coordinator.quorum import DurableStripe, durable_stripes, open_receipts
from holdfast.coordinator.reconciling import unproven_slots
from holdfast.coordinator.service.desk import Asked, Desk
from holdfast.coordinator.service.stripes import bare_slots
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.failpoints import reached
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.ids import NodeId, UploadId
from holdfast.protocol.limits import (
    CLAIM_CHUNKS_MAX,
    COMMIT_CHUNKS_MAX,
    COMMIT_RECEIPTS_MAX,
    LOCATE_CHUNKS_MAX,
    NODES_MAX,
    REPORTS_MAX,
    UPLOAD_SILENCE_MS,
)
from holdfast.protocol.messages.uploads import (
    Claim,
    Claimed,
    Commit,
    Committed,
    Done,
    EndUpload,
    Locate,
    Located,
    LocatedGroup,
    OpenUpload,
    RenewUpload,
    Report,
    UploadOpened,
)

__all__ = ["UploadHandlers", "check_opening", "proven_stripes"]


def _bounded(count: int, most: int, what: str) -> None:
    if count > most:
        raise BadRequest(f"{count} {what} are too many at once", why=f"the bound is {most}")


def _upload(request: Request) -> UploadId:
    try:
        return UploadId.from_hex(request.places["upload"])
    except ValueError as error:
        raise BadRequest("the path names no upload", why=str(error)) from None


def _holders(live: Live, group: Group) -> list[list[NodeId]]:
    """Every verified source by slot: of a slot that is being filled the former holder first."""
    found = []
    for slot, node in enumerate(group.members):
        move = live.moves.get((group.id, slot))
        former = [move.old] if move is not None and move.old is not None and move.old in live.nodes else []
        found.append([*former, node])
    return found


def check_opening(exclude: Sequence[NodeId], expected_bytes: int) -> None:
    """Bounds of what an upload is opened with."""
    _bounded(len(exclude), NODES_MAX, "excluded nodes")
    if not 0 <= expected_bytes <= COUNTED_BYTES_MAX:
        raise BadRequest(f"a backup is expected to have 0 to {COUNTED_BYTES_MAX} bytes")


def proven_stripes(desk: Desk, asked: Asked, upload: UploadId, told: Commit) -> list[DurableStripe]:
    """What a commit names, as far as receipts prove it: all of it, or it is refused."""
    _bounded(len(told.chunks), COMMIT_CHUNKS_MAX, "chunks")
    _bounded(len(told.receipts), COMMIT_RECEIPTS_MAX, "receipts")
    if len({chunk.chunk for chunk in told.chunks}) != len(told.chunks):
        raise BadRequest("a commit names each chunk once")
    receipts = open_receipts(
        told.receipts,
        {node: row.key for node, row in desk.live.nodes.items()},
        cluster=desk.identity.cluster,
        account=asked.account,
        upload=upload,
        term=desk.identity.term,
    )
    trusted = [receipt for receipt in receipts if desk.live.is_trusted(receipt.node)]
    return durable_stripes(told.chunks, trusted, desk.live.groups, upload)


class UploadHandlers:
    """See protocol.messages.uploads."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_post("/v1/uploads", self.open)
        router.add_post("/v1/uploads/{upload}/renew", self.renew)
        router.add_post("/v1/uploads/{upload}/claim", self.claim)
        router.add_post("/v1/uploads/{upload}/commit", self.commit)
        router.add_post("/v1/uploads/{upload}/end", self.end)
        router.add_post("/v1/locate", self.locate)
        router.add_post("/v1/reports", self.report)

    async def opened(
        self, asked: Asked, row: upload_rows.UploadRow, exclude: Sequence[NodeId]
    ) -> UploadOpened:
        """An upload with its leases."""
        leases = await self._desk.leases(asked, row.id, frozenset(exclude))
        return UploadOpened(
            upload=row.id,
            leases=leases,
            epoch=self._desk.live.epoch,
            head_seq=row.head_seq,
            sweep_generation=row.sweep_generation,
            silence_ms=UPLOAD_SILENCE_MS,
        )

    async def open(self, request: Request) -> Answer:
        """Open an upload; the quota is reserved, groups are leased."""
        desk = self._desk
        asked = await desk.device(request)
        told = decode(asked.body, OpenUpload)
        check_opening(told.exclude, told.expected_bytes)
        now_ms = desk.live.steady_ms()
        row = await desk.catalogue.write(
            lambda c: upload_rows.open_upload(
                c, account_row(c, asked.account), told.upload, asked.device.id, told.expected_bytes, now_ms
            )
        )
        reached("coordinator.upload.opened")
        return msgpack_answer(await self.opened(asked, row, told.exclude))

    async def renew(self, request: Request) -> Answer:
        """A sign of life; fresh leases and tickets."""
        desk = self._desk
        asked = await desk.device(request)
        told = decode(asked.body, RenewUpload)
        _bounded(len(told.exclude), NODES_MAX, "excluded nodes")
        upload, now_ms = _upload(request), desk.live.steady_ms()
        row = await desk.catalogue.write(
            lambda c: upload_rows.renew_upload(c, account_row(c, asked.account), upload, now_ms)
        )
        return msgpack_answer(await self.opened(asked, row, told.exclude))

    async def claim(self, request: Request) -> Answer:
        """What is stored already."""
        desk = self._desk
        asked = await desk.device(request)
        told = decode(asked.body, Claim)
        _bounded(len(told.chunks), CLAIM_CHUNKS_MAX, "chunks")
        upload, groups, bare = _upload(request), desk.live.groups, bare_slots(desk.live)
        for group, slots in (await unproven_slots(desk)).items():
            bare.setdefault(group, set()).update(slots)

        stored, send = await desk.catalogue.write(
            lambda c: chunk_rows.claim(
                c,
                (account := account_row(c, asked.account)),
                upload_rows.require_open(c, account, upload),
                told.chunks,
                groups,
                bare,
            )
        )
        reached("coordinator.claim.committed")
        return msgpack_answer(Claimed(stored=stored, send=send))

    async def commit(self, request: Request) -> Answer:
        """Stripes at their write quorum become rows."""
        desk = self._desk
        asked = await desk.device(request)
        upload = _upload(request)
        stripes = proven_stripes(desk, asked, upload, decode(asked.body, Commit))

        answers = await desk.catalogue.write(
            lambda c: chunk_rows.commit(
                c,
                (account := account_row(c, asked.account)),
                upload_rows.require_open(c, account, upload),
                stripes,
            )
        )
        reached("coordinator.commit.committed")
        return msgpack_answer(Committed(chunks=answers))

    async def end(self, request: Request) -> Answer:
        """The upload is over."""
        desk = self._desk
        asked = await desk.device(request)
        decode(asked.body, EndUpload)
        upload = _upload(request)
        await desk.catalogue.write(lambda c: upload_rows.end_upload(c, account_row(c, asked.account), upload))
        return msgpack_answer(Done())

    async def locate(self, request: Request) -> Answer:
        """Where chunks lie, with read tickets for their groups."""
        desk = self._desk
        asked = await desk.device(request)
        told = decode(asked.body, Locate)
        _bounded(len(told.chunks), LOCATE_CHUNKS_MAX, "chunks")
        found = await desk.catalogue.read(
            lambda c: chunk_rows.locate(c, account_row(c, asked.account), told.chunks)
        )
        answers = []
        for number in sorted({row.group for row in found if row is not None}):
            group = desk.live.groups[number]
            ticket, expires_ms = desk.read_ticket(asked, group)
            answers.append(
                LocatedGroup(
                    group=group.id,
                    version=group.version,
                    k=group.profile.k,
                    m=group.profile.m,
                    holders=_holders(desk.live, group),
                    ticket=ticket,
                    expires_ms=expires_ms,
                )
            )
        return msgpack_answer(
            Located(chunks=found, groups=answers, down=desk.live.down(), epoch=desk.live.epoch)
        )

    async def report(self, request: Request) -> Answer:
        """Shards that a client found wrong or gone."""
        desk = self._desk
        asked = await desk.device(request)
        told = decode(asked.body, Report)
        _bounded(len(told.entries), REPORTS_MAX, "reports")
        groups, moving = desk.live.groups, desk.live.moves.keys()
        await desk.catalogue.write(
            lambda c: chunk_rows.note_reports(c, account_row(c, asked.account), told.entries, groups, moving)
        )
        return msgpack_answer(Done())
