"""The rules of witnesses: two heads under one number are never both agreed, whoever dies when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol.accounts import NO_DIGEST, Head
from holdfast.protocol.errors import ForkDetected, Rollback
from holdfast.protocol.ids import AccountId, DeviceId, Digest, NodeId, PublicKey
from holdfast.protocol.stripes import digest_of
from holdfast.protocol.witnessing import (
    Seen,
    Willing,
    admit_head,
    choose_witnesses,
    is_agreed,
    judge,
    majority,
    witness_count,
)

ACCOUNT = AccountId(b"a" * 32)


def node(number: int) -> NodeId:
    return NodeId(bytes([number]) * 16)


def willing(count: int, zones: int = 3, down: frozenset[int] = frozenset()) -> list[Willing]:
    return [
        Willing(node(n), PublicKey(bytes([n]) * 32), f"zone-{n % zones}", n not in down)
        for n in range(1, count + 1)
    ]


def made_head(seq: int, previous: Digest) -> Head:
    return Head(1, ACCOUNT, DeviceId(b"d" * 16), seq, previous, 1, NO_DIGEST, [], 1, NO_DIGEST)


@pytest.mark.parametrize(("count", "needed"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_a_majority_is_more_than_half_and_of_nobody_nobody(count: int, needed: int) -> None:
    assert majority(count) == needed


def test_losing_any_m_of_a_head_s_witnesses_leaves_a_majority() -> None:
    for m in range(1, 5):
        assert witness_count(m) - m >= majority(witness_count(m))


def test_a_head_needs_both_sets_and_lost_nodes_count_in_the_earlier_one_no_more() -> None:
    own, before = [node(1), node(2), node(3)], [node(3), node(4), node(5)]
    assert not is_agreed(own, before, {node(1), node(2)})
    assert is_agreed(own, before, {node(1), node(2), node(4), node(5)})
    assert is_agreed(own, before, {node(1), node(2), node(5)}, given_up={node(3), node(4)})
    assert is_agreed(own, [], {node(1), node(2)})
    assert not is_agreed(own, [], {node(1)}, given_up={node(2), node(3)}), "its own all count"


def test_witnesses_are_spread_over_zones_stay_while_they_are_up_and_are_down_only_for_want_of_others() -> (
    None
):
    first = choose_witnesses(ACCOUNT, willing(9), (), 5)
    zones = {each.id: each.zone for each in willing(9)}
    assert len(first) == 5
    counts = [sum(zones[each.node] == f"zone-{zone}" for each in first) for zone in range(3)]
    assert max(counts) - min(counts) <= 1
    again = choose_witnesses(ACCOUNT, willing(9), {each.node for each in first}, 5)
    assert again == first
    gone = first[0].node[0]
    following = choose_witnesses(ACCOUNT, willing(9, down=frozenset({gone})), {e.node for e in first}, 5)
    assert node(gone) not in {each.node for each in following}
    assert len({each.node for each in following} & {each.node for each in first}) == 4
    few = choose_witnesses(ACCOUNT, willing(5, down=frozenset({2, 3})), (), 5)
    assert len(few) == 5
    assert choose_witnesses(ACCOUNT, [], (), 5) == []


def test_a_witness_keeps_one_history() -> None:
    one, two, other = (digest_of(text) for text in (b"one", b"two", b"other"))
    second = made_head(2, one)
    assert admit_head(made_head(1, NO_DIGEST), one, kept=None, newest=None, follower=None) == "newer"
    assert admit_head(second, two, kept=None, newest=(1, one), follower=None) == "newer"
    assert admit_head(second, two, kept=two, newest=(2, two), follower=None) == "known"
    with pytest.raises(ForkDetected):
        admit_head(second, other, kept=two, newest=(2, two), follower=None)
    with pytest.raises(ForkDetected):
        admit_head(made_head(2, other), two, kept=None, newest=(1, one), follower=None)
    assert admit_head(made_head(7, other), two, kept=None, newest=(1, one), follower=None) == "newer", "a gap"
    with pytest.raises(Rollback):
        admit_head(made_head(1, NO_DIGEST), other, kept=None, newest=(2, two), follower=second)
    assert admit_head(made_head(1, NO_DIGEST), one, kept=None, newest=(2, two), follower=second) == "ancestor"
    with pytest.raises(Rollback):
        admit_head(made_head(3, two), other, kept=None, newest=(7, two), follower=None)


class Cluster:
    """Nine nodes that keep heads by the rules, and coordinators that may die anywhere between."""

    def __init__(self) -> None:
        self.kept: dict[NodeId, dict[int, tuple[Digest, Head]]] = {node(n): {} for n in range(1, 10)}
        self.agreed: dict[int, set[Digest]] = {}
        self.witnesses: dict[Digest, list[NodeId]] = {NO_DIGEST: []}

    def newest(self, keeper: NodeId) -> tuple[int, Digest] | None:
        known = self.kept[keeper]
        return (max(known), known[max(known)][0]) if known else None

    def offer(self, keeper: NodeId, head: Head, digest: Digest) -> bool:
        known = self.kept[keeper]
        follower = known.get(head.seq + 1)
        try:
            admit_head(
                head,
                digest,
                kept=known[head.seq][0] if head.seq in known else None,
                newest=self.newest(keeper),
                follower=follower[1] if follower else None,
            )
        except (ForkDetected, Rollback):
            return False
        known[head.seq] = (digest, head)
        return True

    def post(self, base: tuple[int, Digest], text: bytes, own: list[NodeId], reached: set[NodeId]) -> Digest:
        """A head on top of one that the poster believes to be the newest; it reaches some witnesses."""
        seq, previous = base
        head, digest = made_head(seq + 1, previous), digest_of(text + previous)
        self.witnesses[digest] = own
        asked = {*own, *self.witnesses[previous]}
        keeping = {keeper for keeper in sorted(asked & reached) if self.offer(keeper, head, digest)}
        if is_agreed(own, self.witnesses[previous], keeping):
            self.agreed.setdefault(seq + 1, set()).add(digest)
        return digest


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, int, frozenset[int], frozenset[int]]]:
    """Steps: which believed head to build upon, a text, its witnesses, whom the post reaches."""
    some = st.frozensets(st.integers(1, 9), min_size=1, max_size=9)
    step = st.tuples(st.integers(0, 30), st.integers(0, 5), some, some)
    return draw(st.lists(step, min_size=1, max_size=25))


@given(histories())
def test_whoever_posts_on_whatever_and_dies_whenever_one_number_has_one_agreed_head(
    history: list[tuple[int, int, frozenset[int], frozenset[int]]],
) -> None:
    """Coordinators may be rolled back, doubled, or killed between any two calls: bases are arbitrary.

    What they build upon was agreed once, as the catalogue only ever shows agreed heads.
    """
    cluster = Cluster()
    bases: list[tuple[int, Digest]] = [(0, NO_DIGEST)]
    for at, text, own, reached in history:
        base = bases[at % len(bases)]
        witnesses = [node(n) for n in sorted(own)]
        digest = cluster.post(base, b"%d" % text, witnesses, {node(n) for n in reached})
        if digest in cluster.agreed.get(base[0] + 1, ()):
            bases.append((base[0] + 1, digest))
    for seq, digests in cluster.agreed.items():
        # The first head has no predecessor whose witnesses could tell: the coordinator alone orders it.
        assert seq == 1 or len(digests) == 1 or _parents(cluster, digests) > 1


def _parents(cluster: Cluster, digests: set[Digest]) -> int:
    """Of how many different heads these are successors; two first heads have two histories."""
    found = {
        head.previous
        for known in cluster.kept.values()
        for digest, head in known.values()
        if digest in digests
    }
    return len(found)


@given(
    st.integers(1, 9),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=9, max_size=9),
)
def test_a_head_is_believed_only_while_nothing_newer_can_have_been_agreed(
    count: int, told: list[tuple[bool, bool, bool]]
) -> None:
    nodes = [node(n) for n in range(1, count + 1)]
    seen = {
        each: Seen(has_it, newer)
        for each, (answers, has_it, newer) in zip(nodes, told, strict=False)
        if answers
    }
    found = judge(nodes, seen)
    keeping = sum(each.has_it for each in seen.values())
    newer = sum(each.newer for each in seen.values())
    silent = count - len(seen)
    if found == "agreed":
        assert keeping >= majority(count)
        # Were all that are silent on its side, a newer head would still lack its majority; or none is known.
        assert newer == 0 or newer + silent < majority(count)
    if found == "outdated":
        assert newer >= majority(count)
