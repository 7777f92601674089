"""Plans of who gets which slot: over thousands of random clusters, none makes anything worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.coordinator.placement import Candidate, Group, form_groups, zone_share
from holdfast.coordinator.repair_plan import Assignment, Member, plan_moves, plan_rebalance
from holdfast.protocol.ids import NodeId
from holdfast.protocol.profiles import Profile

Slot = tuple[int, int]
STANDINGS = ("joined", "joined", "joined", "draining", "lost", "distrusted")


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(NodeId.SIZE, "big"))


def member(number: int, zone: int = 0, standing: str = "joined", takes: bool = True) -> Member:
    return Member(node(number), f"zone-{zone}", standing, takes, 0, 10**9)


def group_of(number: int, *members: int, version: int = 1, profile: Profile | None = None) -> Group:
    made = tuple(map(node, members))
    return Group(number, version, profile or Profile(len(made) - 2, 2), "usual", made)


@dataclass
class Cluster:
    """Groups and moves as the catalogue would keep them, and nodes as the planner sees them."""

    members: dict[NodeId, Member]
    groups: dict[int, Group]
    moving: dict[Slot, NodeId | None] = field(default_factory=dict)

    def turn(self) -> list[Assignment]:
        """One plan, carried out as moves.assign_slot does; what it must never do is looked at here."""
        plan = plan_moves(self.groups, self.moving, self.members)
        for assigned in plan.assign:
            self._judge(assigned)
        for assigned in plan.assign:
            at = (assigned.group.id, assigned.slot)
            group = self.groups[assigned.group.id]
            assert group == assigned.group, "one assignment of a group in a plan: each raises its version"
            old = self.moving[at] if at in self.moving else group.members[assigned.slot]
            changed = list(group.members)
            changed[assigned.slot] = assigned.new
            self.groups[group.id] = replace(group, version=group.version + 1, members=tuple(changed))
            self.moving[at] = None if old == assigned.new else old
        return list(plan.assign)

    def _judge(self, assigned: Assignment) -> None:
        group, slot, taker = assigned.group, assigned.slot, self.members[assigned.new]
        assert taker.takes and not taker.is_leaving
        others = {held for at, held in enumerate(group.members) if at != slot}
        sources = {old for (number, at), old in self.moving.items() if number == group.id and at != slot}
        assert taker.id not in others | sources, "two slots of a group on one node"
        before = self.members.get(group.members[slot])
        if before is not None and not before.is_leaving:
            assert assigned.why == "zone" and not self.moving, "what is well stays where it is"
        zones = Counter(self.members[held].zone for held in others if held in self.members)
        staying = Counter(one.zone for one in self.members.values() if not one.is_leaving)
        share = zone_share(staying, group.profile)
        if zones[taker.zone] >= share:
            for other in self.members.values():
                if other.takes and not other.is_leaving and other.id not in others | sources:
                    assert zones[other.zone] >= zones[taker.zone], "somebody within the zone rule was free"

    def end_moves(self) -> None:
        """Everything that moves has been filled."""
        self.moving.clear()

    def crowded(self) -> int:
        """Slots beyond their zone's share, all groups together."""
        staying = Counter(one.zone for one in self.members.values() if not one.is_leaving)
        return sum(
            max(0, count - zone_share(staying, group.profile))
            for group in self.groups.values()
            for count in Counter(self.members[held].zone for held in group.members).values()
        )

    def leaving(self) -> int:
        return sum(self.members[held].is_leaving for group in self.groups.values() for held in group.members)


@st.composite
def clusters(draw: st.DrawFn, standings: tuple[str, ...] = STANDINGS) -> Cluster:
    """Groups over all nodes as they were, and what has become of the nodes since."""
    profile = Profile(draw(st.integers(1, 6)), draw(st.integers(1, 3)))
    zones = draw(st.lists(st.integers(0, 4), min_size=profile.n, max_size=profile.n + 8))
    first = [Candidate(node(number), f"zone-{zone}") for number, zone in enumerate(zones)]
    groups = {
        number: Group(number, 1, profile, "usual", members)
        for number, members in enumerate(form_groups(first, profile), 1)
    }
    joined_later = draw(st.lists(st.integers(0, 4), max_size=4))
    members = {}
    for number, zone in enumerate([*zones, *joined_later]):
        standing = draw(st.sampled_from(standings)) if number < len(zones) else "joined"
        takes = standing in ("joined", "draining") and draw(st.integers(0, 9)) > 0
        members[node(number)] = member(number, zone, standing, takes)
    return Cluster(members, groups)


@settings(max_examples=1000)
@given(cluster=clusters())
def test_no_plan_makes_anything_worse_and_all_plans_come_to_an_end(cluster: Cluster) -> None:
    slots = sum(group.profile.n for group in cluster.groups.values())
    given_away: Counter[Slot] = Counter()
    for _ in range(2 * slots + 2):
        before = cluster.leaving()
        planned = cluster.turn()
        given_away.update((one.group.id, one.slot) for one in planned)
        assert cluster.leaving() == before - sum(one.why != "zone" for one in planned)
        if not planned:
            if not cluster.moving:
                break
            cluster.end_moves()
    else:
        raise AssertionError("slots were given to and fro without end")
    takers = [one for one in cluster.members.values() if one.takes and not one.is_leaving]
    for group in cluster.groups.values():
        stuck = [held for held in group.members if cluster.members[held].is_leaving]
        assert not stuck or all(taker.id in group.members for taker in takers), "somebody could have taken it"


