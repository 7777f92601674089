"""Read tickets are handed out again while they are young, and never once nodes would refuse them."""

from __future__ import annotations

from pathlib import Path

from support.coordinator_service import HandClock, office

from holdfast.coordinator.limits import READ_TICKET_REUSED_MS
from holdfast.coordinator.placement import Group
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.ids import AccountId, NodeId, PublicKey
from holdfast.protocol.limits import TICKET_LIFETIME_MS
from holdfast.protocol.profiles import Profile
from holdfast.protocol.tickets import NO_UPLOAD

ACCOUNT = AccountId(SYSTEM.random_bytes(AccountId.SIZE))
DEVICE = PublicKey(SYSTEM.random_bytes(PublicKey.SIZE))
MEMBERS = tuple(NodeId(SYSTEM.random_bytes(NodeId.SIZE)) for _ in range(3))
GROUP = Group(1, 1, Profile(2, 1), "usual", MEMBERS)


async def test_a_read_ticket_is_reused_while_it_is_young(tmp_path: Path) -> None:
    clock = HandClock()
    async with office(tmp_path / "coordinator", clock) as served:
        first = served.desk.ticket(ACCOUNT, DEVICE, "read", GROUP, NO_UPLOAD)
        clock.advance(1)
        assert served.desk.ticket(ACCOUNT, DEVICE, "read", GROUP, NO_UPLOAD) == first
        clock.advance((TICKET_LIFETIME_MS - READ_TICKET_REUSED_MS) / 1000)
        assert served.desk.ticket(ACCOUNT, DEVICE, "read", GROUP, NO_UPLOAD) != first


async def test_a_ticket_that_was_made_while_the_clock_was_ahead_is_not_handed_out_again(
    tmp_path: Path,
) -> None:
    """Nodes refuse what lasts longer than any ticket: nothing could be read until the clock had caught up."""
    clock = HandClock()
    async with office(tmp_path / "coordinator", clock) as served:
        clock.set_wall(1200)
        served.desk.ticket(ACCOUNT, DEVICE, "read", GROUP, NO_UPLOAD)
        clock.set_wall(-1200)
        _, expires_ms = served.desk.ticket(ACCOUNT, DEVICE, "read", GROUP, NO_UPLOAD)
        assert expires_ms == clock.now_ms() + TICKET_LIFETIME_MS
