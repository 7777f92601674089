"""One HTTP/1.1 connection to a server, as our own programs use it: small, strict, and without copies.

What it knows of HTTP (RFC 9110, RFC 9112): a request for a path that is served, with a Content-Length or
without a body, each header once, in visible ASCII. A connection whose next request is anything else is
handed over to aiohttp, bytes and all, and stays there: what is refused, and how, is decided in one place.

Why not aiohttp for all: a node's bodies are received straight into the room behind each shard's record
(aiohttp copies each byte twice more, and makes an object of each portion), and a request costs less
(docs/performance.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import parse_qsl

import structlog

from holdfast.protocol.handling import (
    Answer,
    Handler,
    Request,
    body_within_s,
    ended_early,
    handled,
    not_in_time,
)
from holdfast.protocol.http_heads import Head, answer_head, may_become_plain, parse_head
from holdfast.protocol.limits import (
    FRONT_IDLE_S,
    PROGRESS_NOTED_S,
    REQUEST_HEAD_BYTES_MAX,
    UNWANTED_BODY_S,
)

if TYPE_CHECKING:
    from holdfast.protocol.http_fronts import Fronts

__all__ = ["Front"]

_log = structlog.get_logger()

_END_OF_HEAD: Final = b"\r\n\r\n"


class _FrontRequest(Request):
    __slots__ = ("_front", "_headers")

    def __init__(self, front: Front, head: Head, path: str, query: str, places: Mapping[str, str]) -> None:
        self._front = front
        self._headers = head.headers
        self.method = head.method
        self.target = head.target
        self.path = path
        asked: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True) if query else ():
            asked.setdefault(name, value)  # of a repeated name the first value counts, as with aiohttp
        self.query = asked
        self.places = places
        self.length = head.length
        self.is_answered = False

    def header(self, name: str) -> str | None:
        return self._headers.get(name.lower())

    async def receive(
        self, rooms: Sequence[memoryview], then: Callable[[int], None] | None, until: float
    ) -> None:
        await self._front.receive(rooms, then, until)

    async def answer(self, answer: Answer) -> None:
        self.is_answered = True
        await self._front.answer(answer)


class Front(asyncio.BufferedProtocol):
    """Made by ``http_fronts.py``. One request at a time; what comes before its turn waits in the kernel.

    Bytes are received into ``_held`` until a handler says where it wants its body, and then into those rooms.
    """

    def __init__(self, fronts: Fronts) -> None:
        self._fronts = fronts
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._held = memoryview(bytearray(REQUEST_HEAD_BYTES_MAX))
        self._start = self._filled = 0
        self._paused = False
        # The request under way
        self._task: asyncio.Task[None] | None = None
        self._left = self._length = self._unsent = 0
        self._last = False
        self._discarding: asyncio.TimerHandle | None = None
        # Where its body goes
        self._rooms: Sequence[memoryview] = ()
        self._number = 0
        self._room: memoryview | None = None
        self._then: Callable[[int], None] | None = None
        self._received: asyncio.Future[None] | None = None
        self._sent: asyncio.Future[None] | None = None
        self._idle_since = self._moved_s = self._loop.time()
        self._watch: asyncio.TimerHandle | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # It may have been accepted before the server ceased to listen.
        if self._fronts.stopping or not self._fronts.makes_room():
            self.abort()
            return
        # What is written goes out at once, and is "sent" when the kernel has all of it.
        self._transport.set_write_buffer_limits(high=0)
        self._fronts.open.came(self)
        self._watch = self._loop.call_later(FRONT_IDLE_S, self._look)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._room is not None:
            return self._room
        if self._discarding is not None:
            return self._held[: self._left]
        return self._held[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._room is not None:
            self._left -= nbytes
            self._room = self._room[nbytes:]
            if not len(self._room):
                self._room_full()
            self._note_progress()
        elif self._discarding is not None:
            self._note_progress()
            self._left -= nbytes
            if not self._left:
                self._discarding.cancel()
                self._discarding = None
                self._next()
        else:
            self._filled += nbytes
            if self._task is None:
                self._read_head(nbytes)
            self._pause_if_full()

    def pause_writing(self) -> None:
        """What :meth:`answer` asks the transport itself."""

    def resume_writing(self) -> None:
        if self._sent is not None and not self._sent.done():
            self._sent.set_result(None)

    def eof_received(self) -> None:
        """The transport closes, and says so below."""

    def connection_lost(self, error: Exception | None) -> None:
        self._fronts.open.left(self)
        self._stop_watching()
        self._end_receiving(ended_early(self._length))
        self.resume_writing()

    # Reading

    def _wait(self) -> None:
        """From now on the other side has to send something, or to take it."""
        self._moved_s = self._loop.time()
        self._fronts.open.is_awaited(self, self._moved_s)

    def has_taken(self) -> bool:
        """Has it taken some of its answer since this was asked last?"""
        if self._sent is None or self._transport is None:
            return False
        before, self._unsent = self._unsent, self._transport.get_write_buffer_size()
        if self._unsent < before:
            self._wait()
        return self._unsent < before

    def _works(self) -> None:
        """What it had to send, or to take, is through."""
        if self._transport is not None and not self._transport.is_closing():
            self._fronts.open.works(self)

    def _note_progress(self) -> None:
        """It has sent something; still more is to come where it is waited for."""
        is_awaited = self._room is not None or self._discarding is not None
        if is_awaited and self._loop.time() - self._moved_s >= PROGRESS_NOTED_S:
            self._wait()

    def _pause(self) -> None:
        assert self._transport is not None
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _pause_if_full(self) -> None:
        """While a request is under way, what finds no room waits in the kernel."""
        if self._task is not None and self._filled == len(self._held):
            self._pause()

    def _resume(self) -> None:
        assert self._transport is not None
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _read_head(self, fresh: int) -> None:
        """Begin with the next request if its head is here."""
        held = bytes(self._held[self._start : self._filled])
        end = held.find(_END_OF_HEAD, max(0, len(held) - fresh - 3))
        if end < 0:
            if len(held) == len(self._held) or not may_become_plain(held):
                self._hand_over()
            elif self._filled == len(self._held):
                self._held[: len(held)] = held
                self._start, self._filled = 0, len(held)
            return
        head = parse_head(held[:end])
        path, _, query = head.target.partition("?") if head is not None else ("", "", "")
        served = self._fronts.routes.find(head.method, path) if head is not None else None
        if head is None or served is None:
            self._hand_over()
            return
        self._skip(end + len(_END_OF_HEAD))
        handler, places = served
        self._left = self._length = head.length
        self._last = head.last
        request = _FrontRequest(self, head, path, query, places)
        self._fronts.open.works(self)
        self._task = self._loop.create_task(self._serve(handler, request))

    def _skip(self, count: int) -> None:
        self._start += count
        if self._start == self._filled:
            self._start = self._filled = 0

    def _hand_over(self) -> None:
        """Let aiohttp have the connection from this request on."""
        assert self._transport is not None
        transport, held = self._transport, bytes(self._held[self._start : self._filled])
        self._fronts.open.left(self)
        self._stop_watching()
        other = self._fronts.hand_over(transport)
        if other is None:
            transport.abort()
            return
        # What a transport calls is settled when it begins to read.
        self._pause()
        transport.set_write_buffer_limits()
        transport.set_protocol(other)
        other.connection_made(transport)
        # Before it is given anything: where that is too much for it, it pauses, and that has to hold.
        transport.resume_reading()
        other.data_received(held)

    # Bodies

    async def receive(
        self, rooms: Sequence[memoryview], then: Callable[[int], None] | None, until: float
    ) -> None:
        """See Request.receive."""
        assert self._room is None, "one reader at a time"
        if sum(len(room) for room in rooms) > self._left:
            raise ended_early(self._length)
        self._rooms, self._then, self._number = rooms, then, -1
        self._received = self._loop.create_future()
        self._room = memoryview(b"")
        self._room_full()
        late: asyncio.TimerHandle | None = None
        if not self._received.done():
            if self._transport is None or self._transport.is_closing():
                self._end_receiving(ended_early(self._length))
            else:
                self._wait()
            self._resume()
            late = self._loop.call_at(until, self._end_receiving, not_in_time())
        try:
            await self._received
        finally:
            if late is not None:
                late.cancel()
                self._works()
            self._room, self._received = None, None
            self._rooms, self._then = (), None

    def _room_full(self) -> None:
        """Go on with the next room, as far as what is held fills them."""
        room = self._room
        try:
            while room is not None and not len(room):
                if self._number >= 0 and self._then is not None:
                    self._then(self._number)
                self._number += 1
                if self._number == len(self._rooms):
                    room = None
                    break
                room = self._rooms[self._number]
                count = min(len(room), self._filled - self._start)
                if count:
                    room[:count] = self._held[self._start : self._start + count]
                    self._skip(count)
                    self._left -= count
                    room = room[count:]
        except Exception as error:  # a shard that is not what it says: its reader is told
            self._end_receiving(error)
            return
        self._room = room
        if room is None:
            self._end_receiving(None)

    def _end_receiving(self, error: Exception | None) -> None:
        self._room = None
        if self._received is not None and not self._received.done():
            if error is None:
                self._received.set_result(None)
            else:
                self._received.set_exception(error)

    # Answers

    async def _serve(self, handler: Handler, request: _FrontRequest) -> None:
        try:
            answer = await handled(handler, request)
            if not request.is_answered:
                await self.answer(answer)
        # Without an answer the connection ends: what is left of the body would be taken for a request.
        except ConnectionResetError:
            self.abort()
        except Exception:
            _log.exception("an answer could not be written", path=request.path)
            self.abort()
        except BaseException:
            self.abort()
            raise
        finally:
            self._task = None
        self._next()

    async def answer(self, answer: Answer) -> None:
        """See Request.answer."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        head = answer_head(answer, int(self._loop.time()), self._last)
        if len(answer.buffers) == 1:
            transport.write(head + answer.buffers[0])
        else:
            transport.writelines([head, *answer.buffers])
        if transport.get_write_buffer_size():
            self._sent = self._loop.create_future()
            self._unsent = transport.get_write_buffer_size()
            self._wait()
            try:
                async with asyncio.timeout(body_within_s(answer.size)):
                    await self._sent
            except TimeoutError:
                transport.abort()
            finally:
                self._sent = None
                self._works()

    def _next(self) -> None:
        """The answer is out: go on with the next request."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        count = min(self._left, self._filled - self._start)
        self._skip(count)
        self._left -= count
        if self._left:
            # Answered before all of it was here: what is left is not wanted, but has to be taken, even of the
            # last request: closed now, its bytes would meet a reset, which throws the answer away.
            self._discarding = self._loop.call_later(UNWANTED_BODY_S, self.abort)
            self._wait()
            self._resume()
        elif self._last:
            transport.close()
        else:
            self._idle_since = self._loop.time()
            self._fronts.open.rests(self)
            self._resume()
            if self._filled > self._start:
                self._read_head(self._filled - self._start)
                self._pause_if_full()

    # Ends

    def _look(self) -> None:
        """Has it rested, or been at one head, for too long?"""
        rested = self._loop.time() - self._idle_since
        if self._task is not None or self._discarding is not None:
            rested = 0.0
        if rested >= FRONT_IDLE_S:
            self.abort()
        else:
            self._watch = self._loop.call_later(FRONT_IDLE_S - rested, self._look)

    def _stop_watching(self) -> None:
        for timer in (self._watch, self._discarding):
            if timer is not None:
                timer.cancel()

    def end(self) -> asyncio.Task[None] | None:
        """The server stops: close, after the request under way if there is one; gives its task."""
        self._last = True
        if self._task is None:
            self.abort()
        return self._task

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
