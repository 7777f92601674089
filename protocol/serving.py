"""Listening, for the coordinator's and the nodes' HTTP servers.

Plain HTTP is served on loopback only, and nothing listens anywhere else before TLS exists.
"""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from aiohttp import web

from holdfast.protocol.address import is_loopback
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.handling import Routes
from holdfast.protocol.http_fronts import Fronts
from holdfast.protocol.http_others import make_app
from holdfast.protocol.limits import (
    CONNECTIONS_MAX,
    FRONT_IDLE_S,
    PORT_AWAITED_S,
    PORT_LOOK_S,
    SERVER_STOPS_WITHIN_S,
)
from holdfast.protocol.ports import ports_of_environment, ports_to_try

__all__ = ["ListenAddress", "Server", "heed_signals", "until_stopped_or_failed"]


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """HOST:PORT to listen on; port 0: any that is free, and stays so while the server is away."""

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
    """One listening server: each connection begins with the front, and may be handed over to aiohttp.

    Args:
        or_any: where somebody else has that port, take any other.
        connections_max: how many to take at once.

    Raises (from :meth:`start`):
        HoldfastError: the address is in use or cannot be listened on.
    """

    def __init__(
        self,
        routes: Routes,
        address: ListenAddress,
        source: Source = SYSTEM,
        *,
        or_any: bool = False,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._runner = web.AppRunner(
            make_app(routes),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SERVER_STOPS_WITHIN_S,
            keepalive_timeout=FRONT_IDLE_S,
            auto_decompress=False,
            read_bufsize=1024 * 1024,
        )
        self._fronts = Fronts(routes, self._other, connections_max)
        self._address = address
        self._source = source
        self._or_any = or_any
        self._listening: asyncio.Server | None = None

    def _other(self) -> asyncio.Protocol:
        """aiohttp's side of a connection."""
        assert self._runner.server is not None
        return self._runner.server()

    async def start(self) -> ListenAddress:
        """Listen; gives the address with the port that was free."""
        await self._runner.setup()
        try:
            self._listening = await self._listen()
        except OSError as error:
            await self._runner.cleanup()
            raise HoldfastError(
                f"cannot listen on {self._address}",
                why=error.strerror or str(error),
                do="Another process has that port, or had it less than a minute ago;"
                " stop it or choose another with --listen.",
            ) from error
        bound = self._listening.sockets[0].getsockname()
        return ListenAddress(str(bound[0]), int(bound[1]))

    async def _listen(self) -> asyncio.Server:
        """At the port given, waiting for it a little while; or at one that is free.

        Whoever had it may be about to end: the process before this one, or somebody who took it meanwhile.
        """
        loop, host, given = asyncio.get_running_loop(), self._address.host, self._address.port
        others = ports_to_try(self._source, given=ports_of_environment())
        ports = chain([given] if given else [], others if self._or_any or not given else [])
        port, until_s = next(ports), loop.time() + PORT_AWAITED_S
        while True:
            try:
                return await loop.create_server(self._fronts, host, port, backlog=512)
            except OSError as error:
                # A drawn one may also be one that nobody may have here.
                passed_over = (errno.EADDRINUSE,) if port == given else (errno.EADDRINUSE, errno.EACCES)
                if error.errno not in passed_over:
                    raise
                following = next(ports, None)
                if following is not None:
                    port = following
                elif port == given and loop.time() < until_s:
                    await asyncio.sleep(PORT_LOOK_S)
                else:
                    raise

    async def stop(self) -> None:
        """Stop listening, let requests under way end (5 s), close."""
        if self._listening is not None:
            self._listening.close()
        await asyncio.gather(self._fronts.stop(SERVER_STOPS_WITHIN_S), self._runner.cleanup())


def heed_signals() -> asyncio.Event:
    """Set by SIGTERM or SIGINT from now on. To be called before anybody is told that the server is ready."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def until_stopped_or_failed(stop: asyncio.Event, tending: Sequence[asyncio.Task[None]]) -> None:
    """Until it is to stop, or a background task ends: by a fault of the program, and the process with it.

    A server that answers, but has quietly ceased to repair, scrub or report, would be worse than none.

    Raises:
        Whatever a background task ended with.
    """
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([stopped, *tending], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        stopped.cancel()
