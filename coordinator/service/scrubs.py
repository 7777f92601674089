"""Bad shards: what nodes report of their own, and what operators ask of nodes."""

from __future__ import annotations

import asyncio

import structlog

from holdfast.coordinator.catalogue.findings import note_findings
from holdfast.coordinator.catalogue.nodes import NodeRow
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.service.operations import node_of
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.limits import FINDINGS_MAX, QUARANTINE_SHOWN_MAX
from holdfast.protocol.messages.scrub import (
    AskQuarantine,
    AskScrub,
    Findings,
    FindingsNoted,
    NodeQuarantine,
    QuarantineRead,
    QuarantineShown,
    ReadQuarantine,
    Scrub,
    Scrubbed,
)

__all__ = ["ScrubHandlers"]

_log = structlog.get_logger()


class ScrubHandlers:
    """See protocol.messages.scrub."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_post("/v1/nodes/findings", self.findings)
        router.add_post("/v1/admin/scrub", self.scrub)
        router.add_post("/v1/admin/quarantine", self.quarantine)

    async def findings(self, request: Request) -> Answer:
        """A node found shards of its own bad."""
        node, body = await self._desk.node(request)
        entries = decode(body, Findings).entries
        if len(entries) > FINDINGS_MAX:
            raise BadRequest(f"a node reports at most {FINDINGS_MAX} bad shards at once")
        groups = self._desk.live.groups
        missing = await self._desk.catalogue.write(lambda c: note_findings(c, node, entries, groups))
        if missing:
            _log.warning("a node found shards of its own bad", node=node.short, count=missing)
        return msgpack_answer(FindingsNoted(missing=missing))

    async def scrub(self, request: Request) -> Answer:
        """Have a node reread all its shards, or ask how far it is."""
        asked = decode(await self._desk.operator(request), AskScrub)
        row = node_of(self._desk, asked.node)
        told = await self._desk.calls.ask(row, "POST", "/v1/scrub", Scrub(start=asked.start), Scrubbed)
        return msgpack_answer(told)

    async def quarantine(self, request: Request) -> Answer:
        """What nodes keep aside."""
        asked = decode(await self._desk.operator(request), AskQuarantine)
        if not 1 <= asked.most <= QUARANTINE_SHOWN_MAX:
            raise BadRequest(f"1 to {QUARANTINE_SHOWN_MAX} entries of each node are shown")
        nodes = self._desk.live.nodes
        rows = [node_of(self._desk, asked.node)] if asked.node else [nodes[node] for node in sorted(nodes)]
        told = await asyncio.gather(*(self._read(row, asked.most) for row in rows))
        return msgpack_answer(QuarantineShown(nodes=list(told)))

    async def _read(self, row: NodeRow, most: int) -> NodeQuarantine:
        message = ReadQuarantine(after=0, most=most)
        try:
            told = await self._desk.calls.ask(row, "POST", "/v1/quarantine", message, QuarantineRead)
        except HoldfastError as error:
            return NodeQuarantine(node=row.id, error=error.what, entries=[], total=0, kept_bytes=0, dropped=0)
        return NodeQuarantine(
            node=row.id,
            error="",
            entries=told.entries,
            total=told.total,
            kept_bytes=told.kept_bytes,
            dropped=told.dropped,
        )
