"""What every handler needs: who is asking, signed tickets, leases, the catalogue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.coordinator.catalogue.accounts import AccountRow, account_row
from holdfast.coordinator.catalogue.engine import Catalogue
from holdfast.coordinator.catalogue.nodes import add_groups
from holdfast.coordinator.erasing import Erasing
from holdfast.coordinator.identity import CoordinatorIdentity
from holdfast.coordinator.limits import (
    AUDITS_PER_HOUR_DEFAULT,
    GROUPS_PER_NODE_MAX,
    GROUPS_SPARE_MAX,
    READ_BUDGET_BYTES,
    READ_TICKET_REUSED_MS,
    SETTLE_LOOK_S,
    WRITE_BUDGET_BYTES,
)
from holdfast.coordinator.live import Live
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.placement import Group, plan_lease
from holdfast.coordinator.reconciling import Reconciling
from holdfast.coordinator.reigning import Reigning, require_reign
from holdfast.coordinator.repair_pacing import RepairSettings, Throttle
from holdfast.coordinator.repair_progress import Repairs
from holdfast.coordinator.service.counting import InTurn
from holdfast.coordinator.sweeping import Sweeping
from holdfast.coordinator.witnesses import Witnessing
from holdfast.protocol.accounts import Device, DeviceList, open_device_list
from holdfast.protocol.byte_gate import ByteGate
from holdfast.protocol.clock import Source
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import BadRequest, NoQuorum, Refused
from holdfast.protocol.handling import Request, read_body
from holdfast.protocol.ids import AccountId, DeviceId, NodeId, PublicKey, UploadId
from holdfast.protocol.limits import (
    DELETION_HOLD_S_DEFAULT,
    DEVICE_LIST_BYTES_MAX,
    GROUPS_LEASED_MAX,
    HEAD_BYTES_MAX,
    LARGE_BODIES_BYTES_MAX,
    LARGE_BODY_BYTES,
    MESSAGE_BYTES_MAX,
    TICKET_LIFETIME_MS,
)
from holdfast.protocol.messages.uploads import Lease
from holdfast.protocol.requests import AUTH_HEADER, Auth, Gate, parse_auth
from holdfast.protocol.signing import Signed, key_id, sign
from holdfast.protocol.tickets import NO_UPLOAD, Ticket, Verb, encode_ticket
from holdfast.protocol.transport import Transport, body_digest

__all__ = ["Asked", "Desk"]

_READING: Final = frozenset({"/v1/locate", "/v1/records", "/v1/nodes/heartbeat"})
"""What is answered by POST and changes nothing: open when another coordinator reigns."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A verified request of a device: its account, its device, the raw body."""

    account: AccountId
    device: Device
    devices: DeviceList
    body: bytes


