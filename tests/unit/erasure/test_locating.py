"""Naming wrong shards from columns: exact within reach, silent about nobody beyond it."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.protocol import erasure
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.erasure.locating import locate_errors
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.profiles import Profile

profiles = st.builds(Profile, st.integers(1, 12), st.integers(1, 8))
COLUMNS = 16


def shards_of(profile: Profile, seed: bytes = b"") -> dict[int, bytes]:
    sealed = FixedSource(seed=seed).random_bytes(COLUMNS * profile.k)
    return {slot: bytes(shard) for slot, shard in enumerate(erasure.encode(profile, sealed))}


def spoil(shard: bytes, by: bytes) -> bytes:
    """Every byte is another one."""
    return bytes(one ^ (1 + other % 255) for one, other in zip(shard, by, strict=True))


@pytest.mark.parametrize("profile", [Profile(4, 2), Profile(10, 4), Profile(2, 6)], ids=str)
def test_every_pattern_of_as_many_liars_as_can_be_named_is_named_exactly(profile: Profile) -> None:
    right, noise = shards_of(profile), FixedSource(seed=b"noise")
    for count in range(profile.m // 2 + 1):
        for liars in combinations(range(profile.n), count):
            told = {
                slot: spoil(shard, noise.random_bytes(COLUMNS)) if slot in liars else shard
                for slot, shard in right.items()
            }
            assert locate_errors(profile, told) == set(liars)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), profile=profiles)
def test_shards_that_are_not_there_cost_reach_and_no_more(data: st.DataObject, profile: Profile) -> None:
    """e absent, t wrong: named exactly as long as 2 t <= m - e, however few bytes of a shard are wrong."""
    right = shards_of(profile, data.draw(st.binary(max_size=4)))
    order = data.draw(st.permutations(range(profile.n)))
    absent = data.draw(st.integers(0, profile.m - 1))
    wrong = data.draw(st.integers(0, (profile.m - absent) // 2))
    liars = order[absent : absent + wrong]
    told = {slot: shard for slot, shard in right.items() if slot not in order[:absent]}
    for liar in liars:
        changed = bytearray(told[liar])
        for at in data.draw(st.sets(st.integers(0, COLUMNS - 1), min_size=1)):
            changed[at] ^= data.draw(st.integers(1, 255))
        told[liar] = bytes(changed)
    assert locate_errors(profile, told) == set(liars)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), profile=profiles)
def test_more_liars_than_can_be_named_put_the_blame_on_nobody(data: st.DataObject, profile: Profile) -> None:
    """Wrong by chance in every column: told apart from a stripe with fewer wrong shards."""
    right, noise = shards_of(profile), FixedSource(seed=data.draw(st.binary(max_size=4)))
    order = data.draw(st.permutations(range(profile.n)))
    count = data.draw(st.integers(profile.m // 2 + 1, profile.m))
    told = {
        slot: spoil(shard, noise.random_bytes(COLUMNS)) if slot in order[:count] else shard
        for slot, shard in right.items()
    }
    assert locate_errors(profile, told) is None


def test_liars_who_agree_can_point_at_an_honest_slot_which_is_why_columns_prove_nothing() -> None:
    """Two of 4+2 answer with bytes of another chunk's codeword that shares three of the other four shards."""
    profile = Profile(4, 2)
    right = shards_of(profile)
    other = {0: spoil(right[0], b"x" * COLUMNS), 1: right[1], 2: right[2], 3: right[3]}
    made = erasure.rebuild(profile, other, [4, 5])
    assert locate_errors(profile, {**right, 4: made[4], 5: made[5]}) == {0}


@pytest.mark.parametrize("profile", [Profile(1, 1), Profile(2, 1), Profile(5, 1)], ids=str)
def test_one_spare_shard_sees_that_something_is_wrong_and_not_where(profile: Profile) -> None:
    right = shards_of(profile)
    assert locate_errors(profile, right) == frozenset()
    assert locate_errors(profile, {**right, 0: spoil(right[0], b"x" * COLUMNS)}) is None


def test_k_shards_fit_anything() -> None:
    right = shards_of(Profile(4, 2))
    assert locate_errors(Profile(4, 2), {slot: right[slot] for slot in (0, 2, 4, 5)}) is None
    assert locate_errors(Profile(4, 2), {}) is None


def test_columns_that_do_not_fit_each_other_are_refused() -> None:
    right = shards_of(Profile(4, 2))
    for wrong in ({6: right[0]}, {-1: right[0]}, {5: right[5][:-1]}, dict.fromkeys(range(6), b"")):
        with pytest.raises(BadRequest):
            locate_errors(Profile(4, 2), {**right, **wrong})
