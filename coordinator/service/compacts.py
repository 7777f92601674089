"""POST /v1/admin/compact: an operator has a node give room back to its disk."""

from __future__ import annotations

from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.service.operations import node_of
from holdfast.protocol.codec import decode
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.messages.compact import AskCompact, Compact, Compacted

__all__ = ["CompactHandlers"]


class CompactHandlers:
    """See protocol.messages.compact."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self, router: Routes) -> None:
        """Add the path."""
        router.add_post("/v1/admin/compact", self.compact)

    async def compact(self, request: Request) -> Answer:
        """Have a node compact its store, or ask how far it is."""
        asked = decode(await self._desk.operator(request), AskCompact)
        row = node_of(self._desk, asked.node)
        message = Compact(start=asked.start)
        return msgpack_answer(await self._desk.calls.ask(row, "POST", "/v1/compact", message, Compacted))
