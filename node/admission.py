"""May this request do this on this node now? Pure decisions over what was sent.

The account, the generation, the group and its profile come from the ticket,
never from the body; the body may only say which chunks, and prove their bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from holdfast.node.limits import TICKETS_REMEMBERED_MAX
from holdfast.node.store import Put, ShardKey
from holdfast.protocol.errors import BadRequest, IntegrityFailure, Refused
from holdfast.protocol.ids import ChunkId, ClusterId, Digest, NodeId, PublicKey
from holdfast.protocol.limits import SHARD_BATCH_ENTRIES_MAX, STRIPE_SHARDS_MAX
from holdfast.protocol.messages.nodes import PutHeader, ReadHeader
from holdfast.protocol.messages.repair import PullHeader, PullOrder
from holdfast.protocol.requests import Auth
from holdfast.protocol.signing import device_id
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of
from holdfast.protocol.tickets import Ticket, Verb, admit, open_ticket, ticket_digest

__all__ = ["Admission", "Admitted", "check_shard", "pull_keys", "read_keys", "records_of"]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A ticket that holds for this request, the node's slot, and which ticket it was."""

    ticket: Ticket
    slot: int | None
    digest: Digest


class Admission:
    """Verifies tickets (each once) and counts what they have used. Bounded memory.

    Args:
        node: this node.
        cluster: its cluster.
        coordinator: the coordinator's public key (None before the first meeting); replaced as terms rise.
        term: the highest term seen.
    """

    def __init__(self, node: NodeId, cluster: ClusterId, coordinator: PublicKey | None, term: int) -> None:
        self._node = node
        self._cluster = cluster
        self.coordinator = coordinator
        self.term = term
        self._known: OrderedDict[Digest, tuple[Ticket, int]] = OrderedDict()

    def reign(self, coordinator: PublicKey, term: int) -> None:
        """Follow a coordinator of the same or a higher term; tickets of an old key or term are forgotten."""
        if term < self.term:
            return
        if (coordinator, term) != (self.coordinator, self.term):
            self._known.clear()
        self.coordinator, self.term = coordinator, term

    def admit(self, signed_ticket: bytes, auth: Auth, verb: Verb, now_ms: int) -> Admitted:
        """The ticket, if this signer may use it for this now. The signature of the request is
        checked by the caller with ``ticket.device_key``.

        Raises:
            Refused, TicketExpired, BadRequest: it may not.
        """
        digest = ticket_digest(signed_ticket)
        known = self._known.get(digest)
        if self.coordinator is None:
            raise Refused("this node has not met its coordinator yet")
        ticket = known[0] if known else open_ticket(signed_ticket, self._cluster, self.coordinator)
        slot = admit(ticket, verb=verb, node=self._node, term=self.term, now_ms=now_ms)
        if auth.role != "device" or auth.account != ticket.account:
            raise Refused("the ticket is another account's")
        if auth.signer != device_id(ticket.device_key):
            raise Refused("the ticket is another device's")
        if known is None:
            self._known[digest] = (ticket, 0)
            while len(self._known) > TICKETS_REMEMBERED_MAX:
                self._known.popitem(last=False)
        return Admitted(ticket, slot, digest)

    def spend(self, admitted: Admitted, count: int) -> None:
        """Count bytes against the ticket's budget; raises Refused beyond it."""
        ticket, used = self._known.get(admitted.digest, (admitted.ticket, 0))
        if used + count > ticket.budget_bytes:
            raise Refused("the ticket's byte budget is used up", do="Ask the coordinator for a fresh ticket.")
        self._known[admitted.digest] = (ticket, used + count)


def records_of(admitted: Admitted, header: PutHeader) -> list[ShardRecord]:
    """What a put says that it brings, before any shard has come.

    Raises:
        Refused: the slot is not this node's.
        BadRequest: entries do not fit.
    """
    ticket = admitted.ticket
    if admitted.slot is None or header.slot != admitted.slot:
        raise Refused(f"slot {header.slot} of group {ticket.group} is not this node's")
    if not 1 <= len(header.entries) <= SHARD_BATCH_ENTRIES_MAX:
        raise BadRequest(f"a batch has 1 to {SHARD_BATCH_ENTRIES_MAX} shards")
    if len({entry.chunk for entry in header.entries}) != len(header.entries):
        raise BadRequest("a batch names each chunk once")
    return [
        ShardRecord(
            ticket.account,
            entry.chunk,
            ticket.upload,
            ticket.group,
            header.slot,
            StripeHeader(ticket.profile, entry.sealed_bytes, entry.digests),
        )
        for entry in header.entries
    ]


def check_shard(put: Put) -> None:
    """Its digest holds. Hashes all bytes: about a millisecond for the longest shard there is.

    Raises:
        IntegrityFailure: it is not what its digest says.
    """
    if digest_of(put.shard) != put.record.digest:
        raise IntegrityFailure(
            f"the shard of chunk {put.record.chunk.short} was damaged on its way", do="Send it again."
        )


def read_keys(admitted: Admitted, header: ReadHeader) -> list[ShardKey]:
    """What a read asks for, within the ticket's account and group.

    Raises:
        BadRequest: too many entries, or a slot outside the stripe.
    """
    ticket = admitted.ticket
    if not 1 <= len(header.entries) <= SHARD_BATCH_ENTRIES_MAX:
        raise BadRequest(f"a read asks for 1 to {SHARD_BATCH_ENTRIES_MAX} shards")
    keys = []
    for entry in header.entries:
        if not 0 <= entry.slot < ticket.profile.n:
            raise BadRequest(f"slot {entry.slot} is outside a {ticket.profile} stripe")
        keys.append(
            ShardKey(ticket.group, entry.slot, ticket.account, ChunkId(entry.chunk), entry.generation)
        )
    return keys


def pull_keys(order: PullOrder, header: PullHeader) -> list[ShardKey]:
    """What a peer's pull asks for, within the order's group.

    Raises:
        BadRequest: too many entries, or a slot that no stripe has.
    """
    if not 1 <= len(header.entries) <= SHARD_BATCH_ENTRIES_MAX:
        raise BadRequest(f"a pull asks for 1 to {SHARD_BATCH_ENTRIES_MAX} shards")
    if any(not 0 <= entry.slot < STRIPE_SHARDS_MAX for entry in header.entries):
        raise BadRequest("a pull names a slot that no stripe has")
    return [ShardKey(order.group, e.slot, e.account, e.chunk, e.generation) for e in header.entries]
