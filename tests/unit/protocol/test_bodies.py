"""What a body's announced length costs a server: nothing before it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol.errors import BadRequest
from holdfast.protocol.handling import Answer, Request, read_body
from holdfast.protocol.limits import BODY_ROOM_BYTES, MIB


class Sent(Request):
    """A request whose body comes up to a point."""

    def __init__(self, length: int | None, sent: bytes) -> None:
        self.length = length
        self.rooms: list[int] = []
        self._sent = memoryview(sent)

    def header(self, name: str) -> str | None:
        return None

    async def receive(
        self, rooms: Sequence[memoryview], then: Callable[[int], None] | None, until: float
    ) -> None:
        for room in rooms:
            self.rooms.append(len(room))
            if len(room) > len(self._sent):
                raise BadRequest("it ended early")
            room[:] = self._sent[: len(room)]
            self._sent = self._sent[len(room) :]

    async def answer(self, answer: Answer) -> None:
        raise AssertionError("nothing is answered here")


@given(st.binary(max_size=1000), st.integers(0, 1000))
def test_a_body_is_what_was_sent(block: bytes, times: int) -> None:
    body = block * times
    assert asyncio.run(read_body(Sent(len(body), body), len(body))) == body


@given(st.integers(1, 40 * MIB), st.integers(0, 3 * MIB))
def test_room_is_made_as_it_arrives(length: int, sent: int) -> None:
    request = Sent(length, bytes(min(sent, length)))
    try:
        asyncio.run(read_body(request, length))
    except BadRequest:
        assert sent < length
    assert sum(request.rooms) <= max(BODY_ROOM_BYTES, 2 * sent + BODY_ROOM_BYTES)


@pytest.mark.parametrize("length", [None, 11])
async def test_what_is_too_long_or_of_no_length_is_refused_before_any_of_it_is_read(
    length: int | None,
) -> None:
    request = Sent(length, bytes(100))
    with pytest.raises(BadRequest):
        await read_body(request, 10)
    assert request.rooms == []