class Desk:
    """Shared by all handlers."""

    def __init__(
        self,
        identity: CoordinatorIdentity,
        catalogue: Catalogue,
        live: Live,
        source: Source,
        program: str,
        transport: Transport,
        trash_hold_s: float = DELETION_HOLD_S_DEFAULT,
        audits_per_hour: int = AUDITS_PER_HOUR_DEFAULT,
        repair: RepairSettings | None = None,
        rebalances: bool = True,
    ) -> None:
        self.identity = identity
        self.catalogue = catalogue
        self.live = live
        self.source = source
        self.program = program
        self.calls = NodeCalls(transport, identity)
        self.repairs = Repairs()
        self.throttle = Throttle(repair or RepairSettings())
        self.audits_per_hour = audits_per_hour
        self.doubted: set[NodeId] = set()
        self.rebalances = rebalances
        self.rebalance_due_s = 0.0
        self.erasing = Erasing()
        self.sweeping = Sweeping(trash_hold_s)
        self.reconciling = Reconciling()
        self.witnessing = Witnessing()
        self.reigning = Reigning()
        self.counting = InTurn()
        self._large_bodies = ByteGate(LARGE_BODIES_BYTES_MAX)
        self._started_ms = source.now_ms()
        self._gate = Gate(identity.public, identity.cluster, self._started_ms)

    # Who is asking

    def _auth(self, request: Request, role: str) -> Auth:
        """Who says so: looked at as far as that goes before the body, which the signature covers."""
        auth = parse_auth(request.header(AUTH_HEADER))
        if auth.role != role:
            raise Refused(f"this is for a {role}, and the request is signed by a {auth.role}")
        if request.method != "GET" and request.path not in _READING:
            require_reign(self)
        return auth

    async def _body(self, request: Request) -> bytes:
        """A listed device's body; long ones have a bounded room together while they arrive.

        Nobody else has a part of that room: strangers could name a node or an operator, and fill it.
        """
        length = request.length or 0
        if not LARGE_BODY_BYTES < length <= MESSAGE_BYTES_MAX:
            return await read_body(request, MESSAGE_BYTES_MAX)
        async with self._large_bodies.hold(length):
            return await read_body(request, MESSAGE_BYTES_MAX)

    def _pass(self, request: Request, auth: Auth, key: PublicKey, body: bytes) -> None:
        # A wall clock that was set back must not lock everybody out until it has caught up with the start.
        now_ms = max(self.source.now_ms(), self._started_ms)
        self._gate.check(auth, key, request.method, request.target, body_digest(body), now_ms=now_ms)

    async def devices_of(self, account: AccountId) -> DeviceList:
        """The account's current device list; raises NoAccount."""
        known = self.live.device_lists.get(account)
        if known is None:
            row = await self.catalogue.read(lambda c: account_row(c, account))
            known = open_device_list(row.device_list, self.identity.cluster)
            self.live.remember_devices(known)
        return known

    async def device(self, request: Request) -> Asked:
        """A request signed by a listed device.

        Raises:
            Refused: not listed, or the signature does not hold. NoAccount: no such account.
        """
        auth = self._auth(request, "device")
        if len(auth.account) != AccountId.SIZE or len(auth.signer) != DeviceId.SIZE:
            raise BadRequest("the signer's ids have the wrong length")
        devices = await self.devices_of(AccountId(auth.account))
        device = devices.device(DeviceId(auth.signer))
        if device is None:
            raise Refused(
                "this device is not on the account's device list (any more)",
                do="Set it up again with 'holdfast recover'.",
            )
        body = await self._body(request)
        self._pass(request, auth, device.sign_key, body)
        return Asked(devices.account, device, devices, body)

    async def new_device(
        self, request: Request, listed_in: Callable[[bytes], Signed]
    ) -> tuple[DeviceList, Signed]:
        """A request that brings the very device list which lists its signer."""
        auth = self._auth(request, "device")
        body = await read_body(request, DEVICE_LIST_BYTES_MAX + HEAD_BYTES_MAX)
        signed = listed_in(body)
        listed = open_device_list(signed, self.identity.cluster)
        device = listed.device(DeviceId(auth.signer)) if len(auth.signer) == DeviceId.SIZE else None
        if device is None or auth.account != listed.account:
            raise Refused("a device list must list the device that brings it")
        self._pass(request, auth, device.sign_key, body)
        return listed, signed

    async def node(
        self, request: Request, key_in: Callable[[bytes], PublicKey] | None = None
    ) -> tuple[NodeId, bytes]:
        """A request signed by a node that joined (or, to join, by the key in its body)."""
        auth = self._auth(request, "node")
        if len(auth.signer) != NodeId.SIZE:
            raise BadRequest("the signer's id has the wrong length")
        if key_in is not None:
            body = await read_body(request, LARGE_BODY_BYTES)
            key = key_in(body)
        else:
            row = self.live.nodes.get(NodeId(auth.signer))
            if row is None:
                raise Refused("this node is not in the cluster", do="Join it with a token.")
            key, body = row.key, await read_body(request, LARGE_BODY_BYTES)
        self._pass(request, auth, key, body)
        return NodeId(auth.signer), body

    async def operator(self, request: Request) -> bytes:
        """A request signed with the operator key; gives the body."""
        auth = self._auth(request, "operator")
        if auth.signer != key_id(self.identity.operator):
            raise Refused("this operator key is not this cluster's")
        body = await read_body(request, LARGE_BODY_BYTES)
        self._pass(request, auth, self.identity.operator, body)
        return body

    async def account(self, asked: Asked) -> AccountRow:
        """The asking device's account row."""
        return await self.catalogue.read(lambda c: account_row(c, asked.account))

    # Permissions

    def ticket(
        self, account: AccountId, device: PublicKey, verb: Verb, group: Group, upload: UploadId
    ) -> tuple[bytes, int]:
        """(a signed ticket, when it expires). Read tickets are handed out again while they are young."""
        now_ms = self.source.now_ms()
        cached = (account, device, group.id, group.version)
        if verb == "read":
            ready = self.live.read_tickets.get(cached)
            # One that lasts longer than any can was made while the clock was ahead: nodes refuse it.
            if ready is not None and READ_TICKET_REUSED_MS < ready[1] - now_ms <= TICKET_LIFETIME_MS:
                return ready
        expires_ms = now_ms + TICKET_LIFETIME_MS
        payload = encode_ticket(
            Ticket(
                1,
                account,
                device,
                verb,
                group.id,
                group.version,
                group.profile.k,
                group.profile.m,
                list(group.members),
                upload,
                WRITE_BUDGET_BYTES if verb == "write" else READ_BUDGET_BYTES,
                expires_ms,
                self.identity.term,
                key_id(self.identity.public),
            )
        )
        signed = encode(Signed(payload, sign(self.identity.key, "ticket", self.identity.cluster, payload)))
        if verb == "read":
            self.live.remember_ticket(cached, signed, expires_ms)
        return signed, expires_ms

    def read_ticket(self, asked: Asked, group: Group) -> tuple[bytes, int]:
        """A read ticket for the asking device."""
        return self.ticket(asked.account, asked.device.sign_key, "read", group, NO_UPLOAD)

    async def leases(self, asked: Asked, upload: UploadId, exclude: frozenset[NodeId]) -> list[Lease]:
        """Groups this upload may write to now, made where there are none.

        Raises:
            NoQuorum: too few nodes are up and have room.
        """
        await self.live.settle()
        while not (groups := await self._writable_groups(exclude)):
            if exclude or not self.live.awaits_reports():
                up = len(self.live.writable(frozenset()))
                raise NoQuorum(
                    f"too few nodes can take shards: {up} of {len(self.live.nodes)} are up and have room",
                    why="a backup on fewer than two nodes would not be one",
                    do="Start more nodes ('holdfast admin status' shows them), then try again.",
                )
            await asyncio.sleep(SETTLE_LOOK_S)
        able = {node.id for node in self.live.writable(exclude)}
        return [self._lease(asked, upload, group, able) for group in groups]

    async def _writable_groups(self, exclude: frozenset[NodeId]) -> Sequence[Group]:
        """Groups that can be written to now; none where too few nodes can."""
        usual = self.live.usual_profile()
        # A plan may ask for groups to be made, and then needs another look; never more than a few.
        for _ in range(3):
            if usual is None:
                break
            groups = list(self.live.groups.values())
            plan = plan_lease(
                groups,
                self.live.writable(exclude),
                usual,
                most=GROUPS_LEASED_MAX,
                may_make=not exclude or self._few(groups),
            )
            if plan.lease or not plan.make or plan.profile is None:
                return plan.lease
            profile, kind, make = plan.profile, plan.kind, plan.make
            await self.catalogue.write(lambda c: add_groups(c, profile, kind, make))  # noqa: B023
            await self.live.refresh(self.catalogue)
        return ()

    def _few(self, groups: list[Group]) -> bool:
        """May excluding nodes have groups made? Unbounded, one account could have any number made."""
        return len(groups) < GROUPS_PER_NODE_MAX * len(self.live.nodes) + GROUPS_SPARE_MAX

    def _lease(self, asked: Asked, upload: UploadId, group: Group, able: set[NodeId]) -> Lease:
        ticket, expires_ms = self.ticket(asked.account, asked.device.sign_key, "write", group, upload)
        return Lease(
            group=group.id,
            version=group.version,
            k=group.profile.k,
            m=group.profile.m,
            members=list(group.members),
            up=[node in able for node in group.members],
            ticket=ticket,
            expires_ms=expires_ms,
        )
