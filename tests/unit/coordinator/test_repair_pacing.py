"""How fast repair goes: never above the bounds, at once where the next loss would lose data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.coordinator.repair_pacing import RepairSettings, Throttle
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import NodeId

NODES = [NodeId(bytes([number]) * 16) for number in range(4)]
ANY = 1e9


def begun(throttle: Throttle, batches: int, size: int, spare: int, node: NodeId = NODES[0]) -> list[float]:
    """When each of so many batches may begin that are asked for one after the other."""
    now, starts = 0.0, []
    for _ in range(batches):
        wait = throttle.reserve([node], size, spare, now, ANY)
        assert wait is not None
        now += wait
        starts.append(now)
    return starts


def test_one_spare_shard_goes_at_the_bound_two_at_half_of_it() -> None:
    settings = RepairSettings(bytes_per_s=0, node_bytes_per_s=100)
    assert begun(Throttle(settings), 4, 100, 1) == [0, 1, 2, 3]
    assert begun(Throttle(settings), 4, 100, 2) == [0, 2, 4, 6]


@pytest.mark.parametrize("spare", [0, -1, -3])
def test_with_no_spare_shard_nothing_is_held_back(spare: int) -> None:
    assert begun(Throttle(RepairSettings(1, 1)), 5, 10**9, spare) == [0.0] * 5


def test_what_was_urgent_counts_against_what_is_not() -> None:
    throttle = Throttle(RepairSettings(0, 100))
    assert throttle.reserve([NODES[0]], 500, 0, 0.0, ANY) == 0
    assert throttle.reserve([NODES[0]], 100, 1, 0.0, ANY) == 5


def test_nodes_have_bounds_of_their_own_and_one_together() -> None:
    throttle = Throttle(RepairSettings(bytes_per_s=0, node_bytes_per_s=100))
    assert [throttle.reserve([node], 100, 1, 0.0, ANY) for node in NODES] == [0.0] * 4
    throttle = Throttle(RepairSettings(bytes_per_s=200, node_bytes_per_s=100))
    assert [throttle.reserve([node], 100, 1, 0.0, ANY) for node in NODES] == [0.0, 0.5, 1.0, 1.5]


def test_what_would_have_to_wait_too_long_is_not_counted() -> None:
    throttle = Throttle(RepairSettings(0, 100))
    assert throttle.reserve([NODES[0]], 300, 1, 0.0, 2.0) == 0
    assert throttle.reserve([NODES[0]], 300, 1, 0.0, 2.0) is None
    assert throttle.reserve([NODES[0]], 300, 1, 1.5, 2.0) == 1.5


def test_no_bound_is_no_bound_and_a_negative_one_is_refused() -> None:
    assert begun(Throttle(RepairSettings(0, 0)), 3, 10**12, 2) == [0.0] * 3
    assert RepairSettings(0, 0).expected(3, 1) == 0
    assert RepairSettings(200, 100).expected(3, 1) == 200
    assert RepairSettings(200, 100).expected(1, 2) == 50
    with pytest.raises(BadRequest):
        RepairSettings(-1, 0)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 500), st.integers(1, 3)), min_size=1, max_size=60),
    st.integers(1, 1000),
    st.integers(1, 1000),
)
def test_over_any_time_no_more_than_the_bounds_and_one_batch_begins(
    batches: list[tuple[int, int, int]], together: int, each: int
) -> None:
    throttle, now, sent = Throttle(RepairSettings(together, each)), 0.0, []
    for node, size, spare in batches:
        wait = throttle.reserve([NODES[node]], size, spare, now, ANY)
        assert wait is not None and wait >= 0
        now += wait
        sent.append((now, node, size))
    for bound, of in [(together, None), *((each, node) for node in range(4))]:
        mine = [(at, size) for at, node, size in sent if of in (None, node)]
        for place, (start, _) in enumerate(mine):
            # All that began from here on but the last fits into the time that passed.
            before_last = sum(size for _, size in mine[place:-1])
            assert (
                before_last <= bound * (mine[-1][0] - start) + 1e-6 * bound + 1e-6 if mine[place:-1] else True
            )
