"""Hedged reads: slow is told from usual, and hedges stay few whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.client.hedging import Hedging
from holdfast.client.limits import HEDGE_AHEAD_MAX, HEDGE_LAG_S_MIN, HEDGE_PART

GIVEN_UP_S = 2.0


def taught(seconds: float, count: int = 16, size: int = 1000) -> Hedging:
    hedging = Hedging()
    for _ in range(count):
        hedging.asked()
        hedging.answered(seconds, size)
    return hedging


def test_nothing_lags_before_it_is_known_what_is_usual() -> None:
    assert Hedging().lag_s(1000, GIVEN_UP_S) == GIVEN_UP_S
    assert taught(0.1, count=3).lag_s(1000, GIVEN_UP_S) == GIVEN_UP_S


def test_half_as_long_again_as_usual_is_lag() -> None:
    assert taught(0.2).lag_s(1000, GIVEN_UP_S) == pytest.approx(0.3)


def test_quick_reads_are_given_fifty_milliseconds() -> None:
    assert taught(0.001).lag_s(1000, GIVEN_UP_S) == HEDGE_LAG_S_MIN == 0.05


def test_a_larger_read_may_take_longer_in_proportion_a_smaller_one_not_less() -> None:
    hedging = taught(0.2)
    assert hedging.lag_s(4000, GIVEN_UP_S) == pytest.approx(1.2)
    assert hedging.lag_s(1, GIVEN_UP_S) == pytest.approx(0.3)


def test_no_lag_is_longer_than_what_is_given_up() -> None:
    assert taught(10.0).lag_s(1000, GIVEN_UP_S) == GIVEN_UP_S


def test_a_few_slow_reads_do_not_make_slow_usual() -> None:
    hedging = taught(0.1, count=20)
    for _ in range(9):
        hedging.answered(5.0, 1000)
    assert hedging.lag_s(1000, GIVEN_UP_S) == pytest.approx(0.15)


def test_empty_answers_divide_nothing_by_zero() -> None:
    assert taught(0.1, size=0).lag_s(1000, GIVEN_UP_S) == GIVEN_UP_S


@given(asks=st.lists(st.booleans(), max_size=2000))
def test_hedges_are_at_most_a_tenth_and_two_ahead(asks: list[bool]) -> None:
    """Whatever lags: True asks for a hedge."""
    hedging = Hedging()
    for wants_hedge in asks:
        hedging.asked()
        if wants_hedge and hedging.may_hedge():
            hedging.asked()
            hedging.hedged()
        assert hedging.hedges < HEDGE_AHEAD_MAX + 1 + hedging.requests * HEDGE_PART
