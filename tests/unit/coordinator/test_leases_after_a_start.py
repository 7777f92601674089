"""A coordinator that was started again: its nodes look for it now and then, and backups wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.coordinator_service import KeyNode, Office, Person, office, upload_id

from holdfast.coordinator.health import HealthSettings
from holdfast.coordinator.limits import FIRST_REPORTS_S
from holdfast.protocol.errors import NoQuorum

QUICK = HealthSettings(heartbeat_ms=250, suspect_after_s=1.2, down_after_s=2.4, lost_after_s=60)


@pytest.fixture
async def restarted(tmp_path: Path) -> AsyncIterator[tuple[Office, list[KeyNode], Person]]:
    """Nobody was heard of since the start."""
    async with office(tmp_path / "coordinator", health=QUICK) as first:
        nodes, person = await first.nodes(3), await first.person("ada")
    async with office(tmp_path / "coordinator", first.clock, health=QUICK) as again:
        yield again, nodes, person


async def test_a_backup_waits_for_nodes_that_look_for_their_coordinator_only_now_and_then(
    restarted: tuple[Office, list[KeyNode], Person],
) -> None:
    """One is here, the others would be called down by now: too few to write to, and too early to give up."""
    again, nodes, person = restarted
    again.clock.advance(QUICK.down_after_s + 0.1)
    await again.beat(nodes[0])
    opening = asyncio.create_task(again.open(person, upload_id()))
    await asyncio.wait({opening}, timeout=0.3)  # it must not end
    assert not opening.done()
    await again.beat(*nodes[1:])
    async with asyncio.timeout(10):
        assert {member for lease in (await opening).leases for member in lease.members} == {
            node.id for node in nodes
        }


async def test_it_does_not_wait_for_ever(restarted: tuple[Office, list[KeyNode], Person]) -> None:
    again, nodes, person = restarted
    await again.beat(nodes[0])
    opening = asyncio.create_task(again.open(person, upload_id()))
    again.clock.advance(FIRST_REPORTS_S)
    async with asyncio.timeout(10):
        with pytest.raises(NoQuorum):
            await opening


async def test_nobody_waits_for_nodes_that_went_after_they_were_heard_of(
    restarted: tuple[Office, list[KeyNode], Person],
) -> None:
    again, nodes, person = restarted
    await again.beat(*nodes)
    await again.beat(*nodes[1:], state="stopping")
    async with asyncio.timeout(10):
        with pytest.raises(NoQuorum):
            await again.open(person, upload_id())
