"""What a device asks of witnesses: whether the head it is shown is the newest, and whether its own is kept.

A device that has seen heads before checks the links since. A new one has seen nothing: it asks the nodes
that the head itself names, each with a nonce, and counts (protocol.witnessing). A coordinator that shows
an older head would need a majority of that head's witnesses on its side. One that shows none at all
is held against every node of its map: a single valid head anywhere is enough to refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from holdfast.client.limits import WITNESS_TIMEOUT_S, WITNESSES_ASKED_MAX
from holdfast.client.link import Link
from holdfast.protocol.accounts import DeviceList, Head, Witness, open_head, signed_digest
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import HoldfastError, OutcomeUnknown, Refused
from holdfast.protocol.ids import ClusterId, Digest, NodeId
from holdfast.protocol.limits import NONCE_BYTES
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.witness import AskWitness, WitnessStatement
from holdfast.protocol.signing import Signed
from holdfast.protocol.witnessing import Seen, Verdict, judge, majority, open_statement

__all__ = ["Confirmation", "ask_witnesses", "checked_witnesses", "hidden_head", "require_kept"]

_HINT = "Do not trust this coordinator with new backups; ask its operator what was restored or rebuilt."


class Confirmation(Struct, frozen=True):
    """What the witnesses of a head say: how many of how many keep it, and what follows."""

    verdict: Verdict
    having: int
    asked: int


async def checked_witnesses(link: Link, proposed: Sequence[Witness]) -> list[Witness]:
    """The witnesses that a coordinator proposes, if they are nodes of its signed map.

    Raises:
        Refused: one is not, or there are nodes and none is proposed.
    """
    nodes = await link.nodes([each.node for each in proposed], 0) if proposed else await link.all_nodes()
    for witness in proposed:
        known = nodes.get(witness.node)
        if known is None or known.key != witness.key:
            raise Refused(
                f"the coordinator proposes a witness {witness.node.short} that is no node of its map"
            )
    if nodes and not proposed:
        raise Refused("the coordinator has nodes, and proposes none of them as a witness", do=_HINT)
    return list(proposed)


def require_kept(head: Head, digest: Digest, statements: Sequence[Signed], cluster: ClusterId) -> None:
    """A posted head counts when a majority of its witnesses says that it keeps it.

    Raises:
        OutcomeUnknown: too few do, or their word does not hold.
    """
    witnesses = {witness.node: witness for witness in head.witnesses}
    needed = majority(len(head.witnesses))
    keeping: set[NodeId] = set()
    for signed in statements:
        try:
            witness = witnesses[decode(signed.payload, WitnessStatement).node]
            told = open_statement(signed, cluster, witness)
        except (HoldfastError, KeyError):
            continue
        if (told.account, told.asked_seq, told.asked_head) == (head.account, head.seq, digest):
            keeping.add(witness.node)
        if len(keeping) >= needed:
            return
    if len(keeping) < needed:
        raise OutcomeUnknown(
            f"the coordinator took head {head.seq}, and too few of its witnesses have confirmed it",
            why=f"{len(keeping)} of {len(head.witnesses)} did",
            do="Run it again: repeating is safe. If it stays, ask the operator how the nodes are.",
        )


async def ask_witnesses(
    link: Link, devices: DeviceList, devices_signed: Signed, head: Head, digest: Digest
) -> Confirmation:
    """Ask every witness of a head about it.

    Raises:
        Unreachable: the coordinator gives no map to find them by.
    """
    nodes = await link.nodes([each.node for each in head.witnesses], 0)
    seen: dict[NodeId, Seen] = {}

    async def one(witness: Witness) -> None:
        node = nodes.get(witness.node)
        if node is None:
            return
        try:
            told, newest = await _ask(link, devices_signed, node, witness, head.seq)
            newer = False
            if newest is not None:
                shown = open_head(newest, link.cluster, devices, signed_digest(devices_signed))
                newer = shown.seq == told.seq > head.seq and signed_digest(newest) == told.head
        except HoldfastError:
            return  # silent, or not to be believed: the same
        seen[witness.node] = Seen(told.asked_head == digest, newer)

    await asyncio.gather(*map(one, head.witnesses))
    return Confirmation(
        judge([each.node for each in head.witnesses], seen),
        sum(each.has_it for each in seen.values()),
        len(head.witnesses),
    )


async def _ask(
    link: Link, devices_signed: Signed, node: MapNode, witness: Witness, seq: int
) -> tuple[WitnessStatement, Signed | None]:
    nonce = link.source.random_bytes(NONCE_BYTES)
    message = AskWitness(device_list=devices_signed, seq=seq, nonce=nonce)
    answer = await link.ask_witness(node, message, WITNESS_TIMEOUT_S)
    told = open_statement(answer.statement, link.cluster, witness)
    if (told.nonce, told.asked_seq) != (nonce, seq) or told.account != link.signer.account:
        raise Refused("a witness answers another question than it was asked")
    return told, answer.head


async def hidden_head(link: Link, devices: DeviceList, devices_signed: Signed) -> int:
    """A coordinator shows no head at all: the highest number that any node keeps; 0: none keeps one."""
    nodes = list((await link.all_nodes()).values())[:WITNESSES_ASKED_MAX]

    async def newest_at(node: MapNode) -> int:
        try:
            _, newest = await _ask(link, devices_signed, node, Witness(node.id, node.key), 0)
            if newest is None:
                return 0
            return open_head(newest, link.cluster, devices, signed_digest(devices_signed)).seq
        except HoldfastError:
            return 0

    return max(await asyncio.gather(*map(newest_at, nodes)), default=0)
