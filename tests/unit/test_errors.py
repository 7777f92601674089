"""The error tree is what its docstring draws, and survives the wire."""

from __future__ import annotations

import re

import pytest

from holdfast.protocol import errors
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import HeadMoved, HoldfastError, error_from_wire
from holdfast.protocol.handling import refusal_answer
from holdfast.protocol.messages.cluster import Refusal


def kinds(kind: type[HoldfastError] = HoldfastError) -> list[type[HoldfastError]]:
    own = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return [kind, *(found for child in own for found in kinds(child))]


@pytest.mark.parametrize("kind", kinds())
def test_the_docstring_draws_the_tree_with_its_exit_codes(kind: type[HoldfastError]) -> None:
    drawn = re.search(rf"\b{kind.__name__}\s+(\d+)\b", errors.__doc__ or "")
    assert drawn, f"{kind.__name__} is missing in the drawing"
    assert int(drawn[1]) == kind.exit_code
    assert kind.__doc__


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in kinds()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", kinds())
def test_an_error_arrives_as_what_it_was(kind: type[HoldfastError]) -> None:
    answer = refusal_answer(kind("it broke", why="of rust", do="Oil it.", seq=3, names=["a", "b"]))
    assert answer.status >= 400
    (body,) = answer.buffers
    told = decode(bytes(body), Refusal)
    again = error_from_wire(told.error, told.what, told.why, told.do, dict(told.details))
    assert type(again) is kind
    assert (again.what, again.why, again.do) == ("it broke", "of rust", "Oil it.")
    assert again.details == {"seq": 3, "names": ["a", "b"]}


def test_a_code_from_the_future_is_still_an_error() -> None:
    assert type(error_from_wire("from_the_future", "x")) is HoldfastError


def test_details_cannot_replace_the_words() -> None:
    assert error_from_wire("head_moved", "x", details={"what": "y", "seq": 1}).details == {"seq": 1}


def test_the_text_says_what_why_and_what_next() -> None:
    assert str(HeadMoved("The head moved.", why="another device was first.", do="Read it again.")) == (
        "The head moved, because another device was first. Read it again."
    )


def test_every_error_has_a_next_step_even_where_its_raiser_gave_none() -> None:
    def walk(kind: type[HoldfastError]) -> list[type[HoldfastError]]:
        return [kind, *(below for child in kind.__subclasses__() for below in walk(child))]

    for kind in walk(HoldfastError):
        assert kind("something happened").do, kind.__name__
