"""The HTTP transport that clients and nodes call others with.

One :class:`Transport` per process: connection reuse, deadlines, signatures,
typed errors. What a failure means is decided here, once:

- the connection could not be made: :class:`Unreachable`, nothing happened;
- the request went out and no answer came: :class:`OutcomeUnknown`, unless the
  call only reads (``reads=True``), then :class:`Unreachable`;
- the other side answered with a refusal: that very error;
- StaleRequest: signed again once with the receiver's time (clocks may differ).

Bodies are lists of buffers that are written as they are, never joined.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import aiohttp
from aiohttp import payload
from aiohttp.abc import AbstractStreamWriter
from blake3 import blake3

from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import (
    BadRequest,
    HoldfastError,
    OutcomeUnknown,
    StaleRequest,
    Unreachable,
    error_from_wire,
)
from holdfast.protocol.ids import Digest
from holdfast.protocol.limits import (
    CONNECT_TIMEOUT_S,
    MESSAGE_BYTES_MAX,
    NONCE_BYTES,
    READ_IDLE_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    SHARD_BATCH_BODY_BYTES_MAX,
    SHARD_BATCH_HEADER_BYTES_MAX,
)
from holdfast.protocol.messages.cluster import Refusal
from holdfast.protocol.requests import AUTH_HEADER, TICKET_HEADER, Signer

__all__ = [
    "CALL_FROM_VARIABLE",
    "Buffers",
    "BuffersPayload",
    "Transport",
    "body_digest",
    "frame",
    "split_frame",
]

T = TypeVar("T")
CALL_FROM_VARIABLE = "HOLDFAST_CALL_FROM"
"""The local address that calls are made from; by default the system chooses."""
Buffers = Sequence[bytes | memoryview]

_ANSWER_BYTES_MAX = max(MESSAGE_BYTES_MAX, SHARD_BATCH_BODY_BYTES_MAX + SHARD_BATCH_HEADER_BYTES_MAX + 4)


class BuffersPayload(payload.Payload):
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


def frame(header: bytes, shards: Buffers = ()) -> list[bytes | memoryview]:
    """``u32 BE length || header || shards``: the body of shard requests and answers."""
    return [len(header).to_bytes(4, "big") + header, *shards]


def split_frame(body: bytes | memoryview) -> tuple[memoryview, memoryview]:
    """Header and the rest of a framed body; raises BadRequest when it is too short or long."""
    view = memoryview(body)
    if len(view) < 4:
        raise BadRequest("the body is too short to be framed")
    length = int.from_bytes(view[:4], "big")
    if length > SHARD_BATCH_HEADER_BYTES_MAX or 4 + length > len(view):
        raise BadRequest("the body's header length is out of bounds")
    return view[4 : 4 + length], view[4 + length :]


def body_digest(header: bytes | memoryview, ticket: bytes | None = None) -> Digest:
    """What a request's signature covers of its body.

    Towards the coordinator: BLAKE3(body). Towards a node: BLAKE3(header || BLAKE3(ticket)),
    where the header lists every shard digest, so that proof and ticket cannot be relayed.
    """
    hasher = blake3(header)
    if ticket is not None:
        hasher.update(blake3(ticket).digest())
    return Digest(hasher.digest())


def _call_from() -> tuple[str, int] | None:
    address = os.environ.get(CALL_FROM_VARIABLE)
    return (address, 0) if address else None


class Transport:
    """Makes calls. Use as an async context manager, or :meth:`close` it.

    Args:
        source: time (for signatures) and nonces.
        connections_per_host: bound of parallel connections to one server.
        timeout_s: for a whole call, unless the call says otherwise.
    """

    def __init__(
        self,
        *,
        source: Source = SYSTEM,
        connections_per_host: int = 16,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self._source = source
        self._limit = connections_per_host
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._offset_ms: dict[bytes, int] = {}
        self.bytes_sent = 0
        self.bytes_received = 0

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=0, limit_per_host=self._limit, keepalive_timeout=30, local_addr=_call_from()
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                read_bufsize=1024 * 1024,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session

    async def call(
        self,
        method: str,
        url: str,
        target: str,
        message: Any = None,
        *,
        answer: type[T],
        signer: Signer | None = None,
        receiver: bytes = b"",
        reads: bool = False,
        timeout_s: float | None = None,
    ) -> T:
        """One msgpack message there, one back.

        Raises:
            HoldfastError: the refusal the other side sent, or what the module's rules say.
        """
        body = encode(message) if message is not None else b""
        raw = await self.send(
            method,
            url,
            target,
            [body] if body else [],
            signer=signer,
            receiver=receiver,
            digest=body_digest(body),
            reads=reads,
            timeout_s=timeout_s,
        )
        return decode(raw, answer)

    async def send(
        self,
        method: str,
        url: str,
        target: str,
        buffers: Buffers,
        *,
        signer: Signer | None,
        receiver: bytes,
        digest: Digest,
        ticket: bytes | None = None,
        reads: bool = False,
        timeout_s: float | None = None,
    ) -> bytes:
        """Raw buffers there, the raw body of a 2xx answer back (see :meth:`call` for errors)."""
        for attempt in (1, 2):
            headers = {}
            if ticket is not None:
                headers[TICKET_HEADER] = base64.urlsafe_b64encode(ticket).decode()
            if signer is not None:
                auth = signer.sign(
                    receiver,
                    method,
                    target,
                    digest,
                    time_ms=self._source.now_ms() + self._offset_ms.get(receiver, 0),
                    nonce=self._source.random_bytes(NONCE_BYTES),
                )
                headers[AUTH_HEADER] = auth.header()
            try:
                return await self._exchange(
                    method, url, target, buffers, headers, reads, timeout_s or self._timeout_s
                )
            except StaleRequest as stale:
                server_ms = stale.details.get("server_time_ms")
                if attempt == 2 or signer is None or not isinstance(server_ms, int):
                    raise
                self._offset_ms[receiver] = server_ms - self._source.now_ms()
        raise AssertionError("the loop returns or raises")

    async def _exchange(
        self,
        method: str,
        url: str,
        target: str,
        buffers: Buffers,
        headers: dict[str, str],
        reads: bool,
        timeout_s: float,
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(
            total=timeout_s, sock_connect=CONNECT_TIMEOUT_S, sock_read=min(READ_IDLE_TIMEOUT_S, timeout_s)
        )
        body = BuffersPayload(buffers) if buffers else None
        try:
            async with self._open().request(
                method, url + target, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                if response.content_length is None or response.content_length > _ANSWER_BYTES_MAX:
                    raise BadRequest(f"the answer of {url} has no length, or is too long")
                raw = await response.read()
                self.bytes_sent += sum(len(buffer) for buffer in buffers)
                self.bytes_received += len(raw)
                if response.status >= 300:
                    raise _refusal(raw, response.status, url)
                return raw
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
            if isinstance(error, aiohttp.SocketTimeoutError):
                raise _no_answer(url, target, "it stopped answering", reads) from error
            raise Unreachable(f"{url} does not answer", why=_reason(error)) from error
        except TimeoutError as error:
            raise _no_answer(url, target, f"nothing came within {timeout_s:.0f} s", reads) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _no_answer(url, target, _reason(error), reads) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        # aiohttp's own sentence speaks of "ssl:default" even where nothing is encrypted.
        told = error.os_error
        return os.strerror(told.errno) if told.errno and told.errno > 0 else told.strerror or str(told)
    return str(error) or type(error).__name__


def _no_answer(url: str, target: str, why: str, reads: bool) -> HoldfastError:
    if reads:
        return Unreachable(f"{url} gave no answer", why=why)
    return OutcomeUnknown(
        f"the answer of {url} to {target.split('?')[0]} was lost",
        why=why,
        do="Run the command again: repeating is safe.",
    )


def _refusal(raw: bytes, status: int, url: str) -> HoldfastError:
    try:
        told = decode(raw, Refusal)
    except BadRequest:
        return HoldfastError(f"{url} answered with HTTP status {status} and no explanation")
    return error_from_wire(told.error, told.what, told.why, told.do, dict(told.details))
