"""Nodes that are added are filled, a little at a time; nothing ever moves back and forth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.real_cluster import RealCluster, contents, real_cluster

from holdfast.coordinator import keeping_membership
from holdfast.coordinator.placement import Candidate, Group, form_groups, zone_share
from holdfast.coordinator.repair_plan import Member, plan_rebalance
from holdfast.protocol.ids import NodeId
from holdfast.protocol.messages.admin import Moving, Rebalance, SetStanding
from holdfast.protocol.profiles import Profile

PROFILE = Profile(4, 2)


def member(number: int, zone: str = "", capacity: int = 10**9) -> Member:
    return Member(NodeId(bytes([number]) * 16), zone, "joined", True, 0, capacity)


def grouped(members: Mapping[NodeId, Member]) -> dict[int, Group]:
    formed = form_groups([Candidate(m.id, m.zone) for m in members.values()], PROFILE)
    return {number: Group(number, 1, PROFILE, "usual", nodes) for number, nodes in enumerate(formed, 1)}


def moved(groups: Mapping[int, Group], plan: list) -> dict[int, Group]:  # type: ignore[type-arg]
    """The groups after a plan."""
    after = dict(groups)
    for assigned in plan:
        nodes = list(after[assigned.group.id].members)
        nodes[assigned.slot] = assigned.new
        after[assigned.group.id] = Group(assigned.group.id, 2, PROFILE, "usual", tuple(nodes))
    return after


@st.composite
def clusters(draw: st.DrawFn) -> tuple[dict[NodeId, Member], dict[int, Group], dict[int, int]]:
    """Some nodes with groups full of shards, and some that came later."""
    old = draw(st.integers(6, 12))
    new = draw(st.integers(0, 4))
    zones = draw(st.integers(1, 4))
    capacities = draw(st.lists(st.integers(10**8, 10**9), min_size=old + new, max_size=old + new))
    members = {
        (m := member(number + 1, f"zone-{number % zones}", capacities[number])).id: m
        for number in range(old + new)
    }
    groups = grouped({node: members[node] for node in list(members)[:old]})
    sizes = {number: draw(st.integers(0, 10**6)) for number in groups}
    return members, groups, sizes


@given(clusters())
def test_a_plan_keeps_the_rules_and_evens_out(
    made: tuple[dict[NodeId, Member], dict[int, Group], dict[int, int]],
) -> None:
    members, groups, sizes = made
    share = zone_share(Counter(m.zone for m in members.values()), PROFILE)

    def fills(of: Mapping[int, Group]) -> dict[NodeId, float]:
        held = Counter[NodeId]()
        for group in of.values():
            held.update(dict.fromkeys(group.members, sizes[group.id]))
        return {node: held[node] / m.capacity_bytes for node, m in members.items()}

    rounds = 0
    while plan := plan_rebalance(groups, (), members, sizes, most=2, spread=0.1, least_bytes=1):
        assert len(plan) <= 2
        worst = max(fills(groups).values())
        for assigned in plan:
            before = groups[assigned.group.id]
            after = moved({before.id: before}, [assigned])[before.id]
            giver = before.members[assigned.slot]
            assert assigned.new not in before.members and len(set(after.members)) == PROFILE.n
            taken = Counter(members[node].zone for node in after.members)[members[assigned.new].zone]
            assert taken <= share
            fullness = fills(groups)
            groups = moved(groups, [assigned])
            assert fills(groups)[assigned.new] < fullness[giver], "the taker stays below what the giver was"
        assert max(fills(groups).values()) <= worst + 1e-12, "nobody becomes fuller than the fullest was"
        rounds += 1
        assert rounds <= 6 * len(groups) * len(members), "it comes to an end"


def test_a_cluster_that_is_even_is_left_alone() -> None:
    members = {(m := member(number)).id: m for number in range(1, 9)}
    groups = grouped(members)
    assert plan_rebalance(groups, (), members, dict.fromkeys(groups, 10**6), most=16, spread=0.1) == []


def test_what_a_node_gave_away_is_not_counted_although_it_still_lies_there() -> None:
    """Reported bytes fall only when the hold is over; counted, they would empty the node."""
    members = {(m := member(number)).id: m for number in range(1, 9)}
    groups = grouped(members)
    full = next(iter(members))
    members[full] = Member(full, "", "joined", True, 9 * 10**8, 10**9)
    assert plan_rebalance(groups, (), members, dict.fromkeys(groups, 10**6), most=16, spread=0.1) == []


def test_a_slot_that_does_not_fit_is_not_moved() -> None:
    members = {(m := member(number)).id: m for number in range(1, 8)}
    groups = grouped({node: members[node] for node in list(members)[:6]})
    new = list(members)[6]
    sizes = dict.fromkeys(groups, 10**6)
    assert plan_rebalance(groups, (), members, sizes, most=1, spread=0.1)
    members[new] = Member(new, "", "joined", True, 10**9 - 10**6 + 1, 10**9)
    assert not plan_rebalance(groups, (), members, sizes, most=1, spread=0.1)


def test_small_slots_and_groups_that_move_already_are_left_alone() -> None:
    members = {(m := member(number)).id: m for number in range(1, 8)}
    groups = grouped({node: members[node] for node in list(members)[:6]})
    sizes = dict.fromkeys(groups, 1000)
    assert not plan_rebalance(groups, (), members, sizes, most=9, spread=0.1, least_bytes=1001)
    assert not plan_rebalance(groups, [(group, 0) for group in groups], members, sizes, most=9, spread=0.1)


def held_by_catalogue(cluster: RealCluster) -> dict[NodeId, int]:
    """Sealed bytes of the groups in which each node has a slot."""
    found: dict[NodeId, int] = {node.id: 0 for node in cluster.nodes}
    for row in cluster.rows():
        for node in cluster.desk.live.groups[row.group_id].members:
            found[node] += row.sealed_bytes
    return found


async def test_a_node_that_is_added_is_filled_by_itself(tmp_path: Path, monkeypatch: object) -> None:
    keeping_membership_limit = keeping_membership.REBALANCE_BY_ITSELF_BYTES_MIN
    monkeypatch.setattr(keeping_membership, "REBALANCE_BY_ITSELF_BYTES_MIN", 1)  # type: ignore[attr-defined]
    assert keeping_membership_limit > 1
    async with real_cluster(tmp_path, 6) as cluster:
        for seed in range(6):
            await cluster.store(contents(5, seed=b"%d" % seed), place=seed)
        new = await cluster.add_node("zone-0")
        assert held_by_catalogue(cluster)[new.id] == 0
        for _ in range(8):
            await cluster.keep(5)
            await cluster.pass_time(keeping_membership.REBALANCE_EVERY_S)
        await cluster.keep()
        held = held_by_catalogue(cluster)
        assert held[new.id] > 0
        assert await cluster.spare() == {"2": 30}
        told = await cluster.audit(60)
        assert told.right == told.shards, "and everybody has what the catalogue says"


async def test_it_is_left_to_the_operator_where_that_is_wished(tmp_path: Path) -> None:
    async with real_cluster(tmp_path, 6) as cluster:
        cluster.desk.rebalances = False
        for seed in range(6):
            await cluster.store(contents(5, seed=b"%d" % seed), place=seed)
        new = await cluster.add_node("zone-0")
        for _ in range(4):
            await cluster.keep(2)
            await cluster.pass_time(keeping_membership.REBALANCE_EVERY_S)
        assert held_by_catalogue(cluster)[new.id] == 0
        running = cluster.office
        planned = await running.call(
            "POST", "/v1/admin/rebalance", Rebalance(dry_run=True), Moving, running.operator
        )
        assert planned.slots > 0 and planned.smallest_spare == 2 and not planned.is_measured
        assert not cluster.desk.live.moves, "a dry run moves nothing"
        await running.call("POST", "/v1/admin/rebalance", Rebalance(dry_run=False), Moving, running.operator)
        await cluster.keep()
        assert held_by_catalogue(cluster)[new.id] > 0
        assert await cluster.spare() == {"2": 30}


async def test_a_drain_foretells_what_it_then_does_and_never_makes_anything_less_safe(
    tmp_path: Path,
) -> None:
    async with real_cluster(tmp_path, 8) as cluster:
        await cluster.store(contents(20, size=40_000))
        leaving = cluster.node(cluster.desk.live.groups[cluster.rows()[0].group_id].members[0])
        running = cluster.office

        async def ask(standing: str, dry_run: bool) -> Moving:
            message = SetStanding(node=leaving.id.hex()[:10], standing=standing, dry_run=dry_run)  # type: ignore[arg-type]
            return await running.call("POST", "/v1/admin/standing", message, Moving, running.operator)

        told = await ask("draining", True)
        assert cluster.standing(leaving.id) == "joined"
        assert told.moved_bytes == 20 * 10_000 and told.smallest_spare == 2 and told.stuck == 0
        assert told.seconds == 1 and told.bytes_per_s > 0
        assert (await ask("draining", False)).slots == told.slots
        least = 2
        for _ in range(40):
            await cluster.keep(1)
            least = min(least, *map(int, await cluster.spare()))
        assert least == 2
        assert all(leaving.id not in group.members for group in cluster.desk.live.groups.values())
        await ask("removed", False)
        assert leaving.id not in cluster.desk.live.nodes


async def test_a_change_of_zones_is_carried_out(tmp_path: Path) -> None:
    """Nine nodes in three zones; one is carried over to another rack, and says so."""
    async with real_cluster(tmp_path, 9, zones=3) as cluster:
        await cluster.store(contents(10))
        live = cluster.desk.live

        def crowded() -> list[int]:
            return [
                group.id
                for group in live.groups.values()
                if max(Counter(live.nodes[node].zone for node in group.members).values()) > PROFILE.m
            ]

        assert not crowded()
        group = live.groups[cluster.rows()[0].group_id]
        carried = cluster.node(group.members[0])
        carried.zone = next(zone for zone in ("zone-0", "zone-1", "zone-2") if zone != carried.zone)
        await cluster.beat()
        assert group.id in crowded()
        for _ in range(30):
            await cluster.keep(3)
            if not crowded() and not live.moves:
                break
        assert not crowded()
        assert await cluster.spare() == {"2": 10}
        told = await cluster.audit(30)
        assert told.right == told.shards
