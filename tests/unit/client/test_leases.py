"""Which nodes an upload goes on without, and when leases are looked for anew."""

from __future__ import annotations

from typing import Any, cast

import pytest

from holdfast.client.leases import Leases
from holdfast.client.link import Link
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import GroupMoved, HoldfastError, TicketExpired, Unreachable
from holdfast.protocol.ids import NodeId, UploadId
from holdfast.protocol.limits import TICKET_LIFETIME_MS
from holdfast.protocol.messages.uploads import Lease, UploadOpened

NODES = [NodeId(bytes([number]) * 16) for number in range(3)]


class Coordinator:
    """Leases one group, again and again; remembers who was to be left out."""

    def __init__(self, source: FixedSource) -> None:
        self._source = source
        self.excluded: list[list[NodeId]] = []

    def _opened(self, upload: UploadId) -> UploadOpened:
        expires_ms = self._source.now_ms() + TICKET_LIFETIME_MS
        lease = Lease(
            group=1, version=1, k=2, m=1, members=NODES, up=[True] * 3, ticket=b"", expires_ms=expires_ms
        )
        return UploadOpened(
            upload=upload, leases=[lease], epoch=1, head_seq=0, sweep_generation=0, silence_ms=60_000
        )

    async def open_upload(self, upload: UploadId, expected_bytes: int) -> UploadOpened:
        return self._opened(upload)

    async def renew_upload(self, upload: UploadId, exclude: list[NodeId]) -> UploadOpened:
        self.excluded.append(exclude)
        return self._opened(upload)


@pytest.fixture
async def opened() -> tuple[Leases, Coordinator, FixedSource]:
    source = FixedSource()
    coordinator = Coordinator(source)
    leases = Leases(cast(Link, cast(Any, coordinator)), UploadId(bytes(16)), source)
    await leases.open(0)
    return leases, coordinator, source


async def test_a_node_that_fails_is_left_out_for_a_while(
    opened: tuple[Leases, Coordinator, FixedSource],
) -> None:
    leases, coordinator, source = opened
    leases.blame(NODES[1], Unreachable("no answer"))
    assert leases.is_failing(NODES[1])
    await leases.next()
    assert coordinator.excluded == [[NODES[1]]]
    source.advance(61)
    assert not leases.is_failing(NODES[1])


async def test_a_node_that_calls_a_fresh_ticket_expired_has_a_wrong_clock_and_is_left_out(
    opened: tuple[Leases, Coordinator, FixedSource],
) -> None:
    leases, coordinator, _ = opened
    leases.blame(NODES[2], TicketExpired("the ticket has expired"))
    assert leases.is_failing(NODES[2])
    await leases.next()
    assert coordinator.excluded == [[NODES[2]]]


@pytest.mark.parametrize("error", [TicketExpired("expired"), GroupMoved("moved")])
async def test_an_old_ticket_or_a_group_that_moved_is_nobody_s_fault(
    opened: tuple[Leases, Coordinator, FixedSource], error: HoldfastError
) -> None:
    leases, coordinator, source = opened
    source.advance(TICKET_LIFETIME_MS / 1000 * 0.6)
    leases.blame(NODES[0], error)
    assert not leases.is_failing(NODES[0])
    await leases.next()
    assert coordinator.excluded == [[]]
