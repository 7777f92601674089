"""Sweeping, as the account's owner asks for it."""

from __future__ import annotations

from holdfast.coordinator.catalogue import sweeps, trash
from holdfast.coordinator.catalogue.accounts import account_row
from holdfast.coordinator.catalogue.sweeps import Sweep
from holdfast.coordinator.limits import SEAL_ANSWER_S
from holdfast.coordinator.service.desk import Asked, Desk
from holdfast.coordinator.sweeping import require_quorum, sweep_account
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, Refused
from holdfast.protocol.failpoints import reached
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.limits import SWEEP_LEASE_MS, SWEEP_MARKS_MAX
from holdfast.protocol.messages.sweep import (
    BeginSweep,
    CountSweep,
    EndSweep,
    Forgotten,
    Marked,
    MarkLive,
    SealSweep,
    SweepBegun,
    SweepCounted,
    SweepSealed,
    open_live_set,
)
from holdfast.protocol.messages.uploads import Done

__all__ = ["SweepHandlers"]


def _number(request: Request) -> int:
    text = request.places["number"]
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise BadRequest("the path names no sweep")
    return int(text)


class SweepHandlers:
    """See protocol.messages.sweep."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_post("/v1/sweeps", self.begin)
        router.add_post("/v1/sweeps/{number}/mark", self.mark)
        router.add_post("/v1/sweeps/{number}/count", self.count)
        router.add_post("/v1/sweeps/{number}/seal", self.seal)
        router.add_post("/v1/sweeps/{number}/end", self.end)
        router.add_get("/v1/forgotten", self.forgotten)

    async def _safe(self, asked: Asked) -> None:
        await require_quorum(self._desk, (await self._desk.account(asked)).number)

    async def begin(self, request: Request) -> Answer:
        """Take the lease."""
        desk = self._desk
        asked = await desk.device(request)
        told = decode(asked.body, BeginSweep)
        await self._safe(asked)
        now_ms = desk.live.steady_ms()
        sweep = await desk.catalogue.write(
            lambda c: sweeps.begin(
                c, account_row(c, asked.account), asked.device.id, told.head_seq, told.head, now_ms
            )
        )
        return msgpack_answer(SweepBegun(number=sweep.number, lease_ms=SWEEP_LEASE_MS))

    async def mark(self, request: Request) -> Answer:
        """Chunks that snapshots reach."""
        desk = self._desk
        asked = await desk.device(request)
        told, number = decode(asked.body, MarkLive), _number(request)
        if len(told.chunks) > SWEEP_MARKS_MAX:
            raise BadRequest(f"at most {SWEEP_MARKS_MAX:,} chunks are marked at once")
        now_ms = desk.live.steady_ms()
        marked = await desk.catalogue.write(
            lambda c: sweeps.mark(
                c, account_row(c, asked.account), asked.device.id, number, told.chunks, now_ms
            )
        )
        return msgpack_answer(Marked(marked=marked))

    async def count(self, request: Request) -> Answer:
        """What a seal now would move to the trash."""
        desk = self._desk
        asked = await desk.device(request)
        decode(asked.body, CountSweep)
        number = _number(request)
        chunks, size = await desk.catalogue.read(
            lambda c: trash.count_unmarked(
                c,
                sweeps.require(c, (account := account_row(c, asked.account)), asked.device.id, number),
                account.sweep_generation + 1,
            )
        )
        return msgpack_answer(SweepCounted(chunks=chunks, bytes=size))

    async def seal(self, request: Request) -> Answer:
        """The sweep counts; what it leaves goes to the trash, as much of it as fits in an answer's time."""
        desk = self._desk
        asked = await desk.device(request)
        signed, number = decode(asked.body, SealSweep).live, _number(request)
        live = open_live_set(signed, desk.identity.cluster, asked.account, asked.device.sign_key)
        if (live.number, live.device) != (number, asked.device.id):
            raise Refused("the live set is another sweep's, or another device's")
        await self._safe(asked)
        sweep = await desk.catalogue.write(
            lambda c: sweeps.seal(c, account_row(c, asked.account), asked.device.id, live, signed)
        )
        reached("coordinator.sweep.sealed")
        desk.witnessing.dirty.add(asked.account)  # they keep the sweep generation, too
        if sweep.state == "sealed":
            await sweep_account(desk, sweep.account, SEAL_ANSWER_S)
        return msgpack_answer(await self._sealed(asked, number))

    async def _sealed(self, asked: Asked, number: int) -> SweepSealed:
        desk = self._desk
        found: tuple[Sweep, int] = await desk.catalogue.read(
            lambda c: (
                (
                    sweep := sweeps.require(
                        c, (account := account_row(c, asked.account)), asked.device.id, number
                    )
                ),
                trash.older_uploads(c, account.number, sweep.generation),
            )
        )
        return SweepSealed(
            generation=found[0].generation,
            chunks=found[0].trashed_chunks,
            bytes=found[0].trashed_bytes,
            finished=found[0].state == "done",
            uploads=found[1],
            hold_s=int(desk.sweeping.hold_s),
        )

    async def end(self, request: Request) -> Answer:
        """Give the lease up."""
        desk = self._desk
        asked = await desk.device(request)
        decode(asked.body, EndSweep)
        number = _number(request)
        await desk.catalogue.write(
            lambda c: sweeps.end(c, account_row(c, asked.account), asked.device.id, number)
        )
        return msgpack_answer(Done())

    async def forgotten(self, request: Request) -> Answer:
        """Snapshots that may come back."""
        desk = self._desk
        asked = await desk.device(request)
        found, totals = await desk.catalogue.read(
            lambda c: (
                trash.forgotten(c, (account := account_row(c, asked.account))),
                trash.trash_totals(c, account.number),
            )
        )
        return msgpack_answer(
            Forgotten(
                snapshots=found,
                trash_chunks=totals[0],
                trash_bytes=totals[1],
                hold_s=int(desk.sweeping.hold_s),
            )
        )
