"""The node's HTTP application: all handlers behind one door."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from holdfast.node.service.audits import AuditHandlers
from holdfast.node.service.compacts import CompactHandlers
from holdfast.node.service.inventories import InventoryHandlers
from holdfast.node.service.rebuilds import RebuildHandlers
from holdfast.node.service.scrubs import ScrubHandlers
from holdfast.node.service.shards import ShardHandlers
from holdfast.node.service.witness import WitnessHandlers
from holdfast.protocol.handling import Routes

__all__ = ["HANDLERS", "Handlers", "make_routes"]

HANDLERS: Final = (
    ShardHandlers,
    RebuildHandlers,
    ScrubHandlers,
    InventoryHandlers,
    AuditHandlers,
    CompactHandlers,
    WitnessHandlers,
)
"""Every kind of handlers; a node has one of each."""

Handlers = (
    ShardHandlers
    | RebuildHandlers
    | ScrubHandlers
    | InventoryHandlers
    | AuditHandlers
    | CompactHandlers
    | WitnessHandlers
)


def make_routes(handlers: Iterable[Handlers]) -> Routes:
    """All routes."""
    served = Routes()
    for each in handlers:
        each.routes(served)
    return served
