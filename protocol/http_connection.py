"""One HTTP/1.1 connection to a server, for the transport alone: small, strict, and without copies.

What it knows of HTTP (RFC 9110, RFC 9112) is what the servers of this cluster speak: a
request has a Content-Length, an answer has exactly one, bodies are not encoded. Anything
else is refused and the connection given up. Requests go out as the buffers they are
(vectored writes), an answer's body is received straight into the one buffer that is
handed on.

Why not aiohttp's client, which served here first: loading it took as long as all the rest of the
client, each received byte was copied three times, and small requests cost twice as much
(docs/performance.md). The servers use aiohttp.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Final, cast

from msgspec import Struct

from holdfast.protocol.errors import BadRequest
from holdfast.protocol.limits import ANSWER_HEAD_BYTES_MAX, CONNECT_TIMEOUT_S

__all__ = ["Answer", "BadAnswer", "ConnectFailed", "Connection", "Lost", "Silent", "connect", "request_head"]

_END_OF_HEAD: Final = b"\r\n\r\n"
_NO_BODY: Final = (204, 304)
_SPEAKS: Final = (b"HTTP/1.1 ", b"HTTP/1.0 ")


class ConnectFailed(Exception):
    """No connection could be made: nothing was sent."""


class Lost(Exception):
    """The connection ended before the answer was whole."""


class Silent(Exception):
    """Nothing moved on the connection for longer than it may."""


class BadAnswer(Exception):
    """What came is not an answer that a server of this cluster gives."""


class Answer(Struct, frozen=True):
    """Status, and the whole body."""

    status: int
    body: memoryview


class Connection(asyncio.BufferedProtocol):
    """Made by :func:`connect`. One request at a time; after any error it is closed.

    Attributes:
        idle_since: when the last answer was whole, on the loop's clock.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._head = bytearray(ANSWER_HEAD_BYTES_MAX)
        self._filled = 0
        self._body: bytearray | None = None
        self._status = 0
        self._body_bytes_max = 0
        self._waiting: asyncio.Future[Answer] | None = None
        self._moved_at = 0.0
        self._unsent = 0
        self._last = False
        self._watch: asyncio.TimerHandle | None = None
        self.idle_since = 0.0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        room = self._head if self._body is None else self._body
        return memoryview(room)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._waiting is None:
            self._give_up(BadAnswer("it spoke without being asked"))
            return
        self._moved_at = self._loop.time()
        self._filled += nbytes
        try:
            if self._body is None:
                self._read_head(self._filled - nbytes)
            if self._body is not None and self._filled == len(self._body):
                self._done(self._body)
        except BadAnswer as error:
            self._give_up(error)

    def eof_received(self) -> None:
        self._give_up(Lost("it hung up"))

    def connection_lost(self, error: Exception | None) -> None:
        self._give_up(Lost(str(error) if error else "it hung up"))

    # The answer

    def _read_head(self, before: int) -> None:
        end = self._head.find(_END_OF_HEAD, max(0, before - 3), self._filled)
        if end < 0:
            if self._filled == len(self._head):
                raise BadAnswer("the head of its answer is too long")
            return
        rest = end + len(_END_OF_HEAD)
        self._status, length, self._last = _parsed(bytes(self._head[:end]))
        if length > self._body_bytes_max:
            raise BadAnswer(f"its answer has {length} bytes, and may have {self._body_bytes_max}")
        if self._filled - rest > length:
            raise BadAnswer("its answer is longer than it says")
        self._body = bytearray(length)
        self._body[: self._filled - rest] = self._head[rest : self._filled]
        self._filled -= rest

    def _done(self, body: bytearray) -> None:
        waiting, self._waiting = self._waiting, None
        self._body, self._filled = None, 0
        assert self._transport is not None
        if self._last or self._transport.get_write_buffer_size():
            self.close()  # an answer before the whole request is a refusal; the rest is not wanted any more
        self.idle_since = self._loop.time()
        if waiting is not None and not waiting.done():
            waiting.set_result(Answer(self._status, memoryview(body)))

    def _give_up(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, None
        self.close()
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    # What the transport calls

    @property
    def is_open(self) -> bool:
        """Can it take a request?"""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Close at once; what was not sent yet is dropped."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()

    async def ask(
        self,
        head: bytes,
        buffers: Sequence[bytes | memoryview],
        *,
        body_bytes_max: int,
        idle_s: float,
    ) -> Answer:
        """Send one request, give its answer. Cancelling closes the connection.

        Args:
            head: the request's head, with its Content-Length and the empty line.
            idle_s: how long nothing may move in either direction.

        Raises:
            Lost, Silent, BadAnswer: there is no answer to rely on; the connection is closed.
        """
        assert self._transport is not None and self._waiting is None, "one request at a time"
        if self._transport.is_closing():
            raise Lost("it had hung up")
        waiting: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting = waiting
        self._body_bytes_max = body_bytes_max
        self._moved_at, self._unsent = self._loop.time(), -1
        self._watch = self._loop.call_later(idle_s, self._look, idle_s)
        try:
            self._transport.writelines([head, *buffers])
            return await waiting
        except BaseException:
            self._give_up(Lost("it was given up"))
            raise
        finally:
            self._watch.cancel()

    def _look(self, idle_s: float) -> None:
        """Has anything moved? What the kernel has taken of the request since counts as well."""
        if self._transport is None or self._waiting is None:
            return
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent and unsent:
            self._moved_at = self._loop.time()
        self._unsent = unsent
        left = self._moved_at + idle_s - self._loop.time()
        if left <= 0:
            self._give_up(Silent(f"nothing came for {idle_s:.0f} s"))
        else:
            self._watch = self._loop.call_later(left, self._look, idle_s)


def _parsed(head: bytes) -> tuple[int, int, bool]:
    """(status, Content-Length, is this the connection's last answer) of an answer's head."""
    first, *lines = head.split(b"\r\n")
    if not first.startswith(_SPEAKS) or not first[9:12].isdigit() or first[12:13] not in (b"", b" "):
        raise BadAnswer("its answer does not begin as HTTP does")
    status, lengths, last = int(first[9:12]), [], first.startswith(_SPEAKS[1])
    if status < 200:
        raise BadAnswer(f"it answered with the interim status {status}")
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise BadAnswer("a header line of its answer is malformed")
        name, value = name.lower(), value.strip()
        if name == b"content-length":
            lengths.append(value)
        elif name in (b"transfer-encoding", b"content-encoding"):
            raise BadAnswer("its answer is encoded")
        elif name == b"connection":
            last = last or value.lower() == b"close"
    if not lengths and status in _NO_BODY:
        return status, 0, last
    if len(lengths) != 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
        raise BadAnswer("its answer does not say once how long it is")
    return status, int(lengths[0]), last


def request_head(
    method: str, target: str, host: str, headers: Mapping[str, str], body_bytes: int | None
) -> bytes:
    """The head of a request; ``body_bytes`` None: it has no body.

    Raises:
        BadRequest: something in it would not be one line of visible characters.
    """
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines.extend(f"{name}: {value}" for name, value in headers.items())
    if body_bytes is not None:
        lines.append("Content-Type: application/msgpack")
        lines.append(f"Content-Length: {body_bytes}")
    text = "\r\n".join(lines)
    if (
        " " in target
        or not target.startswith("/")
        or not all(line.isascii() and line.isprintable() for line in lines)
    ):
        raise BadRequest("a request's head has characters that it may not have")
    return text.encode() + _END_OF_HEAD


async def connect(host: str, port: int, local_address: tuple[str, int] | None) -> Connection:
    """A new connection.

    Raises:
        ConnectFailed: there is nobody, or not in time.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, made = await loop.create_connection(Connection, host, port, local_addr=local_address)
    except TimeoutError:
        raise ConnectFailed(f"no connection within {CONNECT_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        # The system's own words: a whole sentence of asyncio's names addresses that the URL names already.
        raise ConnectFailed(_reason(error)) from error
    return made


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
