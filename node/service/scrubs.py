"""POST /v1/scrub and /v1/quarantine: the coordinator asks how the shards are."""

from __future__ import annotations

from holdfast.node.scrubbing import Scrubber
from holdfast.node.service.door import Door
from holdfast.node.writer import Writer
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, StoreFailed
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.limits import QUARANTINE_SHOWN_MAX
from holdfast.protocol.messages.scrub import QuarantineEntry, QuarantineRead, ReadQuarantine, Scrub

__all__ = ["ScrubHandlers"]


class ScrubHandlers:
    """See protocol.messages.scrub."""

    def __init__(self, door: Door, writer: Writer, scrubber: Scrubber) -> None:
        self._door = door
        self._writer = writer
        self._scrubber = scrubber

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_post("/v1/scrub", self.scrub)
        router.add_post("/v1/quarantine", self.quarantine)

    async def scrub(self, request: Request) -> Answer:
        """Reread everything now, or tell how far it is."""
        asked = decode(await self._door.coordinator(request), Scrub)
        if self._writer.failed is not None:
            raise StoreFailed("this node's store has failed, and is not reread", why=self._writer.failed)
        if asked.start:
            self._scrubber.ask()
        return msgpack_answer(self._scrubber.stands())

    async def quarantine(self, request: Request) -> Answer:
        """What is kept aside."""
        asked = decode(await self._door.coordinator(request), ReadQuarantine)
        if not 1 <= asked.most <= QUARANTINE_SHOWN_MAX or not 0 <= asked.after < 1 << 63:
            raise BadRequest(f"one answer shows 1 to {QUARANTINE_SHOWN_MAX} entries of a quarantine")
        store = self._writer.store
        stats, found = store.stats(), store.quarantined(asked.after, asked.most)
        return msgpack_answer(
            QuarantineRead(
                entries=[
                    QuarantineEntry(
                        entry.number,
                        entry.at_ms,
                        entry.key.group,
                        entry.key.slot,
                        entry.key.account,
                        entry.key.chunk,
                        entry.key.generation,
                        entry.stored_bytes,
                    )
                    for entry in found
                ],
                total=stats.quarantined,
                kept_bytes=stats.quarantined_bytes,
                dropped=stats.dropped,
            )
        )