@settings(max_examples=500)
@given(cluster=clusters(), seed=st.randoms(use_true_random=False))
def test_whatever_happens_to_nodes_meanwhile_no_plan_makes_anything_worse(
    cluster: Cluster, seed: object
) -> None:
    """Nodes are lost, come back, fill up and are emptied between turns, while slots move."""
    for _ in range(25):
        cluster.turn()
        one = seed.choice(sorted(cluster.members))  # type: ignore[attr-defined]
        standing = seed.choice(STANDINGS)  # type: ignore[attr-defined]
        takes = standing in ("joined", "draining") and seed.random() < 0.8  # type: ignore[attr-defined]
        cluster.members[one] = replace(cluster.members[one], standing=standing, takes=takes)
        for at in list(cluster.moving):
            if seed.random() < 0.3:  # type: ignore[attr-defined]
                del cluster.moving[at]


@settings(max_examples=300)
@given(cluster=clusters(standings=("joined",)), zone=st.integers(0, 4))
def test_a_node_that_joins_moves_nothing_but_what_the_zone_rule_wants(cluster: Cluster, zone: int) -> None:
    for one in cluster.members:
        cluster.members[one] = replace(cluster.members[one], takes=True)
    while cluster.turn():
        cluster.end_moves()
    fresh = member(1000, zone)
    cluster.members[fresh.id] = fresh
    crowded = cluster.crowded()
    moved = 0
    while planned := cluster.turn():
        assert all(one.why == "zone" for one in planned)
        moved += len(planned)
        cluster.end_moves()
    assert moved <= crowded, "only slots beyond their zone's share move, each once"


def _fill(members: Mapping[NodeId, Member]) -> list[float]:
    return [
        one.used_bytes / one.capacity_bytes for one in members.values() if not one.is_leaving and one.takes
    ]


@settings(max_examples=300)
@given(
    cluster=clusters(),
    sizes=st.lists(st.integers(0, 5 * 10**7), min_size=30, max_size=30),
    most=st.integers(1, 16),
)
def test_evening_out_is_bounded_and_never_makes_the_fullest_fuller(
    cluster: Cluster, sizes: list[int], most: int
) -> None:
    size_of = {number: sizes[number % len(sizes)] for number in cluster.groups}
    for number, group in cluster.groups.items():
        for held in group.members:
            one = cluster.members[held]
            cluster.members[held] = replace(one, used_bytes=one.used_bytes + size_of[number])
    moving = {(1, 0): None} if 1 in cluster.groups else {}
    planned = plan_rebalance(cluster.groups, moving, cluster.members, size_of, most=most, spread=0.05)
    assert len(planned) <= most
    assert len({one.group.id for one in planned}) == len(planned)
    before = _fill(cluster.members)
    for one in planned:
        assert one.group.id != 1, "a group that has a slot moving is left alone"
        assert one.new not in one.group.members
        taker, giver = cluster.members[one.new], cluster.members[one.group.members[one.slot]]
        assert taker.takes and not taker.is_leaving and not giver.is_leaving
        size = size_of[one.group.id]
        cluster.members[taker.id] = replace(taker, used_bytes=taker.used_bytes + size)
        cluster.members[giver.id] = replace(giver, used_bytes=giver.used_bytes - size)
    after = _fill(cluster.members)
    if planned:
        assert max(after) <= max(before) and min(after) >= min(before)


def test_the_former_holder_that_came_back_takes_its_slot_again() -> None:
    cluster = Cluster(
        {node(n): member(n) for n in (1, 2, 3, 4, 8)} | {node(9): member(9, standing="lost", takes=False)},
        {1: group_of(1, 1, 2, 3, 9)},
        {(1, 3): node(4)},
    )
    (assigned,) = cluster.turn()
    assert assigned.new == node(4) and cluster.moving[(1, 3)] is None


def test_a_node_that_is_still_read_for_one_slot_gets_no_other_of_the_group() -> None:
    cluster = Cluster(
        {node(n): member(n) for n in (1, 2, 4, 9)} | {node(3): member(3, standing="lost", takes=False)},
        {1: group_of(1, 1, 2, 3, 9)},
        {(1, 3): node(4)},  # slot 3 moves from node 4 to node 9
    )
    assert not cluster.turn()
    cluster.end_moves()
    (assigned,) = cluster.turn()
    assert assigned.new == node(4)


def test_a_slot_on_its_way_to_a_node_that_is_to_be_emptied_arrives_first() -> None:
    cluster = Cluster(
        {node(n): member(n) for n in (1, 2, 3, 4, 5)} | {node(9): member(9, standing="draining")},
        {1: group_of(1, 1, 2, 3, 9)},
        {(1, 3): node(4)},
    )
    assert not cluster.turn()
    cluster.members[node(9)] = member(9, standing="draining", takes=False)
    (assigned,) = cluster.turn()
    assert assigned.slot == 3, "it does not come: another one takes it"


def test_what_is_gone_comes_before_what_is_only_to_be_emptied() -> None:
    cluster = Cluster(
        {node(n): member(n) for n in (3, 4, 7)}
        | {node(1): member(1, standing="draining"), node(2): member(2, standing="lost", takes=False)},
        {1: group_of(1, 1, 2, 3, 4)},
    )
    assert [(one.slot, one.why) for one in cluster.turn()] == [(1, "lost")]
