"""Who may come in: proves who asks before any handler looks at what is asked.

To a node come devices with a ticket (shards of their account) or with their device list
(heads of their account), the coordinator (orders), a coordinator that has yet to prove that
it reigns, and other nodes with a pull order (shards to repair with).
"""

from __future__ import annotations

import base64
from collections.abc import Callable

import structlog

from holdfast.node.admission import Admission, Admitted
from holdfast.node.limits import CLOCK_TOLERATED_MS
from holdfast.node.membership import Identity
from holdfast.protocol.accounts import open_device_list
from holdfast.protocol.charter import Charter, open_charter
from holdfast.protocol.clock import Source
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, Refused, TicketExpired
from holdfast.protocol.handling import Request, read_body
from holdfast.protocol.ids import AccountId, DeviceId, PublicKey
from holdfast.protocol.limits import (
    DEVICE_LIST_BYTES_MAX,
    HEAD_BYTES_MAX,
    LARGE_BODY_BYTES,
    MESSAGE_BYTES_MAX,
    TICKET_LIFETIME_MS,
)
from holdfast.protocol.messages.repair import PullOrder
from holdfast.protocol.messages.witness import Reign
from holdfast.protocol.requests import AUTH_HEADER, TICKET_HEADER, Auth, Gate, parse_auth
from holdfast.protocol.signing import Signed, key_id, node_id, verify
from holdfast.protocol.tickets import Verb
from holdfast.protocol.transport import body_digest

__all__ = ["Door"]

_log = structlog.get_logger()


