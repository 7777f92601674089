"""POST /v1/rebuild: the coordinator asks this node to bring back one slot's shards."""

from __future__ import annotations

from holdfast.node.limits import REBUILDS_AT_ONCE_MAX
from holdfast.node.rebuilding import Rebuilder
from holdfast.node.service.door import Door
from holdfast.node.writer import Writer
from holdfast.protocol.byte_gate import ByteGate
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import BadRequest, Refused
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.limits import (
    NODES_MAX,
    REBUILD_ENTRIES_MAX,
    REBUILD_SEALED_BYTES_MAX,
    SEALED_BYTES_MAX,
    SEALED_BYTES_MIN,
)
from holdfast.protocol.messages.repair import PullOrder, Rebuild, RebuildAnswer, Rebuilt
from holdfast.protocol.signing import Signed, sign

__all__ = ["RebuildHandlers"]


class RebuildHandlers:
    """See protocol.messages.repair."""

    def __init__(self, door: Door, writer: Writer, rebuilder: Rebuilder) -> None:
        self._door = door
        self._writer = writer
        self._rebuilder = rebuilder
        # Counted in rebuilds: each is bounded in bytes by itself.
        self._turns = ByteGate(REBUILDS_AT_ONCE_MAX)

    def routes(self, router: Routes) -> None:
        """Add the path."""
        router.add_post("/v1/rebuild", self.rebuild)

    async def rebuild(self, request: Request) -> Answer:
        """Answers when everything that could be rebuilt is durable here."""
        self._writer.refuse_while_held()
        asked = decode(await self._door.coordinator(request), Rebuild)
        order = self._door.open_pull_order(asked.pull)
        _check(asked, order, self._door)
        async with self._turns.hold(1):
            outcome = await self._rebuilder.rebuild(asked, order)
        identity, store = self._door.identity, self._writer.store
        payload = encode(
            Rebuilt(
                1,
                identity.node,
                order.order,
                order.term,
                asked.group,
                asked.group_version,
                asked.slot,
                store.id,
                store.stats().counter,
                outcome.entries,
                outcome.wrong,
            )
        )
        signed = Signed(payload, sign(identity.key, "rebuilt", identity.cluster, payload))
        return msgpack_answer(
            RebuildAnswer(
                rebuilt=signed, pulled_bytes=outcome.pulled_bytes, stored_bytes=outcome.stored_bytes
            )
        )


def _check(asked: Rebuild, order: PullOrder, door: Door) -> None:
    """Bounds, and that the order is this node's."""
    if order.node != door.identity.node:
        raise Refused("the pull order is for another node")
    if not 1 <= len(asked.entries) <= REBUILD_ENTRIES_MAX or len(asked.sources) > NODES_MAX:
        raise BadRequest(f"a rebuild names 1 to {REBUILD_ENTRIES_MAX} stripes")
    if any(not SEALED_BYTES_MIN <= entry.sealed_bytes <= SEALED_BYTES_MAX for entry in asked.entries):
        raise BadRequest("a rebuild names a stripe of a size out of bounds")
    if sum(entry.sealed_bytes for entry in asked.entries) > REBUILD_SEALED_BYTES_MAX:
        raise BadRequest(f"a rebuild has at most {REBUILD_SEALED_BYTES_MAX} sealed bytes")
    if not 0 <= asked.slot < asked.profile.n or asked.group < 0:
        raise BadRequest("a rebuild names a slot outside the stripe")
    if any(not 0 <= source.slot < asked.from_profile.n for source in asked.sources):
        raise BadRequest("a rebuild names a source's slot outside the stripe")
    if order.group == asked.group and asked.profile != asked.from_profile:
        raise BadRequest("a group has one profile")
