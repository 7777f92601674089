"""When a head counts as agreed, and what a new device may believe of it. Pure.

A head names its *witnesses*: nodes, with their keys, that keep the account's heads. Of a set of
witnesses a *majority* is more than half; of an empty set nobody, so an empty set always agrees.

A head is **agreed** when a majority of its own witnesses and a majority of its predecessor's keep it.
Any two majorities of one set share a witness, and a witness keeps one head under one number, and
none below its newest that is no ancestor of it. Therefore

- two heads under one number are never both agreed (both need a majority of the predecessor's set);
- where head s + 1 was agreed, a majority of the witnesses of head s keeps it or a later one.

So whoever is shown head s asks the witnesses it names. While fewer than a majority of them can have
anything newer, nothing newer was agreed, and s is the newest head (:func:`judge`). See
docs/FORMAT.md, "Witnesses".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal

from blake3 import blake3
from msgspec import Struct

from holdfast.protocol.accounts import NO_DIGEST, Head, Witness, open_device_list
from holdfast.protocol.charter import Charter
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, ForkDetected, Refused, Rollback
from holdfast.protocol.ids import AccountId, ClusterId, Digest, NodeId, PublicKey
from holdfast.protocol.messages.witness import AccountFacts, WitnessStatement
from holdfast.protocol.signing import Signed, node_id, verify

_FACTS_REMEMBERED: Final = 64
_FACTS_REMEMBERED_BYTES_MAX: Final = 16 * 1024

__all__ = [
    "Seen",
    "Verdict",
    "Willing",
    "admit_head",
    "agrees",
    "choose_witnesses",
    "is_agreed",
    "judge",
    "majority",
    "open_facts",
    "open_statement",
    "witness_count",
]


def majority(count: int) -> int:
    """The least that is more than half of ``count``; 0 of none."""
    return count // 2 + 1 if count else 0


def witness_count(m: int) -> int:
    """How many witnesses a head should have: losing any m of them leaves a majority."""
    return 2 * m + 1


def agrees(witnesses: Collection[NodeId], keeping: Collection[NodeId]) -> bool:
    """Does a majority of these witnesses keep it?"""
    return sum(node in keeping for node in witnesses) >= majority(len(witnesses))


def is_agreed(
    own: Collection[NodeId],
    before: Collection[NodeId],
    keeping: Collection[NodeId],
    given_up: Collection[NodeId] = (),
) -> bool:
    """Is a head agreed that these nodes keep?

    Args:
        own: its witnesses. before: its predecessor's.
        given_up: nodes that the cluster has lost for good, or let go. Of the predecessor's witnesses
            they count no more: otherwise an account could never go on once most of them are gone.
    """
    return agrees(own, keeping) and agrees([node for node in before if node not in given_up], keeping)


class Willing(Struct, frozen=True):
    """A node that could be a witness; ``is_up`` now."""

    id: NodeId
    key: PublicKey
    zone: str
    is_up: bool


def choose_witnesses(
    account: AccountId, nodes: Iterable[Willing], before: Collection[NodeId], count: int
) -> list[Witness]:
    """Who shall witness the account's next head: up to ``count``, in the order of their ids.

    Those that did before stay while they are up, so that little has to be caught up. The rest is drawn
    by rendezvous hashing (Thaler and Ravishankar, 1998), one zone after the other, nodes that are down last.
    """
    drawn = sorted(nodes, key=lambda node: blake3(account + node.id).digest())
    chosen: list[Willing] = [node for node in drawn if node.is_up and node.id in before][:count]
    for is_up in (True, False):
        left = [node for node in drawn if node.is_up is is_up and node not in chosen]
        while left and len(chosen) < count:
            zones = [node.zone for node in chosen]
            # The first of the zone that has the fewest so far; sorting keeps the drawn order within one.
            following = min(left, key=lambda node: zones.count(node.zone))
            left.remove(following)
            chosen.append(following)
    return [Witness(node.id, node.key) for node in sorted(chosen, key=lambda node: node.id)]


def admit_head(
    head: Head,
    digest: Digest,
    *,
    kept: Digest | None,
    newest: tuple[int, Digest] | None,
    follower: Head | None,
) -> Literal["known", "newer", "ancestor"]:
    """May a witness keep this head beside those it has?

    Args:
        digest: the head's signed digest.
        kept: the digest of the head kept under its number.
        newest: number and digest of the newest head kept.
        follower: the head kept under the next number.

    Raises:
        ForkDetected: another one is kept under its number, or it does not follow the newest one.
        Rollback: a newer one is kept, and this is not proven to be an ancestor of it.
    """
    if kept is not None:
        if kept != digest:
            raise ForkDetected(f"this witness keeps another head under number {head.seq}", seq=head.seq)
        return "known"
    if newest is None or head.seq > newest[0]:
        if newest is not None and head.seq == newest[0] + 1 and head.previous != newest[1]:
            raise ForkDetected(f"head {head.seq} does not follow head {newest[0]} that this witness keeps")
        return "newer"
    if follower is None or follower.previous != digest:
        raise Rollback(f"this witness keeps head {newest[0]} already, and is shown {head.seq}", seq=newest[0])
    return "ancestor"


def open_statement(signed: Signed, cluster: ClusterId, witness: Witness) -> WitnessStatement:
    """A witness's statement, verified.

    Raises:
        Refused: the signature does not hold, or it names another node than the one that signed it.
        BadRequest: not a statement.
    """
    if node_id(witness.key) != witness.node:
        raise BadRequest("a witness's id is not its key's")
    verify(witness.key, signed.signature, "witness", cluster, signed.payload)
    told = decode(signed.payload, WitnessStatement)
    if told.node != witness.node:
        raise Refused("a witness's statement names another node than the one that signed it")
    if told.seq < 0 or (told.seq == 0) != (told.head == NO_DIGEST):
        raise BadRequest("a witness's statement is not consistent")
    return told


def open_facts(signed: Signed, cluster: ClusterId, charter: Charter) -> AccountFacts:
    """An account's facts, verified.

    Raises:
        Refused: not signed by this coordinator in its term, or the device list is not the root's.
        BadRequest: not facts, or another account's device list.
    """
    if len(signed.payload) <= _FACTS_REMEMBERED_BYTES_MAX:
        return _opened_before(signed, cluster, charter)
    return _open_facts(signed, cluster, charter)


def _open_facts(signed: Signed, cluster: ClusterId, charter: Charter) -> AccountFacts:
    verify(charter.coordinator, signed.signature, "account", cluster, signed.payload)
    facts = decode(signed.payload, AccountFacts)
    if facts.term != charter.term:
        raise Refused(f"an account's facts are of term {facts.term}, and this is term {charter.term}")
    if open_device_list(facts.device_list, cluster).account != facts.account:
        raise BadRequest("an account's facts name another account's device list")
    if facts.quota_bytes < 0 or facts.sweep_generation < 0:
        raise BadRequest("an account's facts are out of bounds")
    return facts


_opened_before = lru_cache(maxsize=_FACTS_REMEMBERED)(_open_facts)
"""They come with every head, and are the same until something changes: see accounts.open_device_list."""


class Seen(Struct, frozen=True):
    """What one witness says of the head it was asked for. ``newer``: it showed a valid head behind it."""

    has_it: bool
    newer: bool


Verdict = Literal["agreed", "outdated", "unsure"]


def judge(witnesses: Sequence[NodeId], seen: Mapping[NodeId, Seen]) -> Verdict:
    """Is the head that names these witnesses the newest one that was agreed?

    Args:
        seen: by node, of those that answered.

    Returns:
        "agreed": a majority keeps it, and nothing newer can have been agreed.
        "outdated": a majority keeps something newer: this head is not the newest.
        "unsure": too few answered to tell, or they do not keep it.
    """
    needed = majority(len(witnesses))
    told = [seen[node] for node in witnesses if node in seen]
    newer = sum(each.newer for each in told)
    silent = len(witnesses) - len(told)
    if newer and newer >= needed:
        return "outdated"
    if sum(each.has_it for each in told) < needed or (newer and newer + silent >= needed):
        return "unsure"
    return "agreed"
