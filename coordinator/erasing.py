"""Deletion orders on their way: what nodes are to erase goes out, is answered, and is forgotten.

A node has one order in flight. It is sent again, under its number, until the node
has answered: after a lost answer, after a crash of either side, after any absence.
While the catalogue may be older than the nodes (meta row "unreconciled") nothing goes out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from holdfast.coordinator.catalogue import erasures
from holdfast.coordinator.catalogue.erasures import Order
from holdfast.coordinator.limits import ERASE_NODES_AT_ONCE_MAX
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import NodeId
from holdfast.protocol.limits import DELETION_NUMBER_MAX
from holdfast.protocol.messages.nodes import DeletionAnswer, DeletionOrder
from holdfast.protocol.signing import Signed, sign

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = ["Erasing", "away_nodes", "notice_orders", "send_orders"]

_log = structlog.get_logger()


@dataclass(slots=True)
class Erasing:
    """What is known of orders without asking the catalogue.

    Attributes:
        unanswered: nodes with an order in flight; they are given no slots until they have answered.
        taken: the highest order that each node said it took, as far as the catalogue was asked about it.
    """

    unanswered: set[NodeId] = field(default_factory=set)
    taken: dict[NodeId, int] = field(default_factory=dict)


async def send_orders(desk: Desk) -> float | None:
    """One turn: to every node that is up, its next order."""
    asked, is_unreconciled = await desk.catalogue.read(
        lambda c: (erasures.nodes_asked(c), erasures.is_unreconciled(c))
    )
    desk.erasing.unanswered = {node for node, is_in_flight in asked.items() if is_in_flight}
    if is_unreconciled:
        return None
    for node in asked.keys() - desk.live.nodes.keys():
        await desk.catalogue.write(lambda c, n=node: erasures.forget_node(c, n))  # type: ignore[misc]
    turns = asyncio.Semaphore(ERASE_NODES_AT_ONCE_MAX)

    async def one(node: NodeId) -> bool:
        async with turns:
            return await _send_next(desk, node)

    up = [node for node in asked if node in desk.live.nodes and desk.live.state(node) == "up"]
    went_on = await asyncio.gather(*map(one, up))
    return 0.0 if any(went_on) else None


async def _send_next(desk: Desk, node: NodeId) -> bool:
    """A node's order: made or taken up again, sent, and done with once it is answered. False: not now."""
    row = desk.live.nodes.get(node)
    if row is None:
        return False  # let go while others had their turn
    desk.erasing.unanswered.add(node)
    order = await desk.catalogue.write(lambda c: erasures.next_order(c, node, away_nodes(desk)))
    if order is None:
        desk.erasing.unanswered.discard(node)
        return False
    reached("coordinator.order.made")
    try:
        answer = await desk.calls.ask(
            row,
            "POST",
            "/v1/shards/delete",
            _signed(desk, node, order),
            DeletionAnswer,
        )
        if not order.number <= answer.number <= DELETION_NUMBER_MAX:
            raise BadRequest(f"node {node.short} answers an order with number {answer.number}")
    except HoldfastError as error:
        _log.info("a deletion order is not answered", node=node.short, number=order.number, why=str(error))
        return False
    reached("coordinator.order.answered")
    if answer.number > order.number:
        await notice_orders(desk, node, answer.number)
        return False
    await desk.catalogue.write(lambda c: erasures.answered(c, node, order.number))
    desk.erasing.unanswered.discard(node)
    _log.info(
        "a deletion order was taken",
        node=node.short,
        number=order.number,
        marked=answer.marked,
        absent=answer.absent,
        hold_s=order.hold_s,
    )
    return True


def away_nodes(desk: Desk) -> frozenset[NodeId]:
    """Nodes whose shards are out of reach now, or not to be relied on."""
    return frozenset(node for node in desk.live.nodes if not desk.live.counts(node))


async def notice_orders(desk: Desk, node: NodeId, number: int) -> None:
    """A node has taken an order with this number; if the catalogue never gave it, the catalogue is old."""
    if number <= await desk.catalogue.read(lambda c: erasures.last_order(c, node)):
        return
    if await desk.catalogue.write(lambda c: erasures.overtaken(c, node, number)):
        _log.warning(
            "the catalogue is older than what a node has seen; nothing is erased until all is compared",
            node=node.short,
            number=number,
        )


def _signed(desk: Desk, node: NodeId, order: Order) -> Signed:
    payload = encode(DeletionOrder(1, node, desk.identity.term, order.number, order.hold_s, order.entries))
    return Signed(payload, sign(desk.identity.key, "deletion-order", desk.identity.cluster, payload))
