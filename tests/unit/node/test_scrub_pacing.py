"""When shards are reread and how fast, decided without a clock or a disk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.node.limits import SCRUB_ASKED_BYTES_PER_S, SCRUB_BYTES_PER_S_MAX, SCRUB_BYTES_PER_S_MIN
from holdfast.node.scrub_pacing import NEVER, Pass, begin, is_due, open_state, pause_s, rate, saved
from holdfast.protocol.limits import MIB

DAY_S = 86400.0
passes = st.builds(
    Pass,
    running=st.booleans(),
    asked=st.booleans(),
    cursor=st.binary(max_size=89),
    started_ms=st.integers(0, 2**50),
    ended_ms=st.integers(0, 2**50),
    shards=st.integers(0, 2**40),
    read_bytes=st.integers(0, 2**60),
    found=st.integers(0, 2**40),
)


def test_a_pass_begins_once_in_a_period_and_at_once_on_a_node_that_never_had_one() -> None:
    assert is_due(NEVER, 10**12, 14 * DAY_S)
    state = begin(NEVER, 10**12, asked=False)
    assert not is_due(state, 10**12 + 1, 14 * DAY_S), "one at a time"
    state = state.ended(10**12 + 5000)
    assert not is_due(state, 10**12 + int(14 * DAY_S * 1000) - 1, 14 * DAY_S)
    assert is_due(state, 10**12 + int(14 * DAY_S * 1000), 14 * DAY_S)


def test_a_clock_that_was_set_back_makes_a_pass_early_never_late() -> None:
    state = begin(NEVER, 10**12, asked=False).ended(10**12 + 1)
    assert is_due(state, 10**11, 14 * DAY_S)


@given(passes, st.integers(0, 2**50), st.floats(0.001, 400 * DAY_S), st.integers(0, 2**60))
def test_the_rate_is_bounded_whatever_the_state_says(
    state: Pass, now_ms: int, period_s: float, used: int
) -> None:
    speed = rate(state, now_ms, period_s, used)
    if state.asked:
        assert speed == SCRUB_ASKED_BYTES_PER_S
    else:
        assert SCRUB_BYTES_PER_S_MIN <= speed <= SCRUB_BYTES_PER_S_MAX


def test_a_large_store_is_read_evenly_and_done_before_the_period_is_over() -> None:
    used, now_s, state = 8 * 10**12, 0.0, begin(NEVER, 0, asked=False)
    while state.read_bytes < used:
        portion = min(10**10, used - state.read_bytes)
        now_s += portion / rate(state, int(now_s * 1000), 14 * DAY_S, used)
        state = state.advanced(b"k", 1, portion, 0)
    assert 0.7 * 14 * DAY_S < now_s < 14 * DAY_S


def test_what_restarts_cost_is_caught_up_with() -> None:
    late = begin(NEVER, 0, asked=False).advanced(b"k", 1, 10**11, 0)
    on_time, behind = (rate(late, int(d * DAY_S * 1000), 14 * DAY_S, 4 * 10**12) for d in (1, 8))
    assert behind > 2 * on_time


def test_a_portion_that_took_its_time_is_not_rested_after() -> None:
    assert pause_s(10 * MIB, 0.5, 10 * MIB) == 0.5
    assert pause_s(10 * MIB, 2.0, 10 * MIB) == 0.0


@given(passes)
def test_a_state_comes_back_as_it_was_kept(state: Pass) -> None:
    assert open_state(saved(state)) == state


@given(st.binary(max_size=60))
def test_a_state_that_cannot_be_read_means_from_the_beginning(raw: bytes) -> None:
    assert isinstance(open_state(raw), Pass)
    assert open_state(raw[:3]) == NEVER
