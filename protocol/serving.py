"""What the coordinator's and the nodes' HTTP servers share.

Bounded bodies, typed refusals, and listening: plain HTTP is served on loopback
only, and nothing listens anywhere else before TLS exists.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from aiohttp import payload, web
from aiohttp.abc import AbstractStreamWriter

from holdfast.protocol.address import is_loopback
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.limits import BODY_BYTES_PER_S_MIN, BODY_GRACE_S, SHARD_BATCH_HEADER_BYTES_MAX
from holdfast.protocol.messages.cluster import Refusal
from holdfast.protocol.transport import Buffers

__all__ = [
    "BodyReader",
    "ListenAddress",
    "Server",
    "errors_middleware",
    "msgpack_answer",
    "read_body",
    "refusal_answer",
    "send_buffers",
    "until_stopped",
    "until_stopped_or_failed",
]

_log = structlog.get_logger()


class _BuffersPayload(payload.Payload):
    """A body of several buffers, of known total length, sent without joining them."""

    def __init__(self, buffers: Buffers) -> None:
        super().__init__(buffers, content_type="application/msgpack")
        self._buffers = buffers
        self._size = sum(len(buffer) for buffer in buffers)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a binary body has no text form")

    async def write(self, writer: AbstractStreamWriter) -> None:
        for buffer in self._buffers:
            await writer.write(buffer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        assert content_length is None or content_length == self._size
        await self.write(writer)


def msgpack_answer(message: object, status: int = 200) -> web.Response:
    """A message as an HTTP answer."""
    return web.Response(body=encode(message), status=status, content_type="application/msgpack")


def refusal_answer(error: HoldfastError) -> web.Response:
    """A typed error as an HTTP answer."""
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


@web.middleware
async def errors_middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn every failure into a typed refusal; what nobody foresaw is logged with its trace."""
    try:
        return await handler(request)
    except HoldfastError as error:
        return refusal_answer(error)
    except web.HTTPException as error:
        return refusal_answer(_http_error(error, request))
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception:
        _log.exception("unforeseen error", path=request.path)
        return refusal_answer(
            HoldfastError("the server met an error it did not foresee", do="See its log for the trace.")
        )


def _http_error(error: web.HTTPException, request: web.Request) -> HoldfastError:
    made = BadRequest(f"{request.method} {request.path} is not served here", why=error.reason)
    made.http_status = error.status  # type: ignore[misc]  # this one instance keeps HTTP's own status
    return made


async def read_body(request: web.Request, limit_bytes: int) -> bytes:
    """The whole body, refused before it is read when it is longer than the bound."""
    if request.content_length is None and request.body_exists:
        raise BadRequest("a request must say its length")
    length = request.content_length or 0
    if length > limit_bytes:
        raise BadRequest(f"a body of {length} bytes is too long here", why=f"the bound is {limit_bytes}")
    if not length:
        return b""
    try:
        async with asyncio.timeout(_body_within_s(length)):
            return await request.content.readexactly(length)
    except TimeoutError:
        raise BadRequest("the request's body did not arrive in time", do="Send it again.") from None
    except asyncio.IncompleteReadError as error:
        raise BadRequest(f"the request ended after {len(error.partial)} of {length} bytes") from None


class BodyReader:
    """Reads a request's body part by part, each straight to where it is wanted.

    What aiohttp gives as a whole was joined twice. Raises BadRequest when the body ends early, or does not
    arrive in the time that :func:`read_body` gives, counted from the first part.
    """

    def __init__(self, request: web.Request, length: int) -> None:
        self._content = request.content
        self._left = length
        self._length = length
        self._rest = memoryview(b"")
        self._until = asyncio.get_running_loop().time() + _body_within_s(length)

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return self._left

    async def into(self, room: memoryview) -> None:
        """Fill some room, wholly."""
        self._left -= len(room)
        try:
            async with asyncio.timeout_at(self._until):
                while len(room):
                    if not len(self._rest):
                        portion, _ = await self._content.readchunk()
                        self._rest = memoryview(portion)
                        if not portion and self._content.at_eof():
                            raise BadRequest(f"the request ended before its {self._length} bytes were there")
                    count = min(len(room), len(self._rest))
                    room[:count] = self._rest[:count]
                    room, self._rest = room[count:], self._rest[count:]
        except TimeoutError:
            raise BadRequest("the request's body did not arrive in time", do="Send it again.") from None

    async def header(self) -> bytearray:
        """The header of a framed body: what :func:`split_frame` gives of one that is here already."""
        lead = bytearray(4)
        if self._left < len(lead):
            raise BadRequest("the body is too short to be framed")
        await self.into(memoryview(lead))
        length = int.from_bytes(lead, "big")
        if length > SHARD_BATCH_HEADER_BYTES_MAX or length > self._left:
            raise BadRequest("the body's header length is out of bounds")
        header = bytearray(length)
        await self.into(memoryview(header))
        return header


def _body_within_s(length: int) -> float:
    return BODY_GRACE_S + length / BODY_BYTES_PER_S_MIN


async def send_buffers(request: web.Request, buffers: Buffers) -> web.StreamResponse:
    """Answer with several buffers, unjoined; returns when the peer's kernel has them.

    Whoever holds memory for the answer holds it until then, so a peer that does not read is
    cut off after the time that a body may take.
    """
    size = sum(len(buffer) for buffer in buffers)
    response = web.Response(body=_BuffersPayload(buffers))
    try:
        async with asyncio.timeout(_body_within_s(size)):
            await response.prepare(request)
            await response.write_eof()
    except (TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()
    return response


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """HOST:PORT to listen on; port 0 lets the kernel choose."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Read ``HOST:PORT``.

        Raises:
            BadRequest: not of this form, or beyond loopback (there is no TLS yet).
        """
        host, mark, port = text.strip().rpartition(":")
        host = host.strip("[]")
        if not mark or not host or not port.isdecimal() or int(port) > 65535:
            raise BadRequest(f"{text!r} is not an address to listen on", do="Write it like 127.0.0.1:7700.")
        if not is_loopback(host):
            raise BadRequest(
                f"{host} is beyond loopback, and this version has no TLS",
                why="plain HTTP is only served to this machine",
                do="Listen on 127.0.0.1 (or ::1).",
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Server:
    """One listening aiohttp application.

    Raises (from :meth:`start`):
        HoldfastError: the address is in use or cannot be listened on.
    """

    def __init__(self, app: web.Application, address: ListenAddress) -> None:
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=5.0,
            keepalive_timeout=75.0,
            auto_decompress=False,
            read_bufsize=1024 * 1024,
        )
        self._address = address

    async def start(self) -> ListenAddress:
        """Listen; gives the address with the port the kernel chose."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._address.host, self._address.port, backlog=512)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise HoldfastError(
                f"cannot listen on {self._address}",
                why=error.strerror or str(error),
                do="Another process has that port; stop it or choose another with --listen.",
            ) from error
        bound = self._runner.addresses[0]
        return ListenAddress(str(bound[0]), int(bound[1]))

    async def stop(self) -> None:
        """Stop listening, let requests under way end (5 s), close."""
        await self._runner.cleanup()


async def until_stopped() -> None:
    """Return on SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


async def until_stopped_or_failed(tending: Sequence[asyncio.Task[None]]) -> None:
    """Until a signal comes, or a background task ends: by a fault of the program, and the process with it.

    A server that answers, but has quietly ceased to repair, scrub or report, would be worse than none.

    Raises:
        Whatever a background task ended with.
    """
    stopped = asyncio.create_task(until_stopped())
    try:
        done, _ = await asyncio.wait([stopped, *tending], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        stopped.cancel()
