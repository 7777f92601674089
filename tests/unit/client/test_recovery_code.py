"""A recovery code is corrected or refused, and never turned silently into another key."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.client.recovery_code import (
    decode_recovery_code,
    encode_recovery_code,
    parse_recovery_file,
    render_recovery_file,
)
from holdfast.protocol.errors import BadRequest, WrongKey

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
secrets = st.binary(min_size=32, max_size=32)


@given(secrets)
def test_a_code_gives_its_secret_back(secret: bytes) -> None:
    code = encode_recovery_code(secret)
    assert [len(group) for group in code.split("-")] == [8] * 9
    found = decode_recovery_code(code)
    assert (found.secret, found.corrected, found.text) == (secret, 0, code)
    assert secret.hex() not in repr(found)


@settings(max_examples=150, deadline=None)
@given(secrets, st.lists(st.tuples(st.integers(0, 71), st.sampled_from(ALPHABET)), max_size=2))
def test_two_wrong_characters_anywhere_are_always_put_right(
    secret: bytes, changes: list[tuple[int, str]]
) -> None:
    """Two characters touch four bytes at most: what the parity can correct."""
    code = list(encode_recovery_code(secret).replace("-", ""))
    for at, character in changes:
        code[at] = character
    found = decode_recovery_code("".join(code))
    assert found.secret == secret
    assert found.text == encode_recovery_code(secret)


@settings(max_examples=100, deadline=None)
@given(secrets, st.sets(st.integers(0, 71), max_size=4))
def test_four_unreadable_characters_anywhere_are_always_filled_in(secret: bytes, places: set[int]) -> None:
    code = list(encode_recovery_code(secret).replace("-", ""))
    for at in places:
        code[at] = "?"
    assert decode_recovery_code("".join(code)).secret == secret


def test_whatever_is_typed_it_is_the_right_key_or_none() -> None:
    """Thousands of codes damaged beyond what can be put right, and plain nonsense."""
    chance = random.Random(5)
    refused = 0
    for _ in range(3000):
        secret = chance.randbytes(32)
        code = list(encode_recovery_code(secret).replace("-", ""))
        for at in chance.sample(range(72), chance.randint(3, 40)):
            code[at] = chance.choice(ALPHABET + "?")
        try:
            assert decode_recovery_code("".join(code)).secret == secret
        except WrongKey:
            refused += 1
    assert refused > 2000


@given(st.text(max_size=200))
def test_any_text_is_refused_with_words_or_is_a_code(text: str) -> None:
    try:
        decode_recovery_code(text)
    except WrongKey as error:
        assert error.do


@pytest.mark.parametrize("length", [0, 71, 73, 144, 100_000])
def test_any_other_length_is_refused_before_it_is_decoded(length: int) -> None:
    with pytest.raises(WrongKey):
        decode_recovery_code("7" * length)


def test_a_recovery_file_carries_code_and_address() -> None:
    code = encode_recovery_code(bytes(range(32)))
    text = render_recovery_file(code, "http://127.0.0.1:7700#" + "ab" * 32, "1234abcd", "2026-11-24")
    assert max(len(line) for line in text.splitlines()) <= 110
    found = parse_recovery_file(text)
    assert decode_recovery_code(found.code).secret == bytes(range(32))
    assert found.address.endswith("ab")
    windows = parse_recovery_file(text.replace("\n", "\r\n"))
    assert decode_recovery_code(windows.code).secret == bytes(range(32))


@pytest.mark.parametrize("text", ["", "hello", "Holdfast recovery file\n\ncluster: x\n", "\0" * 100])
def test_what_is_no_recovery_file_is_refused_with_words(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_recovery_file(text)
    assert caught.value.do
