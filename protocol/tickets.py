"""Tickets: the coordinator's short-lived permission to write or read one group's shards.

A node needs nothing but the ticket, the coordinator's charter and its own
identity to decide: the ticket carries the group's members, so slot membership
is checked against what the coordinator signed, not against a map that may lag.
The pure decision is :func:`admit`.
"""

from __future__ import annotations

from typing import Literal

from holdfast.protocol.codec import Record, decode, encode
from holdfast.protocol.errors import BadRequest, Refused, TicketExpired
from holdfast.protocol.ids import AccountId, ClusterId, Digest, KeyId, NodeId, PublicKey, UploadId
from holdfast.protocol.limits import TICKET_LIFETIME_MS
from holdfast.protocol.profiles import Profile
from holdfast.protocol.signing import Signed, verify
from holdfast.protocol.stripes import digest_of

__all__ = ["NO_UPLOAD", "Ticket", "admit", "open_ticket", "ticket_digest"]

NO_UPLOAD = UploadId(bytes(16))
"""The upload id of a read ticket."""

Verb = Literal["write", "read"]


class Ticket(Record):
    """Permission for one account, one device, one group, one kind of operation.

    Attributes:
        members: the node of every slot, in slot order (n of them).
        budget_bytes: raw shard bytes that each node may take (or give) under it.
        expires_ms: wall time, at most TICKET_LIFETIME_MS after it was signed.
    """

    version: Literal[1]
    account: AccountId
    device_key: PublicKey
    verb: Verb
    group: int
    group_version: int
    k: int
    m: int
    members: list[NodeId]
    upload: UploadId
    budget_bytes: int
    expires_ms: int
    term: int
    key: KeyId

    @property
    def profile(self) -> Profile:
        """The group's profile."""
        return Profile(self.k, self.m)


def open_ticket(signed: bytes, cluster: ClusterId, coordinator: PublicKey) -> Ticket:
    """The ticket in signed bytes, its signature verified.

    Raises:
        Refused: not signed by this coordinator for this cluster.
        BadRequest: not a ticket.
    """
    envelope = decode(signed, Signed)
    verify(coordinator, envelope.signature, "ticket", cluster, envelope.payload)
    ticket = decode(envelope.payload, Ticket)
    if len(ticket.members) != ticket.profile.n:
        raise BadRequest("a ticket must name one node for each slot")
    return ticket


def ticket_digest(signed: bytes) -> Digest:
    """What a request to a node covers instead of the ticket itself."""
    return digest_of(signed)


def admit(ticket: Ticket, *, verb: Verb, node: NodeId, term: int, now_ms: int) -> int | None:
    """May this ticket do this on this node now? Gives the node's slot in the group.

    For reads None is possible: a former holder still serves what it has.

    Raises:
        TicketExpired: its time is over.
        Refused: another verb, an older term, or (writes) the node is no member.
    """
    if ticket.verb != verb:
        raise Refused(f"this ticket is for {ticket.verb}, not {verb}")
    if ticket.term < term:
        raise Refused(f"this ticket is of term {ticket.term}", why=f"the cluster is in term {term}")
    if now_ms >= ticket.expires_ms:
        raise TicketExpired("the ticket has expired", do="Ask the coordinator for a fresh one.")
    if ticket.expires_ms > now_ms + 2 * TICKET_LIFETIME_MS:
        raise Refused("the ticket expires too far in the future", why="a clock is wrong by many minutes")
    if node in ticket.members:
        return ticket.members.index(node)
    if verb == "write":
        raise Refused("this node has no slot in the ticket's group")
    return None


def encode_ticket(ticket: Ticket) -> bytes:
    """The payload to sign."""
    return encode(ticket)
