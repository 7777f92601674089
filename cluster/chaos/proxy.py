"""TCP proxies in front of every member: all that members and clients say to each other goes through here.

One proxy per member that is called. Who calls is known by the caller's address: each member calls
from a loopback address of its own (HOLDFAST_CALL_FROM). What happens to the bytes is decided anew
for every portion, by the rules that hold right then, so that faults reach connections that are
open already. Held-back bytes are kept and go on when a stall ends: TCP loses nothing either.

The proxies also listen for *canaries*: strings that must never be seen on a wire.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from holdfast.cluster.chaos.toxics import Effect, Rule, combined
from holdfast.protocol.errors import HoldfastError

__all__ = ["Network"]

T = TypeVar("T")
_PORTION = 128 * 1024
_LOOK_S = 0.02


class Network:
    """All proxies of one cluster, on an event loop in a thread of its own.

    Args:
        who: address of a caller -> member name.
        seed: for jitter and portions.
    """

    def __init__(self, who: Callable[[str], str], seed: int) -> None:
        self._who = who
        self._random = random.Random(seed)
        self._rules: tuple[Rule, ...] = ()
        self._numbers = 0
        self._servers: list[asyncio.Server] = []
        self._open: set[_Connection] = set()
        self.canaries: tuple[bytes, ...] = ()
        self.seen_canaries: list[str] = []
        self.bytes_carried = 0
        self.hits: dict[int, int] = {}
        """Rule number -> how many portions or connections it had an effect on."""
        self._turn = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the loop; the turn is held, so that nobody waits for a loop that was ended."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    def listen(self, member: str, upstream: Callable[[], tuple[str, int] | None]) -> int:
        """A proxy for a member; gives its port.

        Args:
            upstream: where the member listens itself; None while that is not known.

        Raises:
            HoldfastError: the network was closed meanwhile.
        """

        async def start() -> int:
            async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await self._serve(member, upstream, reader, writer)

            server = await asyncio.start_server(accepted, "127.0.0.1", 0, limit=_PORTION, backlog=256)
            self._servers.append(server)
            return int(server.sockets[0].getsockname()[1])

        with self._turn:
            if self._closed:
                raise HoldfastError("the cluster was closed while it was starting")
            return self._call(start())

    def close(self) -> None:
        """Cut everything and stop listening. Again is fine: an interrupted start is ended from two sides."""

        async def end() -> None:
            for server in self._servers:
                server.close()
            for connection in list(self._open):
                connection.cut(hard=True)
            running = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        with self._turn:
            if self._closed:
                return
            self._closed = True
            self._call(end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # Rules

    def add(self, make: Callable[[int], Rule]) -> int:
        """Add a rule; gives its number."""
        self._numbers += 1
        number = self._numbers
        self._rules = (*self._rules, make(number))
        self._loop.call_soon_threadsafe(self._cut_refused)
        return number

    def remove(self, number: int) -> None:
        """Take a rule back; fine when it is gone."""
        self._rules = tuple(rule for rule in self._rules if rule.number != number)

    def remove_all(self) -> None:
        """Everything comes through again."""
        self._rules = ()

    def effect(self, sender: str, receiver: str) -> Effect:
        """What happens now to bytes from one to the other; counted as a hit of every rule that holds."""
        rules = self._rules
        if not rules:
            return combined((), sender, receiver)
        for rule in rules:
            if rule.holds(sender, receiver):
                self.hits[rule.number] = self.hits.get(rule.number, 0) + 1
        return combined(rules, sender, receiver)

    def _cut_refused(self) -> None:
        for connection in list(self._open):
            if self._refuses(connection.caller, connection.member):
                connection.cut(hard=True)

    def _refuses(self, caller: str, member: str) -> bool:
        return self.effect(caller, member).refused or self.effect(member, caller).refused

    # Connections

    async def _serve(
        self,
        member: str,
        upstream: Callable[[], tuple[str, int] | None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        peer = writer.get_extra_info("peername")
        connection = _Connection(self, self._who(peer[0] if peer else ""), member, writer)
        self._open.add(connection)
        try:
            if self._refuses(connection.caller, member):
                connection.cut(hard=True)
                return
            # As if the first packets were lost: nobody is called while nothing comes through.
            await connection.until_clear(connection.caller, member)
            address = upstream()
            if address is None:
                connection.cut(hard=True)
                return
            far_reader, far_writer = await asyncio.open_connection(*address, limit=_PORTION)
            connection.far = far_writer
            await connection.carry(reader, far_reader, far_writer)
        except (OSError, _Cut):
            pass
        finally:
            connection.cut(hard=False)
            self._open.discard(connection)

    def jitter(self, effect: Effect) -> float:
        """Seconds of delay, drawn."""
        return max(0.0, effect.latency_s + self._random.uniform(-effect.jitter_s, effect.jitter_s))

    def portion(self, effect: Effect) -> int:
        """Bytes of the next small portion, drawn."""
        assert effect.portion_bytes is not None
        spread = effect.portion_variation
        return max(1, effect.portion_bytes + self._random.randint(-spread, spread))

    def flipped(self, portion: bytes, every: int) -> bytes:
        """The bytes with a bit flipped here and there, drawn."""
        changed = bytearray(portion)
        at = int(self._random.expovariate(1 / every))
        while at < len(changed):
            changed[at] ^= 1 << self._random.randrange(8)
            at += 1 + int(self._random.expovariate(1 / every))
        return bytes(changed)

    def listen_for_canaries(self, tail: bytes, portion: bytes, caller: str, member: str) -> bytes:
        """Look for canaries, also across portions; gives the new tail."""
        self.bytes_carried += len(portion)
        if not self.canaries:
            return b""
        joined = tail + portion
        for canary in self.canaries:
            if canary in joined:
                self.seen_canaries.append(f"between {caller} and {member}")
        return joined[-max(map(len, self.canaries)) :]


class _Cut(Exception):
    """The connection is over."""


class _Connection:
    """One caller's connection to a member, and the proxy's own onwards."""

    def __init__(self, network: Network, caller: str, member: str, near: asyncio.StreamWriter) -> None:
        self._network = network
        self.caller = caller
        self.member = member
        self._near = near
        self.far: asyncio.StreamWriter | None = None
        self._began = asyncio.get_running_loop().time()
        self._is_cut = False

    def cut(self, *, hard: bool) -> None:
        """Close both ends; hard: with a reset."""
        if self._is_cut:
            return
        self._is_cut = True
        for writer in (self._near, self.far):
            if writer is None:
                continue
            with suppress(OSError, RuntimeError):
                if hard:
                    made = writer.get_extra_info("socket")
                    # Linger of 0 s: close sends RST (socket(7), SO_LINGER).
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                else:
                    writer.close()

    async def until_clear(self, sender: str, receiver: str) -> Effect:
        """Wait while nothing comes through from one to the other; gives what happens then.

        Raises:
            _Cut: the connection is to be closed instead.
        """
        stalled_since: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            effect = self._network.effect(sender, receiver)
            if self._is_cut:
                raise _Cut
            if effect.refused:
                self.cut(hard=True)
                raise _Cut
            if not effect.stalled:
                return effect
            stalled_since = stalled_since or loop.time()
            if effect.close_after_s is not None and loop.time() - stalled_since >= effect.close_after_s:
                raise _Cut
            await asyncio.sleep(_LOOK_S)

    async def carry(
        self, near: asyncio.StreamReader, far: asyncio.StreamReader, far_writer: asyncio.StreamWriter
    ) -> None:
        """Carry both directions until both have ended, or the connection is cut."""
        tasks = [
            asyncio.create_task(self._take_and_give(near, far_writer, self.caller, self.member)),
            asyncio.create_task(self._take_and_give(far, self._near, self.member, self.caller)),
        ]
        watch = asyncio.create_task(self._watch())
        both = asyncio.gather(*tasks)
        either: list[asyncio.Future[Any]] = [both, watch]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, watch):
                task.cancel()
            await asyncio.gather(both, *tasks, watch, return_exceptions=True)

    async def _watch(self) -> None:
        """Reset the connection when its time has come, also while no byte moves."""
        loop = asyncio.get_running_loop()
        reset_since: float | None = None
        while not self._is_cut:
            effects = [
                self._network.effect(self.caller, self.member),
                self._network.effect(self.member, self.caller),
            ]
            times = [effect.reset_after_s for effect in effects if effect.reset_after_s is not None]
            if any(effect.reset_after_bytes is not None for effect in effects):
                times = []  # pump counts
            if times:
                reset_since = reset_since or loop.time()
                if loop.time() - reset_since >= min(times):
                    self.cut(hard=True)
                    raise _Cut
            else:
                reset_since = None
            await asyncio.sleep(_LOOK_S * 2)
        raise _Cut

    async def _take_and_give(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sender: str, receiver: str
    ) -> None:
        """One direction until its end."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        taking = asyncio.create_task(self._take(reader, queue, sender, receiver))
        try:
            await self._give(writer, queue, sender, receiver)
        finally:
            taking.cancel()

    async def _take(
        self,
        reader: asyncio.StreamReader,
        queue: asyncio.Queue[tuple[float, bytes]],
        sender: str,
        receiver: str,
    ) -> None:
        loop = asyncio.get_running_loop()
        tail, due = b"", 0.0
        while True:
            try:
                portion = await reader.read(_PORTION)
            except OSError:
                # Its other end is gone; what it sent before still goes on.
                self.cut(hard=True)
                portion = b""
            tail = self._network.listen_for_canaries(tail, portion, self.caller, self.member)
            effect = self._network.effect(sender, receiver)
            # Bytes never overtake each other, whatever jitter draws.
            due = max(due, loop.time() + self._network.jitter(effect))
            if not portion:
                await queue.put((due + effect.close_delay_s, b""))
                return
            await queue.put((due, portion))

    async def _give(
        self,
        writer: asyncio.StreamWriter,
        queue: asyncio.Queue[tuple[float, bytes]],
        sender: str,
        receiver: str,
    ) -> None:
        loop = asyncio.get_running_loop()
        limited = 0
        while True:
            due, portion = await queue.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            if not portion:
                await self.until_clear(sender, receiver)
                # Half closed: the answer may still come the other way.
                if writer.can_write_eof():
                    writer.write_eof()
                return
            while portion:
                effect = await self.until_clear(sender, receiver)
                count, limit = self._allowed(effect, len(portion), limited)
                now, portion = portion[:count], portion[count:]
                if effect.flip_every_bytes is not None:
                    now = self._network.flipped(now, effect.flip_every_bytes)
                writer.write(now)
                await writer.drain()
                # Counted since a limit holds: a connection may be much older than the fault.
                limited = limited + count if limit is not None else 0
                if limit is not None and limited >= limit:
                    self.cut(
                        hard=effect.reset_after_bytes is not None and limited >= effect.reset_after_bytes
                    )
                    raise _Cut
                if effect.bytes_per_s is not None:
                    await asyncio.sleep(count / effect.bytes_per_s)
                if effect.portion_bytes is not None and effect.portion_pause_s:
                    await asyncio.sleep(effect.portion_pause_s)

    def _allowed(self, effect: Effect, waiting: int, limited: int) -> tuple[int, int | None]:
        """How many bytes go on now, and after how many in all the connection ends."""
        count = waiting if effect.portion_bytes is None else min(waiting, self._network.portion(effect))
        limits = [bound for bound in (effect.limit_bytes, effect.reset_after_bytes) if bound is not None]
        if limits:
            count = min(count, max(0, min(limits) - limited))
        if effect.bytes_per_s is not None:
            count = min(count, max(1, int(effect.bytes_per_s / 20)))
        return count, min(limits, default=None)
