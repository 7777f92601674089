"""All of HTTP that the front does not speak, by aiohttp: for browsers, curl, and whoever tries something.

Chunked bodies, HTTP/1.0, HEAD, paths that nobody serves: a connection comes here, and stays, with its
first request that is not plain (``protocol/http_front.py``). The same handlers serve it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import payload, web
from aiohttp.abc import AbstractStreamWriter

from holdfast.protocol.errors import BadRequest
from holdfast.protocol.handling import (
    Answer,
    Handler,
    Request,
    Routes,
    body_within_s,
    ended_early,
    handled,
    not_in_time,
    refusal_answer,
)

__all__ = ["make_app"]


class _BuffersPayload(payload.Payload):
    """A body of several buffers, of known total length, sent without joining them."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.buffers, content_type=answer.content_type)
        self._buffers = answer.buffers
        self._size = answer.size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a binary body has no text form")

    async def write(self, writer: AbstractStreamWriter) -> None:
        for buffer in self._buffers:
            await writer.write(buffer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        assert content_length is None or content_length == self._size
        await self.write(writer)


class _OtherRequest(Request):
    __slots__ = ("_request", "_rest", "response")

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._rest = memoryview(b"")
        self.response: web.StreamResponse | None = None
        self.method = request.method
        self.target = request.raw_path
        self.path = request.path
        self.query = request.query
        self.places = request.match_info
        self.length = request.content_length
        if self.length is None and not request.body_exists:
            self.length = 0
        self.is_answered = False

    def header(self, name: str) -> str | None:
        return self._request.headers.get(name)

    async def receive(
        self, rooms: Sequence[memoryview], then: Callable[[int], None] | None, until: float
    ) -> None:
        try:
            async with asyncio.timeout_at(until):
                for number, room in enumerate(rooms):
                    await self._into(room)
                    if then is not None:
                        then(number)
        except TimeoutError:
            raise not_in_time() from None
        except ConnectionError:
            raise ended_early(self.length or 0) from None

    async def _into(self, room: memoryview) -> None:
        content = self._request.content
        while len(room):
            if not len(self._rest):
                portion, _ = await content.readchunk()
                self._rest = memoryview(portion)
                if not portion and content.at_eof():
                    raise ended_early(self.length or 0)
            count = min(len(room), len(self._rest))
            room[:count] = self._rest[:count]
            room, self._rest = room[count:], self._rest[count:]

    async def answer(self, answer: Answer) -> None:
        self.is_answered = True
        response = web.Response(body=_BuffersPayload(answer), status=answer.status)
        self.response = response
        try:
            async with asyncio.timeout(body_within_s(answer.size)):
                await response.prepare(self._request)
                await response.write_eof()
        except (TimeoutError, ConnectionError):
            if self._request.transport is not None:
                self._request.transport.abort()


def _serve(handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def served(request: web.Request) -> web.StreamResponse:
        asked = _OtherRequest(request)
        answer = await handled(handler, asked)
        if not asked.is_answered:
            return _response(answer)
        assert asked.response is not None
        return asked.response

    return served


def _response(answer: Answer) -> web.Response:
    return web.Response(body=b"".join(answer.buffers), status=answer.status, content_type=answer.content_type)


@web.middleware
async def _not_served(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        made = BadRequest(f"{request.method} {request.path} is not served here", why=error.reason)
        made.http_status = error.status  # type: ignore[misc]  # this one instance keeps HTTP's own status
        return _response(refusal_answer(made))


def make_app(routes: Routes) -> web.Application:
    """The same routes as aiohttp serves them."""
    app = web.Application(middlewares=[_not_served])
    for route in routes:
        if route.method == "GET":
            app.router.add_get(route.path, _serve(route.handler))  # HEAD as well
        else:
            app.router.add_route(route.method, route.path, _serve(route.handler))
    return app
