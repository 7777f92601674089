"""What a server's handlers are given and what they give back, whoever speaks HTTP for them.

A handler gets a :class:`Request` and returns an :class:`Answer`; :class:`Routes` says which handler serves
what. Two speak for them: ``protocol/http_front.py`` (what our own programs send) and
``protocol/http_others.py`` (everything else of HTTP, by aiohttp).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from holdfast.protocol.codec import encode
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.limits import (
    BODY_BYTES_PER_S_MIN,
    BODY_GRACE_S,
    BODY_ROOM_BYTES,
    SHARD_BATCH_HEADER_BYTES_MAX,
)
from holdfast.protocol.messages.cluster import Refusal
from holdfast.protocol.transport import Buffers

__all__ = [
    "Answer",
    "BodyReader",
    "Handler",
    "Request",
    "Route",
    "Routes",
    "body_within_s",
    "ended_early",
    "handled",
    "msgpack_answer",
    "not_in_time",
    "read_body",
    "refusal_answer",
]

_log = structlog.get_logger()
_MSGPACK: Final = "application/msgpack"


class Answer:
    """A status, and a body of one or several buffers, which are sent unjoined."""

    __slots__ = ("buffers", "content_type", "size", "status")

    def __init__(self, buffers: Buffers, *, status: int = 200, content_type: str = _MSGPACK) -> None:
        self.buffers = buffers
        self.status = status
        self.content_type = content_type
        self.size = sum(len(buffer) for buffer in buffers)


class Request(ABC):
    """One request, its body still on its way.

    Attributes:
        target: path and query as sent; what a signature covers.
        path: without the query.
        query: its names and values, decoded.
        places: what the route's ``{names}`` stand for.
        length: of the body in bytes, 0 without one; None where the sender does not say.
        is_answered: has :meth:`answer` been called?
    """

    __slots__ = ("is_answered", "length", "method", "path", "places", "query", "target")

    method: str
    target: str
    path: str
    query: Mapping[str, str]
    places: Mapping[str, str]
    length: int | None
    is_answered: bool

    @abstractmethod
    def header(self, name: str) -> str | None:
        """A header's value, whatever its case."""

    @abstractmethod
    async def receive(
        self, rooms: Sequence[memoryview], then: Callable[[int], None] | None, until: float
    ) -> None:
        """Fill rooms with the next bytes of the body, one after the other, each wholly.

        Args:
            rooms: no longer together than what is left of the body.
            then: called with a room's index as soon as it is full, while it is in the processor's cache;
                what it raises ends the receiving, and is raised here.
            until: on the loop's clock.

        Raises:
            BadRequest: the body ended early, or did not arrive in time.
        """

    @abstractmethod
    async def answer(self, answer: Answer) -> None:
        """Send the answer; returns when the peer's kernel has it, or the peer is given up.

        For handlers that hold something until then; all others just return theirs. Whoever holds memory for
        an answer holds it until it is sent, so a peer that does not read is cut off after the time that a
        body may take.
        """


Handler = Callable[[Request], Awaitable[Answer]]


class Route(NamedTuple):
    """``path`` may have parts like ``{upload}``, each of which stands for one part of a request's path."""

    method: str
    path: str
    handler: Handler


class Routes:
    """Who serves what."""

    def __init__(self) -> None:
        self._plain: dict[tuple[str, str], Route] = {}
        self._patterns: list[tuple[str, list[str], Route]] = []

    def __iter__(self) -> Iterator[Route]:
        yield from self._plain.values()
        for _, _, route in self._patterns:
            yield route

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Have a path served."""
        route = Route(method, path, handler)
        if "{" in path:
            self._patterns.append((method, path.split("/"), route))
        else:
            assert (method, path) not in self._plain, path
            self._plain[method, path] = route

    def add_get(self, path: str, handler: Handler) -> None:
        """Have a GET served."""
        self.add("GET", path, handler)

    def add_post(self, path: str, handler: Handler) -> None:
        """Have a POST served."""
        self.add("POST", path, handler)

    def add_put(self, path: str, handler: Handler) -> None:
        """Have a PUT served."""
        self.add("PUT", path, handler)

    def find(self, method: str, path: str) -> tuple[Handler, Mapping[str, str]] | None:
        """Who serves this, and what the path's places are; None: nobody."""
        plain = self._plain.get((method, path))
        if plain is not None:
            return plain.handler, {}
        parts = path.split("/")
        for served, pattern, route in self._patterns:
            if served == method and len(pattern) == len(parts):
                places = _places(pattern, parts)
                if places is not None:
                    return route.handler, places
        return None


