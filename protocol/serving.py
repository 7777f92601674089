"""Listening, for the coordinator's and the nodes' HTTP servers.

Plain HTTP is served on loopback only, and nothing listens anywhere else before TLS exists.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
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
from holdfast.protocol.ports import PORTS_VARIABLE, ports_of_environment, ports_to_try

__all__ = ["ListenAddress", "Server", "heed_signals", "until_stopped_or_failed"]

_log = structlog.get_logger()


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
        others = list(ports_to_try(self._source, given=ports_of_environment()))
        await self._runner.setup()
        try:
            self._listening = await self._listen(others)
        except OSError as error:
            await self._runner.cleanup()
            raise HoldfastError(
                f"cannot listen on {self._address}", why=error.strerror or str(error), do=self._advice(error)
            ) from error
        bound = self._listening.sockets[0].getsockname()
        return ListenAddress(str(bound[0]), int(bound[1]))

    def _advice(self, error: OSError) -> str:
        given = ports_of_environment()
        if given and not self._address.port:
            return f"Set {PORTS_VARIABLE} to ports that are free (it is {given}), or unset it."
        if error.errno == errno.EADDRINUSE:
            return (
                "Another process has that port, or had it less than a minute ago; stop it or choose another "
                "with --listen."
            )
        return "Choose another address with --listen."

    async def _listen(self, others: Sequence[int]) -> asyncio.Server:
        """At the port given, or at one of the others where it may be any."""
        given, refused = self._address.port, OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        if given:
            try:
                return await self._bind(given)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                refused = error
        for port in others if self._or_any or not given else ():
            try:
                return await self._bind(port)
            except OSError as error:
                # One that was drawn may also be one that nobody may have here.
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                refused = refused if given else error
        return await self._bind_in_time(given, refused)

    async def _bind_in_time(self, port: int, refused: OSError) -> asyncio.Server:
        """Whoever has the port may be about to end: the process before this one, or who took it meanwhile."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + PORT_AWAITED_S
        if port:
            _log.warning("somebody else has this port: waiting for it", address=str(self._address))
        while port and loop.time() < until_s:
            await asyncio.sleep(PORT_LOOK_S)
            try:
                return await self._bind(port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise refused

    async def _bind(self, port: int) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(self._fronts, self._address.host, port, backlog=512)

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
