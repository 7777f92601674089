"""One node process from start to clean stop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.node.admission import Admission
from holdfast.node.compacting import Compactor
from holdfast.node.limits import ERASE_TURN_ENTRIES_MAX, RUNNING_CLOCK_SAVE_S
from holdfast.node.membership import Identity, Membership, load_identity, load_key
from holdfast.node.opening import StoreOpener
from holdfast.node.rebuilding import Rebuilder
from holdfast.node.reigning import Reigning, known_reign
from holdfast.node.scrubbing import Scrubber
from holdfast.node.service.audits import AuditHandlers
from holdfast.node.service.compacts import CompactHandlers
from holdfast.node.service.door import Door
from holdfast.node.service.inventories import InventoryHandlers
from holdfast.node.service.rebuilds import RebuildHandlers
from holdfast.node.service.routes import Handlers, make_routes
from holdfast.node.service.scrubs import ScrubHandlers
from holdfast.node.service.shards import ShardHandlers
from holdfast.node.service.witness import WitnessHandlers
from holdfast.node.settings import NodeSettings, checked
from holdfast.node.store_lmdb_heads import HeadStore
from holdfast.node.witnessing import Witnessing
from holdfast.node.writer import Writer
from holdfast.protocol import signing
from holdfast.protocol.address import Address, Token, parse_url
from holdfast.protocol.clock import Source
from holdfast.protocol.directory import (
    Lock,
    make_private,
    refuse_strangers,
    remove_file,
    write_json,
)
from holdfast.protocol.errors import BadRequest, HoldfastError, StoreFailed, WrongDirectory
from holdfast.protocol.failpoints import reached
from holdfast.protocol.http_crowd import take_descriptors
from holdfast.protocol.limits import TROUBLE_BYTES_MAX
from holdfast.protocol.messages.nodes import Heartbeat
from holdfast.protocol.messages.scrub import FindingsNoted
from holdfast.protocol.serving import ListenAddress, Server, heed_signals, until_stopped_or_failed
from holdfast.protocol.transport import Transport

__all__ = ["NodeSettings", "run_node"]

_log = structlog.get_logger()


async def run_node(settings: NodeSettings, source: Source) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        HoldfastError: it cannot start; the error says what to do.
    """
    signing.prefer_libsodium()
    address, token = checked(settings)
    make_private(settings.folder)
    with Lock(settings.folder, "a node"):
        if not (settings.folder / "node.json").exists():
            own = {"node.key", "charter.json", "node.json", "store", "heads"}
            if settings.token_file is not None and settings.token_file.parent == settings.folder:
                own.add(settings.token_file.name)
            refuse_strangers(settings.folder, own, "a node's")
        remove_file(settings.folder / "ready.json")
        key = load_key(settings.folder, source)
        identity = load_identity(settings.folder, key)
        if identity is not None:
            if address.cluster is not None and address.cluster != identity.cluster:
                raise WrongDirectory(
                    f"{settings.folder} belongs to a node of another cluster",
                    do="Give each node a folder of its own.",
                )
            address = Address(address.url, identity.cluster)
        elif token is None:
            raise BadRequest(
                "this node has not joined a cluster yet and has no token",
                do="Make one with 'holdfast admin node add-token --output F' and pass --join-token-file F.",
            )
        async with _writing(settings, source, identity) as writer, Transport(source=source) as transport:
            node = _Node(settings, source, writer, transport, Membership(address, transport, source))
            await node.serve(identity, token, key)


@asynccontextmanager
async def _writing(
    settings: NodeSettings, source: Source, identity: Identity | None
) -> AsyncIterator[Writer]:
    opener = StoreOpener(
        settings.folder,
        source,
        known=identity.store if identity is not None else None,
        capacity_bytes=settings.capacity_bytes,
        replace_damaged=settings.replace_damaged_store,
    )
    try:
        writer = Writer(opener)
    except BaseException:
        opener.close()
        raise
    try:
        if identity is not None and writer.store.id != identity.store and writer.store.stats().shards:
            raise WrongDirectory(
                f"the store in {settings.folder} is not this node's",
                why=f"node.json names store {identity.store.short} and there is {writer.store.id.short}",
                do="Put the right disk back, or start with an empty folder as a new node.",
            )
        yield writer
    finally:
        await writer.close()
        opener.close()


def _open_heads(folder: Path) -> HeadStore | None:
    """The heads kept; None, and a word in the log, when they do not open: shards are served all the same."""
    try:
        return HeadStore(folder / "heads")
    except HoldfastError as error:
        _log.error("this node witnesses no heads", why=str(error))
        return None


@dataclass(frozen=True, slots=True)
class _Duties:
    """What a serving node does; ``heads`` is None where they did not open."""

    reigning: Reigning
    service: ShardHandlers
    scrubber: Scrubber
    compactor: Compactor
    witness: WitnessHandlers
    heads: HeadStore | None
    handlers: tuple[Handlers, ...]


