"""Groups are safe by construction: distinct nodes, zones kept apart, nobody overloaded."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.coordinator.placement import Candidate, Group, form_groups, plan_lease, zone_share
from holdfast.protocol.ids import NodeId
from holdfast.protocol.profiles import Profile

PROFILE = Profile(4, 2)


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(NodeId.SIZE, "big"))


def nodes(count: int, zones: int = 1, free: int = 10**9) -> list[Candidate]:
    return [Candidate(node(i), f"zone-{i % zones}", free) for i in range(count)]


def groups_of(members: list[tuple[NodeId, ...]], profile: Profile = PROFILE) -> list[Group]:
    return [Group(i, 1, profile, "usual", group) for i, group in enumerate(members, 1)]


clusters = st.lists(st.integers(0, 4), min_size=1, max_size=24).map(
    lambda zones: [Candidate(node(i), f"zone-{zone}") for i, zone in enumerate(zones)]
)
profiles = st.builds(Profile, st.integers(1, 8), st.integers(1, 4))


@settings(max_examples=200)
@given(candidates=clusters, profile=profiles)
def test_every_group_has_distinct_nodes_and_keeps_zones_within_their_share(
    candidates: list[Candidate], profile: Profile
) -> None:
    zone_of = {candidate.id: candidate.zone for candidate in candidates}
    share = zone_share(Counter(zone_of.values()), profile)
    formed = form_groups(candidates, profile)
    assert bool(formed) == (len(candidates) >= profile.n)
    for members in formed:
        assert len(set(members)) == profile.n == len(members)
        assert max(Counter(zone_of[member] for member in members).values()) <= share
    assert len(set(formed)) == len(formed)


@settings(max_examples=200)
@given(candidates=clusters, profile=profiles)
def test_where_zones_suffice_losing_a_whole_zone_loses_nothing(
    candidates: list[Candidate], profile: Profile
) -> None:
    zones = Counter(candidate.zone for candidate in candidates)
    if sum(min(count, profile.m) for count in zones.values()) < profile.n:
        assert zone_share(zones, profile) > profile.m
        return
    zone_of = {candidate.id: candidate.zone for candidate in candidates}
    for members in form_groups(candidates, profile):
        assert max(Counter(zone_of[member] for member in members).values()) <= profile.m


@settings(max_examples=100)
@given(candidates=clusters, profile=profiles, seed=st.randoms())
def test_the_same_nodes_give_the_same_groups_in_whatever_order_they_come(
    candidates: list[Candidate], profile: Profile, seed: object
) -> None:
    shuffled = list(candidates)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    assert form_groups(shuffled, profile) == form_groups(candidates, profile)


@pytest.mark.parametrize("count", [6, 7, 12, 30])
def test_every_node_carries_the_same_and_meets_few_others(count: int) -> None:
    formed = form_groups(nodes(count), PROFILE)
    load = Counter(member for members in formed for member in members)
    assert len(set(load.values())) == 1
    for own in load:
        others = {member for members in formed if own in members for member in members} - {own}
        assert len(others) <= 2 * (PROFILE.n - 1)


def test_every_node_stands_in_every_slot() -> None:
    formed = form_groups(nodes(6), PROFILE)
    assert {(member, slot) for members in formed for slot, member in enumerate(members)} == {
        (node(i), slot) for i in range(6) for slot in range(6)
    }


class TestWhatAnUploadMayWriteTo:
    def test_a_new_cluster_first_makes_its_groups(self) -> None:
        plan = plan_lease([], nodes(6), PROFILE, most=4)
        assert len(plan.make) == 6 and plan.profile == PROFILE and not plan.lease

    def test_whole_groups_come_first_and_the_roomiest_of_them(self) -> None:
        groups = groups_of(form_groups(nodes(12), PROFILE))
        tight = [Candidate(n.id, n.zone, 5 if n.id == node(0) else 10**9) for n in nodes(12)]
        plan = plan_lease(groups, tight, PROFILE, most=4)
        assert len(plan.lease) == 4
        assert all(node(0) not in group.members for group in plan.lease)

    @pytest.mark.parametrize(("up", "kind"), [(6, "whole"), (5, "quorate"), (4, "fallback"), (2, "fallback")])
    def test_fewer_nodes_mean_a_quorum_then_a_fallback_group(self, up: int, kind: str) -> None:
        groups = groups_of(form_groups(nodes(6), PROFILE))
        plan = plan_lease(groups, nodes(6)[:up], PROFILE, most=8)
        if kind == "fallback":
            assert plan.kind == "fallback" and plan.profile is not None
            assert plan.profile.m == min(2, up // 2) and plan.profile.n == up
            assert all(set(members) <= {n.id for n in nodes(6)[:up]} for members in plan.make)
        else:
            assert plan.lease and all(group.profile == PROFILE for group in plan.lease)
            for group in plan.lease:
                assert sum(member in {n.id for n in nodes(up)} for member in group.members) >= 5

    @pytest.mark.parametrize("up", [0, 1])
    def test_one_copy_on_one_node_is_not_a_backup(self, up: int) -> None:
        plan = plan_lease([], nodes(up), PROFILE, most=8)
        assert not plan.lease and not plan.make

    @settings(max_examples=150)
    @given(total=st.integers(2, 14), data=st.data())
    def test_whatever_is_up_the_plan_only_counts_on_nodes_that_are(
        self, total: int, data: st.DataObject
    ) -> None:
        every = nodes(total)
        up = data.draw(st.lists(st.sampled_from(every), unique_by=lambda n: n.id))
        usual = data.draw(profiles)
        plan = plan_lease(groups_of(form_groups(every, usual), usual), up, usual, most=8)
        able = {candidate.id for candidate in up}
        for group in plan.lease:
            assert sum(member in able for member in group.members) >= group.profile.write_quorum
        for members in plan.make:
            assert plan.profile is not None
            assert set(members) <= able and len(set(members)) == plan.profile.n
        assert bool(plan.lease or plan.make) == (len(up) >= 2)
