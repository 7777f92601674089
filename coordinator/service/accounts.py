"""Registration, enrolment, device lists, account status."""

from __future__ import annotations

from holdfast.coordinator.catalogue.accounts import (
    account_row,
    find_account,
    register,
    replace_device_list,
)
from holdfast.coordinator.catalogue.heads import head_state
from holdfast.coordinator.catalogue.sums import chunk_totals
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.service.stripes import account_verdict
from holdfast.protocol.accounts import SnapshotList, open_enrolment
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, NoAccount
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer, read_body
from holdfast.protocol.limits import LARGE_BODY_BYTES
from holdfast.protocol.messages.accounts import (
    AccountState,
    AccountStatus,
    EnrolmentBegin,
    EnrolmentNonce,
    EnrolmentOpen,
    NewDeviceList,
    NodeBrief,
    Register,
    Registered,
)
from holdfast.protocol.stripes import digest_of

__all__ = ["AccountHandlers"]


class AccountHandlers:
    """See protocol.messages.accounts."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_post("/v1/accounts", self.register)
        router.add_post("/v1/enrolments", self.begin)
        router.add_post("/v1/enrolments/open", self.open)
        router.add_post("/v1/devices", self.devices)
        router.add_get("/v1/account", self.account)
        router.add_get("/v1/account/status", self.status)

    async def register(self, request: Request) -> Answer:
        """A new account with an invite."""
        asked: list[Register] = []

        def listed_in(body: bytes) -> object:
            asked.append(decode(body, Register))
            return asked[0].device_list

        listed, signed = await self._desk.new_device(request, listed_in)  # type: ignore[arg-type]
        if listed.seq != 1:
            raise BadRequest("an account begins with device list number 1")
        invite, now_ms = digest_of(asked[0].invite), self._desk.source.now_ms()
        row = await self._desk.catalogue.write(lambda c: register(c, invite, signed, listed, now_ms))
        if row.device_list == signed:
            self._desk.live.remember_devices(listed)
        self._desk.witnessing.dirty.add(row.id)
        return msgpack_answer(Registered(account=row.id, quota_bytes=row.quota_bytes))

    async def begin(self, request: Request) -> Answer:
        """A nonce; the same for accounts that exist and that do not."""
        asked = decode(await read_body(request, LARGE_BODY_BYTES), EnrolmentBegin)
        nonce, expires_ms = self._desk.live.new_nonce(asked.account)
        return msgpack_answer(EnrolmentNonce(nonce=nonce, expires_ms=expires_ms))

    async def open(self, request: Request) -> Answer:
        """The device list, to whoever proves to hold the root key."""
        asked = decode(await read_body(request, LARGE_BODY_BYTES), EnrolmentOpen)
        proven = open_enrolment(asked.enrolment, self._desk.identity.cluster)
        self._desk.live.use_nonce(proven.nonce, proven.account)
        row = await self._desk.catalogue.read(lambda c: find_account(c, proven.account))
        if row is None:
            raise NoAccount(
                f"this cluster has no account {proven.account.short}",
                why="the recovery code is right in itself, but belongs to another cluster, "
                "or was never used here",
                do="Check the cluster's address.",
            )
        return msgpack_answer(
            AccountState(account=row.id, device_list=row.device_list, quota_bytes=row.quota_bytes)
        )

    async def devices(self, request: Request) -> Answer:
        """The next device list."""
        desk = self._desk
        listed, signed = await desk.new_device(request, lambda body: decode(body, NewDeviceList).device_list)
        cluster = desk.identity.cluster
        row = await desk.catalogue.write(lambda c: replace_device_list(c, cluster, signed, listed))
        desk.live.remember_devices(listed)
        desk.witnessing.dirty.add(row.id)
        return msgpack_answer(
            AccountState(account=row.id, device_list=row.device_list, quota_bytes=row.quota_bytes)
        )

    async def account(self, request: Request) -> Answer:
        """The current device list."""
        row = await self._desk.account(await self._desk.device(request))
        return msgpack_answer(
            AccountState(account=row.id, device_list=row.device_list, quota_bytes=row.quota_bytes)
        )

    async def status(self, request: Request) -> Answer:
        """What the owner wants to know at a glance."""
        desk = self._desk
        asked = await desk.device(request)

        row, totals, head = await desk.catalogue.read(
            lambda c: (
                (found := account_row(c, asked.account)),
                chunk_totals(c, found.number),
                head_state(c, found, found.head_seq),
            )
        )
        listed = decode(head.snapshot_list, SnapshotList).snapshots if head.head is not None else []
        verdict = await account_verdict(desk, row.number)
        return msgpack_answer(
            AccountStatus(
                quota_bytes=row.quota_bytes,
                used_bytes=row.used_bytes,
                chunks=totals[0],
                snapshots=len(listed),
                head_seq=row.head_seq,
                devices=len(asked.devices.devices),
                verdict=verdict.word,
                sentence=verdict.sentence,
                stripes=verdict.stripes,
                nodes=[
                    NodeBrief(id=node.hex(), zone=known.zone, state=desk.live.state(node))
                    for node, known in sorted(desk.live.nodes.items())
                ],
            )
        )