class _Node:
    def __init__(
        self,
        settings: NodeSettings,
        source: Source,
        writer: Writer,
        transport: Transport,
        membership: Membership,
    ) -> None:
        self._transport = transport
        self._settings = settings
        self._source = source
        self._writer = writer
        self._membership = membership
        self._running_from = source.monotonic()
        self._running_before_ms = writer.store.running_ms
        self._stats = writer.store.stats()
        membership.pulse = writer.store.pulse()
        self._start = source.random_bytes(16)
        self._url = ""

    def running_ms(self) -> int:
        """Milliseconds this store has been running, over all starts: immune to clock jumps."""
        return self._running_before_ms + int(1000 * (self._source.monotonic() - self._running_from))

    async def serve(self, known: Identity | None, token: Token | None, key: Ed25519PrivateKey) -> None:
        """Listen, join if need be, report, until told to stop."""
        settings = self._settings
        listen = settings.listen or (
            ListenAddress.parse(known.listen) if known else ListenAddress("127.0.0.1", 0)
        )
        cluster = known.cluster if known else (token.address.cluster if token else None)
        assert cluster is not None
        # The store as it is: a new, empty one under a known identity is filled again by its peers.
        node, store = signing.node_id(signing.public_key(key)), self._writer.store.id
        identity = Identity(node, cluster, store, str(listen), key)
        duties = self._make_duties(identity)
        is_new = known is not None and known.store != store
        if is_new:
            self._writer.held = "its store is new, and the coordinator has not taken note of it"
        # Where it says itself where it listens, and nobody told it where, one port is as good as another.
        may_move = settings.listen is None and settings.advertise is None
        server = Server(
            make_routes(duties.handlers),
            listen,
            self._source,
            or_any=may_move,
            connections_max=take_descriptors(),
        )
        bound = await server.start()
        if may_move and listen.port not in (0, bound.port):
            _log.warning("somebody else has this node's port: it serves at another", was=str(listen))
        self._url = parse_url(settings.advertise) if settings.advertise else f"http://{bound}"

        tasks: list[asyncio.Task[None]] = []
        try:
            if known is None:
                assert token is not None
                await self._join(token, key, duties.reigning)
                reached("node.join.joined")
            identity = Identity(node, cluster, store, str(bound), key)
            if is_new:
                self._remember_when_taken(identity)
            else:
                identity.save(settings.folder)
            tasks.extend(self._begin(identity, duties))
            stop = heed_signals()
            write_json(
                settings.folder / "ready.json",
                {"version": 1, "url": self._url, "node": node.hex(), "pid": settings.pid or os.getpid()},
            )
            _log.info("serving", node=node.short, url=self._url, store=store.short)
            await until_stopped_or_failed(stop, tasks)
        finally:
            await self._stop(identity, duties, server, tasks)

    def _remember_when_taken(self, identity: Identity) -> None:
        """A new store under a known identity is this node's, and takes shards, when the coordinator knows it.

        A shard that came sooner would lie in a store that nobody knows: to the coordinator that looks like
        another node's disk, and it refuses such a node for good.
        """

        def taken(report: Heartbeat) -> None:
            # Of a report that tells of trouble the coordinator takes note, and not of its store.
            if self._writer.held is None or report.trouble or report.store != identity.store:
                return
            try:
                identity.save(self._settings.folder)
            except OSError as error:
                _log.error("the new store cannot be noted; it stays closed", why=error.strerror)
                return
            self._writer.held = None
            _log.info("the coordinator has taken note of the new store", store=identity.store.short)

        self._membership.taken = taken

    def _make_duties(self, identity: Identity) -> _Duties:
        """Everything that answers or works by itself; nothing of it runs yet."""
        settings, source, writer = self._settings, self._source, self._writer
        known = known_reign(settings.folder, identity.cluster)
        charter = known.charter if known is not None else None
        admission = Admission(
            identity.node,
            identity.cluster,
            charter.coordinator if charter is not None else None,
            max(writer.store.term(), charter.term if charter is not None else 0),
        )
        reigning = Reigning(settings.folder, known, admission, self._raise_term)
        reigning.moved = self._membership.follow
        if known is not None:
            self._membership.follow(known)
        door = Door(identity, admission, source)
        self._membership.hear_time = door.hear_time
        service = ShardHandlers(
            door, writer, running_ms=self.running_ms, source=source, program=settings.program
        )
        scrubber = Scrubber(
            writer,
            service.pool,
            source,
            period_s=settings.scrub_days * 86400,
            tell=lambda found: self._membership.tell(identity, "/v1/nodes/findings", found, FindingsNoted),
        )
        service.met_damaged = scrubber.met
        compactor = Compactor(writer, source)
        heads = _open_heads(settings.folder)
        witness = WitnessHandlers(door, Witnessing(identity, heads), reigning, source)
        rebuilder = Rebuilder(identity, writer, self._transport, service.pool)
        handlers: tuple[Handlers, ...] = (
            service,
            RebuildHandlers(door, writer, rebuilder),
            ScrubHandlers(door, writer, scrubber),
            InventoryHandlers(door, writer, service.pool),
            AuditHandlers(door, writer, service.pool, scrubber.met),
            CompactHandlers(door, writer, compactor),
            witness,
        )
        return _Duties(reigning, service, scrubber, compactor, witness, heads, handlers)

    def _begin(self, identity: Identity, duties: _Duties) -> list[asyncio.Task[None]]:
        """What runs beside serving, each in a task of its own."""
        reporting = self._membership.report_forever(
            identity,
            lambda: self._report(duties, duties.service.state),
            duties.reigning.follow,
            lambda: duties.reigning.term,
        )
        return [
            asyncio.create_task(reporting),
            asyncio.create_task(self._keep_house()),
            asyncio.create_task(duties.scrubber.scrub_forever()),
            asyncio.create_task(duties.scrubber.report_forever()),
            asyncio.create_task(duties.compactor.compact_forever()),
        ]

    async def _stop(
        self, identity: Identity, duties: _Duties, server: Server, tasks: list[asyncio.Task[None]]
    ) -> None:
        """The other way round: no more work, no more answers, a last word, and the clocks made durable."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        remove_file(self._settings.folder / "ready.json")
        await server.stop()
        if tasks and self._membership.charter is not None:
            with suppress(HoldfastError):
                await self._membership.beat(identity, self._report(duties, "stopping"))
        duties.service.close()
        duties.compactor.close()
        duties.witness.close()
        if duties.heads is not None:
            duties.heads.close()
        with suppress(HoldfastError):
            await self._writer.run(lambda opened: opened.save_running(self.running_ms()))
            await self._writer.run(lambda opened: opened.raise_pulse(self._membership.pulse))
        _log.info("stopped", node=identity.node.short)

    async def _raise_term(self, term: int) -> None:
        # A store that has failed takes no term either; charter.json has it.
        if self._writer.failed is None and term > self._writer.store.term():
            await self._writer.run(lambda opened: opened.raise_term(term))

    async def _join(self, token: Token, key: Ed25519PrivateKey, reigning: Reigning) -> None:
        async def attempt() -> None:
            await reigning.follow(await self._membership.learn_charter(reigning.term))
            await self._membership.join(
                token,
                key,
                url=self._url,
                zone=self._settings.zone,
                capacity_bytes=self._writer.store.capacity_bytes,
                store=self._writer.store.id,
            )

        await self._membership.patiently(attempt, "joining")

    def _report(self, duties: _Duties, state: str) -> Heartbeat:
        with suppress(StoreFailed):  # a store that did not reopen: what it last held, told as "failed"
            self._stats = self._writer.store.stats()
        stats = self._stats
        capacity = self._writer.store.capacity_bytes
        duties.service.full = stats.used_bytes >= capacity - capacity // 50
        return Heartbeat(
            url=self._url,
            zone=self._settings.zone,
            store=self._writer.store.id,
            store_counter=stats.counter,
            capacity_bytes=capacity,
            used_bytes=stats.used_bytes,
            free_bytes=max(0, capacity - stats.used_bytes),
            shards=stats.shards,
            state=cast(Literal["ok", "full", "failed", "stopping"], state),
            start=self._start,
            quarantined=stats.quarantined,
            scrubbed_ms=duties.scrubber.ended_ms,
            trouble=(self._writer.failed or "").encode()[:TROUBLE_BYTES_MAX].decode(errors="ignore"),
            order=stats.order,
            pulse=self._membership.pulse,
            file_bytes=duties.compactor.room().file_bytes,
            compacting=duties.compactor.per_cent,
        )

    async def _keep_house(self) -> None:
        """Erase what is due; make the running clock and the catalogue's pulse durable."""
        saved = pulse_saved = self.running_ms()
        while True:
            await asyncio.sleep(1.0)
            if self._writer.failed is not None:
                continue
            try:
                if self._writer.store.stats().marked:
                    await self._writer.run(
                        lambda store: store.erase_due(self.running_ms(), ERASE_TURN_ENTRIES_MAX)
                    )
                if (
                    self.running_ms() - saved > RUNNING_CLOCK_SAVE_S * 1000
                    and self._writer.store.stats().marked
                ):
                    saved = self.running_ms()
                    await self._writer.run(lambda store: store.save_running(self.running_ms()))
                if self.running_ms() - pulse_saved > RUNNING_CLOCK_SAVE_S * 1000:
                    pulse_saved = self.running_ms()
                    await self._writer.run(lambda store: store.raise_pulse(self._membership.pulse))
            except HoldfastError as error:
                _log.warning("keeping house failed", why=str(error))
