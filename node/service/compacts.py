"""POST /v1/compact: the coordinator asks this node to give room back to its disk."""

from __future__ import annotations

from holdfast.node.compacting import Compactor
from holdfast.node.service.door import Door
from holdfast.node.writer import Writer
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import StoreFailed
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.messages.compact import Compact

__all__ = ["CompactHandlers"]


class CompactHandlers:
    """See protocol.messages.compact."""

    def __init__(self, door: Door, writer: Writer, compactor: Compactor) -> None:
        self._door = door
        self._writer = writer
        self._compactor = compactor

    def routes(self, router: Routes) -> None:
        """Add the path."""
        router.add_post("/v1/compact", self.compact)

    async def compact(self, request: Request) -> Answer:
        """Begin, or tell how far it is."""
        asked = decode(await self._door.coordinator(request), Compact)
        if self._writer.failed is not None:
            raise StoreFailed("this node's store has failed, and is not compacted", why=self._writer.failed)
        if asked.start:
            self._compactor.ask()
        return msgpack_answer(self._compactor.stands())
