"""Cuts follow from the bytes and the account, not from how the bytes came."""

from __future__ import annotations

import os
import random

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from pyfastcdc import FastCDC

from holdfast.client.cutting import StreamCutter, cut_seed
from holdfast.client.limits import CUT_BYTES_AVERAGE, CUT_BYTES_MAX, CUT_BYTES_MIN

DATA = random.Random(7).randbytes(24 * 2**20)


def cut(data: bytes, seed: int = 1, portion: int = 4 * 2**20) -> list[bytes]:
    cutter = StreamCutter(seed)
    chunks: list[bytes] = []
    for start in range(0, len(data), portion):
        chunks += [bytes(chunk) for chunk in cutter.feed(data[start : start + portion])]
        assert cutter.held_bytes < CUT_BYTES_MAX + portion
    return chunks + [bytes(chunk) for chunk in cutter.finish()]


def test_chunks_are_the_stream_in_bounds() -> None:
    chunks = cut(DATA)
    assert b"".join(chunks) == DATA
    assert all(CUT_BYTES_MIN <= len(chunk) <= CUT_BYTES_MAX for chunk in chunks[:-1])
    assert 10 < len(chunks) < 60


def cut_at_once(data: bytes, seed: int = 1) -> list[bytes]:
    """The definition: the cutter's library, given the whole stream."""
    whole = FastCDC(CUT_BYTES_AVERAGE, min_size=CUT_BYTES_MIN, max_size=CUT_BYTES_MAX, seed=seed)
    return [data[chunk.offset : chunk.offset + chunk.length] for chunk in whole.cut_buf(data)]


@settings(max_examples=25, deadline=None)
@given(
    portion=st.one_of(st.integers(10_000, 200_000), st.integers(200_000, 7 * 2**20)),
    length=st.integers(0, 12 * 2**20),
    start=st.integers(0, 2**20),
    zeros=st.one_of(st.just(0), st.integers(0, 9 * 2**20)),
)
def test_portions_do_not_matter(portion: int, length: int, start: int, zeros: int) -> None:
    data = DATA[start : start + length // 2] + bytes(zeros) + DATA[start + length // 2 : start + length]
    assert cut(data, portion=portion) == cut_at_once(data)


def test_a_chunk_is_given_as_soon_as_its_end_is_found() -> None:
    """Not when its end could no longer lie elsewhere: sending begins sooner, and less is held."""
    cutter, given_after = StreamCutter(1), []
    for start in range(0, len(DATA), 2**16):
        given_after += [start + 2**16 for _ in cutter.feed(DATA[start : start + 2**16])]
    ends = [sum(map(len, cut_at_once(DATA)[: n + 1])) for n in range(len(given_after))]
    assert all(0 < after - end <= 2**20 for after, end in zip(given_after, ends, strict=True))


def test_an_insertion_changes_the_chunks_around_it_only() -> None:
    before = {blake3(chunk).digest() for chunk in cut(DATA)}
    changed = DATA[: 6 * 2**20] + b"one more letter" + DATA[6 * 2**20 :]
    after = [blake3(chunk).digest() for chunk in cut(changed)]
    assert sum(digest in before for digest in after) >= len(after) - 4


def test_another_account_cuts_elsewhere() -> None:
    mine, theirs = (cut(DATA, seed=cut_seed(os.urandom(32))) for _ in range(2))
    assert [len(chunk) for chunk in mine] != [len(chunk) for chunk in theirs]


@pytest.mark.parametrize("data", [b"", b"x", bytes(CUT_BYTES_MAX * 2)], ids=len)
def test_edges(data: bytes) -> None:
    assert b"".join(cut(data)) == data


@given(st.binary(min_size=32, max_size=32))
def test_a_seed_is_never_zero_and_fits(key: bytes) -> None:
    assert 1 <= cut_seed(key) < 2**63
