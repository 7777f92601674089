"""What lies on nodes becomes rows again: only what can be read, and the same whoever looks."""

from __future__ import annotations

import random

from holdfast.coordinator.adopting import FoundShard, SlotCount, fullest, plan_groups, plan_holders
from holdfast.coordinator.placement import Group
from holdfast.protocol.ids import AccountId, ChunkId, NodeId, UploadId
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import digest_of

PROFILE = Profile(4, 2)
NODES = [NodeId(bytes([number]) * 16) for number in range(9)]


def shard(
    slot: int, *, generation: int = 1, group: int = 7, node: int | None = None, size: int = 1000
) -> FoundShard:
    return FoundShard(
        NODES[slot if node is None else node],
        AccountId(b"a" * 32),
        ChunkId(b"c" * 32),
        UploadId(bytes([generation]) * 16),
        group,
        slot,
        PROFILE,
        size,
        digest_of(b"stripe %d %d" % (generation, size)),
    )


def test_k_shards_make_a_row_and_fewer_do_not() -> None:
    assert fullest([shard(slot) for slot in (0, 2, 5)]) is None
    found = fullest([shard(slot) for slot in (0, 2, 4, 5)])
    assert found is not None and (found.generation, found.group) == (UploadId(b"\1" * 16), 7)
    assert found.lacking(NODES[:6]) == [1, 3]


def test_copies_of_one_slot_are_one_shard() -> None:
    """A former holder has the same shards as the present one: that makes the stripe no fuller."""
    assert fullest([*(shard(slot) for slot in (0, 1, 2)), shard(2, node=8)]) is None


def test_shards_that_disagree_about_their_stripe_do_not_add_up() -> None:
    assert fullest([shard(0), shard(1), shard(2, size=2000), shard(3, size=2000)]) is None


def test_of_two_stripes_the_fuller_wins_in_whatever_order_they_are_met() -> None:
    older = [shard(slot, generation=1) for slot in range(4)]
    newer = [shard(slot, generation=2) for slot in range(6)]
    for seed in range(10):
        mixed = [*older, *newer]
        random.Random(seed).shuffle(mixed)
        found = fullest(mixed)
        assert found is not None and found.generation == UploadId(b"\2" * 16)
        even = [*older, *newer[:4]]
        random.Random(seed).shuffle(even)
        found = fullest(even)
        assert found is not None and found.generation == UploadId(b"\1" * 16)


def test_what_the_holder_does_not_have_counts_as_missing_even_if_another_node_has_it() -> None:
    found = fullest([*(shard(slot) for slot in range(5)), shard(5, node=8)])
    assert found is not None and found.lacking(NODES[:6]) == [5]


def test_an_unknown_group_gets_the_nodes_that_hold_most_of_each_slot() -> None:
    counts = [SlotCount(7, slot, PROFILE, NODES[slot], 100) for slot in range(6)]
    leftover = SlotCount(7, 0, PROFILE, NODES[8], 3)
    (group,) = plan_groups([leftover, *counts], NODES)
    assert (group.id, group.profile, group.members) == (7, PROFILE, tuple(NODES[:6]))


def test_slots_of_which_nothing_was_found_go_to_nodes_that_hold_none() -> None:
    counts = [SlotCount(7, slot, PROFILE, NODES[slot], 100) for slot in (0, 1, 2, 4)]
    (group,) = plan_groups(counts, NODES[:7])
    assert group.members == (NODES[0], NODES[1], NODES[2], NODES[3], NODES[4], NODES[5])
    assert plan_groups(counts, NODES[:5]) == [], "five nodes cannot hold six slots"


def test_a_node_never_gets_two_slots_of_a_group() -> None:
    for seed in range(300):
        chance = random.Random(seed)
        counts = [
            SlotCount(
                chance.randrange(3),
                chance.randrange(6),
                PROFILE,
                chance.choice(NODES),
                chance.randrange(1, 50),
            )
            for _ in range(chance.randrange(1, 40))
        ]
        for group in plan_groups(counts, NODES):
            assert len(set(group.members)) == PROFILE.n


def group_of(*members: int, number: int = 7) -> Group:
    return Group(number, 1, PROFILE, "usual", tuple(NODES[member] for member in members))


def test_a_slot_goes_to_whoever_has_more_of_its_shards_than_its_holder() -> None:
    group = group_of(0, 1, 2, 3, 4, 5)
    counts = {NODES[slot]: {(7, slot): 100} for slot in range(6)}
    counts[NODES[6]] = {(7, 2): 100}
    assert plan_holders([group], [], counts) == [], "as many is not more: it is a former holder"
    counts[NODES[6]] = {(7, 2): 130}
    assert plan_holders([group], [], counts) == [(7, 2, NODES[6])]
    assert plan_holders([group], [(7, 2)], counts) == []


def test_found_holders_never_give_a_node_two_slots() -> None:
    for seed in range(300):
        chance = random.Random(seed)
        group = group_of(*chance.sample(range(9), 6))
        counts = {
            node: {(7, slot): chance.randrange(20) for slot in chance.sample(range(6), 3)} for node in NODES
        }
        members = list(group.members)
        for _, slot, node in plan_holders([group], [], counts):
            assert node not in members
            members[slot] = node
        assert len(set(members)) == 6


def test_a_node_that_tells_every_slot_of_a_stripe_that_never_was_does_not_hide_the_true_one() -> None:
    """Its lie is as full as can be, and comes first where two are equally full."""
    true = [shard(slot, generation=2) for slot in range(5)]
    lies = [shard(slot, generation=1, node=0) for slot in range(6)]
    found = fullest([*lies, *true])
    assert found is not None and found.generation == UploadId(b"\2" * 16)
    assert found.lacking(NODES[:6]) == [5]


def test_leftovers_of_a_slot_held_before_still_make_a_stripe_readable() -> None:
    """Four slots lie on three nodes: nobody else has more, so nothing is given up."""
    found = fullest([shard(0), shard(3, node=0), shard(1), shard(2)])
    assert found is not None and found.lacking(NODES[:6]) == [3, 4, 5]


def test_one_node_that_names_another_profile_does_not_make_a_group_that_no_shard_fits() -> None:
    counts = [SlotCount(7, slot, PROFILE, NODES[slot], 100) for slot in range(1, 6)]
    lie = SlotCount(7, 0, Profile(1, 1), NODES[0], 10_000)
    (group,) = plan_groups([lie, *counts], NODES)
    assert group.profile == PROFILE
    assert group.members[1:] == tuple(NODES[1:6])
