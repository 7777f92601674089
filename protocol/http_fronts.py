"""All connections of one server: how many there may be, who goes for one more, and how they end together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from holdfast.protocol.handling import Routes
from holdfast.protocol.http_crowd import Crowd
from holdfast.protocol.http_front import Front
from holdfast.protocol.limits import CONNECTIONS_MAX, CROWDED_SAID_S, OTHERS_PART, STALLED_LOOKS_MAX

__all__ = ["Fronts"]

_log = structlog.get_logger()


class Fronts:
    """Makes a protocol for each connection of one server.

    Args:
        others: makes aiohttp's side of a connection that is handed over.
        connections_max: how many there may be, those handed over included.
    """

    def __init__(
        self, routes: Routes, others: Callable[[], asyncio.Protocol], connections_max: int = CONNECTIONS_MAX
    ) -> None:
        self.routes = routes
        self.open: Crowd[Front] = Crowd(connections_max)
        self.stopping = False
        self._others = others
        self._most = connections_max
        self._others_most = max(1, connections_max // OTHERS_PART)
        self._handed_over: set[asyncio.Transport] = set()
        self._said_s = -CROWDED_SAID_S

    def __call__(self) -> Front:
        """A new connection's protocol."""
        return Front(self)

    def makes_room(self) -> bool:
        """Is there room for one more, perhaps because one that is not needed goes?"""
        if self._has_room():
            return True
        self._forget_closed()
        if self._has_room():
            return True
        self._say_crowded()
        for _ in range(STALLED_LOOKS_MAX):
            gone = self.open.least_needed(asyncio.get_running_loop().time())
            if gone is None:
                return False
            if not gone.has_taken():
                self.open.left(gone)
                gone.abort()
                return True
        return False

    def hand_over(self, transport: asyncio.Transport) -> asyncio.Protocol | None:
        """aiohttp's side of a connection; None where it has too many."""
        if len(self._handed_over) >= self._others_most:
            self._forget_closed()
        if len(self._handed_over) >= self._others_most:
            self._say_crowded()
            return None
        self._handed_over.add(transport)
        return self._others()

    def _has_room(self) -> bool:
        return len(self.open) + len(self._handed_over) < self._most

    def _forget_closed(self) -> None:
        """aiohttp's connections that end; one that ends slowly, because nobody reads its answer, ends now."""
        closing = {each for each in self._handed_over if each.is_closing()}
        self._handed_over -= closing
        for each in closing:
            each.abort()

    def _say_crowded(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._said_s >= CROWDED_SAID_S:
            self._said_s = now
            _log.warning("more connections than this server takes: some are closed", most=self._most)

    async def stop(self, within_s: float) -> None:
        """Close what rests, let requests under way end, give up what is left after that time."""
        self.stopping = True
        tasks = [task for front in list(self.open) if (task := front.end()) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)
        for task in tasks:
            task.cancel()
        for front in list(self.open):
            front.abort()
        if tasks:  # what they use may be closed now
            await asyncio.wait(tasks, timeout=within_s)