def _places(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    places = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{") and part:
            places[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return places


# Answers


def msgpack_answer(message: object, status: int = 200) -> Answer:
    """A message as an answer."""
    return Answer([encode(message)], status=status)


def refusal_answer(error: HoldfastError) -> Answer:
    """A typed error as an answer."""
    details: dict[str, str | int | bool | list[str]] = {}
    for name, value in error.details.items():
        if isinstance(value, str | int | bool):
            details[name] = value
        elif isinstance(value, list | tuple):
            details[name] = [str(element) for element in value]
    return msgpack_answer(
        Refusal(error=error.code, what=error.what, why=error.why, do=error.do, details=details),
        error.http_status,
    )


async def handled(handler: Handler, request: Request) -> Answer:
    """A handler's answer; a failure becomes a typed refusal, what nobody foresaw is logged with its trace."""
    try:
        return await handler(request)
    except HoldfastError as error:
        return refusal_answer(error)
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception:
        _log.exception("unforeseen error", path=request.path)
        return refusal_answer(
            HoldfastError("the server met an error it did not foresee", do="See its log for the trace.")
        )


# Bodies


def body_within_s(length: int) -> float:
    """How long a body of so many bytes may be on its way."""
    return BODY_GRACE_S + length / BODY_BYTES_PER_S_MIN


def ended_early(length: int) -> BadRequest:
    """What is told of a body that ended early."""
    return BadRequest(f"the request ended before its {length} bytes were there")


def not_in_time() -> BadRequest:
    """What is told of a body that took too long."""
    return BadRequest("the request's body did not arrive in time", do="Send it again.")


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body, refused before it is read when it is longer than the bound.

    Room is made as it arrives: at most twice as much as was sent, whatever was announced.
    """
    length = request.length
    if length is None:
        raise BadRequest("a request must say its length")
    if length > limit_bytes:
        raise BadRequest(f"a body of {length} bytes is too long here", why=f"the bound is {limit_bytes}")
    if not length:
        return b""
    reader = BodyReader(request, length)
    return bytes(await reader.growing(length))


class BodyReader:
    """Reads a request's body part by part, each straight to where it is wanted.

    Raises BadRequest when the body ends early, or does not arrive in the time that :func:`read_body` gives,
    counted from the first part.
    """

    def __init__(self, request: Request, length: int) -> None:
        self._request = request
        self._left = length
        self._until = asyncio.get_running_loop().time() + body_within_s(length)

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return self._left

    async def into(self, rooms: Sequence[memoryview], then: Callable[[int], None] | None = None) -> None:
        """Fill rooms, as :meth:`Request.receive` does."""
        self._left -= sum(len(room) for room in rooms)
        await self._request.receive(rooms, then, self._until)

    async def header(self) -> bytearray:
        """The header of a framed body: what :func:`split_frame` gives of one that is here already."""
        lead = bytearray(4)
        if self._left < len(lead):
            raise BadRequest("the body is too short to be framed")
        await self.into([memoryview(lead)])
        length = int.from_bytes(lead, "big")
        if length > SHARD_BATCH_HEADER_BYTES_MAX or length > self._left:
            raise BadRequest("the body's header length is out of bounds")
        return await self.growing(length)

    async def growing(self, length: int) -> bytearray:
        """The next bytes, in room that is made as they arrive: as much again as is here."""
        got = bytearray()
        while len(got) < length:
            room = bytearray(min(length - len(got), max(BODY_ROOM_BYTES, len(got))))
            await self.into([memoryview(room)])
            got += room
        return got
