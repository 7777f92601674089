"""What operators ask about nodes that lie."""

from __future__ import annotations

from holdfast.coordinator.auditing import AuditOutcome, audit
from holdfast.coordinator.catalogue.audits import false_answers_known
from holdfast.coordinator.service.desk import Desk
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.limits import AUDIT_CHUNKS_MAX, FALSE_ANSWERS_SHOWN_MAX
from holdfast.protocol.messages.audit import AskAudit, Audits

__all__ = ["AuditHandlers"]


class AuditHandlers:
    """See protocol.messages.audit."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self, router: Routes) -> None:
        """Add the path."""
        router.add_post("/v1/admin/audit", self.audit)

    async def audit(self, request: Request) -> Answer:
        """Challenge the holders of some stripes now."""
        asked = decode(await self._desk.operator(request), AskAudit)
        if not 0 <= asked.chunks <= AUDIT_CHUNKS_MAX:
            raise BadRequest(f"one request has 0 to {AUDIT_CHUNKS_MAX} stripes challenged")
        told = await audit(self._desk, asked.chunks) if asked.chunks else AuditOutcome()
        known = await self._desk.catalogue.read(lambda c: false_answers_known(c, FALSE_ANSWERS_SHOWN_MAX))
        return msgpack_answer(
            Audits(
                stripes=told.stripes,
                shards=told.shards,
                right=told.right,
                gone=told.gone,
                silent=sorted(told.silent),
                undecided=told.undecided,
                lying=told.lying,
                distrusted=told.distrusted,
                held_back=told.held_back,
                known=known,
            )
        )
