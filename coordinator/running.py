"""One coordinator process from start to clean stop."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from holdfast.coordinator.background import TASKS, BackgroundTask
from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.coordinator.catalogue.uploads import hear_again
from holdfast.coordinator.health import HealthSettings
from holdfast.coordinator.identity import IDENTITY_FILES, hand_over_operator_key, load_or_make
from holdfast.coordinator.limits import AUDITS_PER_HOUR_DEFAULT, COMPARE_EVERY_S_DEFAULT
from holdfast.coordinator.live import Live
from holdfast.coordinator.repair_pacing import RepairSettings
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.service.routes import make_routes
from holdfast.coordinator.telling import end_telling
from holdfast.protocol.address import Address, parse_url
from holdfast.protocol.clock import Source
from holdfast.protocol.directory import (
    Lock,
    make_private,
    read_json,
    refuse_strangers,
    remove_file,
    write_json,
)
from holdfast.protocol.errors import HoldfastError, WrongDirectory
from holdfast.protocol.http_crowd import take_descriptors
from holdfast.protocol.limits import DELETION_HOLD_S_DEFAULT
from holdfast.protocol.profiles import Profile
from holdfast.protocol.serving import ListenAddress, Server, heed_signals, until_stopped_or_failed
from holdfast.protocol.signing import prefer_libsodium
from holdfast.protocol.transport import Transport

__all__ = ["CoordinatorSettings", "run_coordinator"]

_VERSION = 1
_PUT_BACK = "Put a copy of the whole folder back; a new cluster begins in an empty one."
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """What the command line gives a coordinator."""

    folder: Path
    listen: ListenAddress | None
    profile: Profile | None
    health: HealthSettings
    program: str
    advertise: str | None = None
    trash_hold_s: float = DELETION_HOLD_S_DEFAULT
    compare_every_s: float = COMPARE_EVERY_S_DEFAULT
    audits_per_hour: int = AUDITS_PER_HOUR_DEFAULT
    repair: RepairSettings = field(default_factory=RepairSettings)
    rebalances: bool = True


async def run_coordinator(settings: CoordinatorSettings, source: Source) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        HoldfastError: it cannot start; the error says what to do.
    """
    prefer_libsodium()
    folder = settings.folder
    make_private(folder)
    with Lock(folder, "a coordinator"):
        if not (folder / "charter.bin").exists() and not (folder / "coordinator.json").exists():
            refuse_strangers(folder, IDENTITY_FILES, "a coordinator's")
        remove_file(folder / "ready.json")
        kept = read_json(folder / "coordinator.json", _VERSION)
        if kept is not None:
            _refuse_incomplete(folder)
        identity, fresh = load_or_make(folder, source)
        if kept is not None and kept.get("cluster") != identity.cluster.hex():
            raise WrongDirectory(f"the files in {folder} are of different clusters", do=_PUT_BACK)
        catalogue = Catalogue(sqlite_url(folder / "catalogue.sqlite"))
        try:
            live = Live(source, settings.health, settings.profile, source.monotonic())
            await live.refresh(catalogue)
            await catalogue.write(lambda c: hear_again(c, live.steady_ms()))
            async with Transport(source=source) as transport:
                desk = Desk(
                    identity,
                    catalogue,
                    live,
                    source,
                    settings.program,
                    transport,
                    settings.trash_hold_s,
                    audits_per_hour=settings.audits_per_hour,
                    repair=settings.repair,
                    rebalances=settings.rebalances,
                )
                desk.reconciling.every_s = settings.compare_every_s
                await _serve(settings, desk, _listen_at(settings, kept), fresh or kept is None)
        finally:
            catalogue.close()


def _refuse_incomplete(folder: Path) -> None:
    """Where a coordinator served before, nothing that it cannot do without is quietly made anew."""
    for name in ("charter.bin", "coordinator.key", "catalogue.sqlite"):
        if not (folder / name).exists():
            raise WrongDirectory(
                f"{folder / name} is missing",
                why="a coordinator served from this folder before",
                do=_PUT_BACK,
            )


def _listen_at(settings: CoordinatorSettings, kept: dict[str, object] | None) -> ListenAddress:
    if settings.listen is not None:
        return settings.listen
    return ListenAddress.parse(str(kept.get("listen"))) if kept else ListenAddress("127.0.0.1", 0)


async def _serve(settings: CoordinatorSettings, desk: Desk, listen: ListenAddress, first: bool) -> None:
    folder, identity = settings.folder, desk.identity
    advertised = parse_url(settings.advertise) if settings.advertise else None
    server = Server(make_routes(desk), listen, desk.source, connections_max=take_descriptors())
    bound = await server.start()
    desk.live.begin()  # it may have waited for its port
    address = Address(advertised or f"http://{bound}", identity.cluster)
    desk.reigning.url = address.url
    tending = [asyncio.create_task(_forever(task, desk)) for task in TASKS]
    try:
        write_json(
            folder / "coordinator.json",
            {
                "version": _VERSION,
                "cluster": identity.cluster.hex(),
                "term": identity.term,
                "listen": str(bound),
            },
        )
        hand_over_operator_key(folder, address)
        if first and (folder / "cluster-kit.pem").exists():
            _log.warning(
                "a new cluster: move the cluster kit off this machine and keep it offline",
                kit=str(folder / "cluster-kit.pem"),
                operator_key=str(folder / "operator.key"),
            )
        stop = heed_signals()
        write_json(
            folder / "ready.json",
            {"version": 1, "url": address.url, "address": str(address), "pid": os.getpid()},
        )
        _log.info("serving", address=str(address), term=identity.term)
        await until_stopped_or_failed(stop, tending)
    finally:
        for task in tending:
            task.cancel()
        await asyncio.gather(*tending, return_exceptions=True)
        remove_file(folder / "ready.json")
        await server.stop()
        await end_telling(desk)
        await desk.witnessing.end()
        await desk.counting.end()
        _log.info("stopped")


async def _forever(task: BackgroundTask, desk: Desk) -> None:
    """Run one background task again and again; a turn that failed is said, and the next one follows."""
    while True:
        pause_s = task.pause_s
        try:
            if task.also_superseded or not desk.reigning.superseded:
                told = await task.turn(desk)
                pause_s = pause_s if told is None else told
        except HoldfastError as error:
            _log.warning(f"{task.name} failed", why=str(error))
        await task.pause(desk, pause_s)
