"""The HTTP transport that clients and nodes call others with.

One :class:`Transport` per process: connection reuse, deadlines, signatures,
typed errors. What a failure means is decided here, once:

- the connection could not be made: :class:`Unreachable`, nothing happened;
- the request went out and no answer came: :class:`OutcomeUnknown`, unless the
  call only reads (``reads=True``), then :class:`Unreachable`;
- what came cannot be read, or says only that something broke (5xx): of a call that changes
  something :class:`OutcomeUnknown` as well, for it may have happened before. Of one that only
  reads: :class:`Unreachable` where somebody else answered (a proxy whose server is away), else
  what is wrong with the answer. (:meth:`Transport.send` leaves a 2xx answer's body to its caller.)
- the other side answered with a refusal: that very error;
- StaleRequest: signed again once with the receiver's time (clocks may differ).

Bodies are lists of buffers that are written as they are, never joined.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

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
from holdfast.protocol.http_connection import (
    Answer,
    BadAnswer,
    ConnectFailed,
    Connection,
    Lost,
    Silent,
    connect,
    request_head,
)
from holdfast.protocol.ids import Digest
from holdfast.protocol.limits import (
    CONNECTION_KEPT_S,
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
        self._hosts: dict[str, _Host] = {}
        self._offset_ms: dict[bytes, int] = {}
        self.bytes_sent = 0
        self.bytes_received = 0

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; calls under way end as lost."""
        for host in self._hosts.values():
            host.close()

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
        try:
            return decode(raw, answer)
        except BadRequest as error:
            raise _unreadable(url, target, error.why or error.what, reads) from error

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
    ) -> memoryview:
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
    ) -> memoryview:
        size = sum(len(buffer) for buffer in buffers)
        host = self._hosts.get(url)
        if host is None:
            host = self._hosts[url] = _Host(url, self._limit)
        head = request_head(method, target, host.name, headers, size if buffers or method != "GET" else None)
        try:
            async with asyncio.timeout(timeout_s), host.connection() as connection:
                answer = await connection.ask(
                    head,
                    buffers,
                    body_bytes_max=_ANSWER_BYTES_MAX,
                    idle_s=min(READ_IDLE_TIMEOUT_S, timeout_s),
                )
        except ConnectFailed as error:
            raise Unreachable(f"{url} does not answer", why=str(error)) from error
        except TimeoutError as error:
            raise _no_answer(url, target, f"nothing came within {timeout_s:.0f} s", reads) from error
        except Silent as error:
            raise _no_answer(url, target, "it stopped answering", reads) from error
        except Lost as error:
            raise _no_answer(url, target, str(error), reads) from error
        except BadAnswer as error:
            raise _unreadable(url, target, str(error), reads) from error
        self.bytes_sent += size
        self.bytes_received += len(answer.body)
        if answer.status < 300:
            return answer.body
        refusal = _refusal(answer)
        if refusal is None:
            why = f"it says HTTP status {answer.status} and nothing else"
            if answer.status >= 500:
                raise _no_answer(url, target, why, reads)
            raise HoldfastError(f"{url} does not answer as this cluster's servers do", why=why)
        if answer.status >= 500 and refusal.code == HoldfastError.code and not reads:
            raise _no_answer(url, target, refusal.what, reads) from refusal
        raise refusal


class _Host:
    """The connections to one server: those at rest are used again, the latest first."""

    def __init__(self, url: str, limit: int) -> None:
        split = urlsplit(url)
        try:
            host, port = split.hostname, split.port or 80
        except ValueError:
            host, port = None, 0
        if split.scheme != "http" or not host:
            raise BadRequest(f"{url} cannot be called", why="an address here is http://HOST:PORT")
        self.name = split.netloc
        self._address = host, port
        self._turns = asyncio.Semaphore(limit)
        self._resting: list[Connection] = []
        self._all: set[Connection] = set()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One that is open, for one request; waits while as many as may be are in use."""
        async with self._turns:
            connection = self._rested() or await self._made()
            try:
                yield connection
            finally:
                if connection.is_open:
                    self._resting.append(connection)
                else:
                    self._all.discard(connection)

    def _rested(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._resting:
            connection = self._resting.pop()
            # Before the server closes it for having been silent, in the moment a request is on its way.
            if connection.is_open and now - connection.idle_since < CONNECTION_KEPT_S:
                return connection
            connection.close()
            self._all.discard(connection)
        return None

    async def _made(self) -> Connection:
        connection = await connect(*self._address, _call_from())
        self._all.add(connection)
        return connection

    def close(self) -> None:
        for connection in self._all:
            connection.close()
        self._all.clear()
        self._resting.clear()


def _no_answer(url: str, target: str, why: str, reads: bool) -> HoldfastError:
    if reads:
        return Unreachable(f"{url} gave no answer", why=why)
    return OutcomeUnknown(
        f"the answer of {url} to {target.split('?')[0]} was lost",
        why=why,
        do="Run the command again: repeating is safe.",
    )


def _unreadable(url: str, target: str, why: str, reads: bool) -> HoldfastError:
    if reads:
        return BadRequest(f"{url} does not answer as this cluster's servers do", why=why)
    return _no_answer(url, target, f"it came, and cannot be read: {why}", reads)


def _refusal(answer: Answer) -> HoldfastError | None:
    """What was told; None: nothing that one of ours would tell."""
    try:
        told = decode(answer.body, Refusal)
    except BadRequest:
        return None
    return error_from_wire(told.error, told.what, told.why, told.do, dict(told.details))
