"""The arithmetic of redundancy, against its words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol.errors import BadRequest
from holdfast.protocol.profiles import Profile, default_profile, fallback_profile


@pytest.mark.parametrize(
    ("nodes", "profile"),
    [
        (0, None),
        (1, None),
        (2, "1+1"),
        (3, "2+1"),
        (5, "2+1"),
        (6, "4+2"),
        (13, "4+2"),
        (14, "10+4"),
        (99, "10+4"),
    ],
)
def test_the_default_follows_the_number_of_nodes(nodes: int, profile: str | None) -> None:
    found = default_profile(nodes)
    assert (str(found) if found else None) == profile
    assert found is None or found.n <= nodes


@given(k=st.integers(1, 40), m=st.integers(1, 20), up=st.integers(0, 80))
def test_a_fallback_keeps_every_promise_it_can(k: int, m: int, up: int) -> None:
    usual = Profile(k, m)
    found = fallback_profile(usual, up)
    if up < 2:
        assert found is None
        return
    assert found is not None
    assert found.n == min(up, usual.n), "every node that is up takes part"
    assert 1 <= found.m <= m
    assert found.k >= found.m or found.m == m, "parity never outgrows half the nodes"
    assert found.write_quorum <= up


@given(k=st.integers(1, 200), m=st.integers(1, 55))
def test_a_write_quorum_survives_losing_half_the_parity_more(k: int, m: int) -> None:
    profile = Profile(k, m)
    assert k < profile.write_quorum <= profile.n
    assert profile.write_quorum - k >= m / 2


@given(k=st.integers(1, 200), size=st.integers(1, 5_000_000))
def test_shards_cover_the_chunk_without_a_spare_byte_per_shard(k: int, size: int) -> None:
    shard = Profile(k, 1).shard_bytes(size)
    assert shard * k >= size > (shard - 1) * k


@pytest.mark.parametrize("text", ["", "4", "4+", "+2", "4-2", "0+2", "4+0", "200+56", "4+2+1", "4.0+2"])
def test_what_is_not_a_profile_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Profile.parse(text)


def test_a_profile_survives_its_text() -> None:
    assert Profile.parse(str(Profile(10, 4))) == Profile(10, 4)
