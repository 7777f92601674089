"""Who is given up, and who is not: nobody in a power failure, nobody for a wrong clock."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.coordinator_service import HandClock, KeyNode, Office, office, upload_id

from holdfast.coordinator.catalogue.nodes import NodeStanding, set_standing
from holdfast.coordinator.health import HealthSettings, Presence, newly_lost
from holdfast.coordinator.keeping_membership import keep_membership
from holdfast.coordinator.service.stripes import bare_slots
from holdfast.protocol.ids import NodeId

SETTINGS = HealthSettings(1000, 5, 10, 100, 1000)
PRESENCES = st.builds(
    Presence,
    st.sampled_from(["a", "b", "c"]),
    st.booleans(),
    st.sampled_from([0.0, 50.0, 100.0, 500.0, 1000.0]),
)


def node(number: int) -> NodeId:
    return NodeId(bytes([number]) * 16)


@settings(max_examples=500)
@given(seen=st.lists(PRESENCES, min_size=1, max_size=40), parity=st.integers(1, 4))
def test_only_who_is_away_for_long_is_given_up_and_never_many_at_once(
    seen: list[Presence], parity: int
) -> None:
    nodes = {node(number): one for number, one in enumerate(seen)}
    lost, why = newly_lost(nodes, parity, SETTINGS)
    down = [one for one in seen if one.is_down]
    overdue = {at for at, one in nodes.items() if one.is_down and one.absent_s >= SETTINGS.lost_after_s}
    assert set(lost) <= overdue and bool(why) == bool(overdue - set(lost))
    if len(down) > max(parity, len(seen) // 10):
        assert not lost, "that looks like a network or a power failure"
    for at in lost:
        zone = [one for one in seen if one.zone == nodes[at].zone]
        whole = all(one.is_down for one in zone) and len(zone) > 1 and len({one.zone for one in seen}) > 1
        assert not whole or nodes[at].absent_s >= SETTINGS.zone_lost_after_s


async def _silent_for(desk: Office, seconds: int, talking: list[KeyNode]) -> None:
    for _ in range(seconds):
        desk.clock.advance(1)
        await desk.beat(*talking)
        await keep_membership(desk.desk)


@pytest.mark.parametrize("jump_s", [10 * 365 * 86400, -10 * 365 * 86400])
async def test_a_wall_clock_that_jumps_gives_nobody_up(tmp_path: Path, jump_s: float) -> None:
    async with office(tmp_path, health=SETTINGS) as desk:
        nodes = await desk.nodes(6)
        desk.clock.set_wall(jump_s)
        await keep_membership(desk.desk)
        assert {row.state for row in desk.desk.live.nodes.values()} == {"joined"}
        assert not desk.desk.live.down()
        await _silent_for(desk, 30, nodes)
        assert {row.state for row in desk.desk.live.nodes.values()} == {"joined"}


async def test_a_coordinator_that_was_away_for_a_year_gives_nobody_up(tmp_path: Path) -> None:
    clock = HandClock()
    async with office(tmp_path, clock, health=SETTINGS) as desk:
        await desk.nodes(6)
    clock.advance(365 * 86400)
    async with office(tmp_path, clock, health=SETTINGS) as desk:
        await keep_membership(desk.desk)
        assert {row.state for row in desk.desk.live.nodes.values()} == {"joined"}


async def test_a_lost_node_that_comes_back_belongs_to_the_cluster_again(tmp_path: Path) -> None:
    async with office(tmp_path, health=SETTINGS) as desk:
        *others, away = await desk.nodes(6)
        await _silent_for(desk, 101, others)
        assert desk.desk.live.nodes[away.id].state == "lost"
        await desk.beat(away)
        await keep_membership(desk.desk)
        assert desk.desk.live.nodes[away.id].state == "joined"


@pytest.mark.parametrize("standing", ["draining", "distrusted"])
async def test_a_node_that_is_left_does_not_come_back_as_one_that_is_kept(
    tmp_path: Path, standing: NodeStanding
) -> None:
    """An absence must not wash off that it is to be emptied, or that it lied."""
    async with office(tmp_path, health=SETTINGS) as desk:
        *others, away = await desk.nodes(6)
        ada = await desk.person("ada")
        await desk.open(ada, upload_id())
        desk.desk.catalogue.write_now(lambda c: set_standing(c, away.id, standing))
        await desk.desk.live.refresh(desk.desk.catalogue)
        await _silent_for(desk, 101, others)
        bare = bare_slots(desk.desk.live)
        for group in desk.desk.live.groups.values():
            assert bare[group.id] == {group.members.index(away.id)}, "what it held counts as gone meanwhile"
        await desk.beat(away)
        await keep_membership(desk.desk)
        assert desk.desk.live.nodes[away.id].state == standing