class Door:
    """Checks requests to one node.

    Args:
        admission: tickets, and the coordinator and term this node follows.
    """

    def __init__(self, identity: Identity, admission: Admission, source: Source) -> None:
        self.identity = identity
        self.admission = admission
        self._source = source
        self._gate = Gate(identity.node, identity.cluster, source.now_ms())
        self._ahead_ms = 0
        self._steady_ms = self._since_steady(source.now_ms())

    def _since_steady(self, time_ms: int) -> int:
        """A wall time, less this machine's steady clock: it stays the same while nobody sets the clock."""
        return time_ms - int(1000 * self._source.monotonic())

    def now_ms(self) -> int:
        """Wall time by which requests, tickets and orders are judged: this machine's, set right."""
        return self._source.now_ms() + self._ahead_ms

    def hear_time(self, time_ms: int) -> None:
        """The coordinator's clock says so now. Where this machine's is far off, the coordinator's counts.

        Tickets and orders expire by the clock of the one who signed them; judged by another, a node whose
        clock is an hour off would serve nobody.
        """
        ahead_ms, steady_ms = time_ms - self._source.now_ms(), self._since_steady(time_ms)
        # Both clocks may have been set, by as much: what is signed from now on is not old for that.
        was_set = abs(steady_ms - self._steady_ms) > 2 * CLOCK_TOLERATED_MS
        self._steady_ms = steady_ms
        if abs(ahead_ms - self._ahead_ms) <= CLOCK_TOLERATED_MS and not was_set:
            return
        _log.warning("this machine's clock is not the coordinator's", ahead_ms=ahead_ms)
        self._ahead_ms = ahead_ms
        # As after a start: what was signed before is refused, because its nonces cannot be told any more.
        self._gate = Gate(self.identity.node, self.identity.cluster, self.now_ms())

    def _pass(
        self,
        request: Request,
        auth: Auth,
        key: PublicKey,
        header: bytes | memoryview,
        ticket: bytes | None,
    ) -> None:
        self._gate.check(
            auth,
            key,
            request.method,
            request.target,
            body_digest(header, ticket),
            now_ms=self.now_ms(),
        )

    def coordinator_key(self) -> PublicKey:
        """The coordinator this node follows; raises Refused before it has met one."""
        key = self.admission.coordinator
        if key is None:
            raise Refused("this node has not met its coordinator yet")
        return key

    def device(self, request: Request, header: memoryview, verb: Verb) -> Admitted:
        """A device with a ticket; the header's bytes are what its signature covers.

        Raises:
            Refused, TicketExpired, StaleRequest, BadRequest: it may not.
        """
        auth = parse_auth(request.header(AUTH_HEADER))
        signed = _sent_ticket(request)
        admitted = self.admission.admit(signed, auth, verb, self.now_ms())
        self._pass(request, auth, admitted.ticket.device_key, header, signed)
        return admitted

    async def coordinator(self, request: Request) -> bytes:
        """A request of the coordinator this node follows; gives the body, all of which is signed.

        Raises:
            Refused, StaleRequest, BadRequest: it is not.
        """
        auth = parse_auth(request.header(AUTH_HEADER))
        key = self.coordinator_key()
        if auth.role != "coordinator" or auth.signer != key_id(key):
            raise Refused(
                "only this cluster's coordinator, as this node knows it, may ask this",
                term=self.admission.term,
            )
        body = await read_body(request, MESSAGE_BYTES_MAX)
        self._pass(request, auth, key, body, None)
        return body

    async def peer(self, request: Request) -> tuple[PullOrder, bytes]:
        """Another node with a pull order of the coordinator; gives the order and the body.

        Raises:
            Refused, TicketExpired, StaleRequest, BadRequest: it may not.
        """
        auth = parse_auth(request.header(AUTH_HEADER))
        sent = _sent_ticket(request)
        order = self.open_pull_order(decode(sent, Signed))
        if auth.role != "node" or auth.signer != order.node or order.node != node_id(order.key):
            raise Refused("the pull order is another node's")
        body = await read_body(request, MESSAGE_BYTES_MAX)
        self._pass(request, auth, order.key, body, sent)
        return order, body

    async def reign(self, request: Request) -> tuple[Reign, Charter]:
        """A coordinator that proves itself by the charter it brings, whatever its term.

        Raises:
            Refused, StaleRequest, BadRequest: it is not this cluster's.
        """
        auth = parse_auth(request.header(AUTH_HEADER))
        if auth.role != "coordinator":
            raise Refused("only a coordinator says that it reigns")
        # The map of a large cluster is long. Whoever is new says without it that it reigns.
        known = self.admission.coordinator
        is_known = known is not None and auth.signer == key_id(known)
        body = await read_body(request, MESSAGE_BYTES_MAX if is_known else LARGE_BODY_BYTES)
        told = decode(body, Reign)
        charter = open_charter(told.root, told.charter, self.identity.cluster)
        if auth.signer != key_id(charter.coordinator):
            raise Refused("this request is not signed by the coordinator that its charter names")
        self._pass(request, auth, charter.coordinator, body, None)
        return told, charter

    async def listed_device(
        self, request: Request, list_in: Callable[[bytes], Signed]
    ) -> tuple[bytes, AccountId, DeviceId]:
        """A device that the device list in its request lists; gives the body, its account and its id.

        Raises:
            Refused, StaleRequest, BadRequest: it is not listed, or the root did not sign that list.
        """
        auth = parse_auth(request.header(AUTH_HEADER))
        body = await read_body(request, DEVICE_LIST_BYTES_MAX + HEAD_BYTES_MAX)
        listed = open_device_list(list_in(body), self.identity.cluster)
        device = next((each for each in listed.devices if each.id == auth.signer), None)
        if auth.role != "device" or auth.account != listed.account or device is None:
            raise Refused("the device list in this request does not list the device that signed it")
        self._pass(request, auth, device.sign_key, body, None)
        return body, listed.account, device.id

    def open_pull_order(self, signed: Signed) -> PullOrder:
        """A pull order that holds now.

        Raises:
            Refused: not this coordinator's, or of a term that is over. TicketExpired: its time is over.
        """
        verify(self.coordinator_key(), signed.signature, "pull-order", self.identity.cluster, signed.payload)
        order = decode(signed.payload, PullOrder)
        now_ms = self.now_ms()
        if order.term < self.admission.term:
            raise Refused(f"this pull order is of term {order.term}, which is over")
        if now_ms >= order.expires_ms:
            raise TicketExpired("the pull order has expired", do="The coordinator gives a new one.")
        if order.expires_ms > now_ms + 2 * TICKET_LIFETIME_MS:
            raise Refused("the pull order expires too far in the future")
        return order


def _sent_ticket(request: Request) -> bytes:
    sent = request.header(TICKET_HEADER)
    if not sent:
        raise Refused(f"this needs a ticket in the {TICKET_HEADER} header")
    try:
        return base64.b64decode(sent, altchars=b"-_", validate=True)
    except ValueError:
        raise BadRequest(f"the {TICKET_HEADER} header is not base64") from None
