"""Breaking things, and mending them again: one function for each kind of fault.

Each begins a fault on its targets and gives an :class:`Active`: what ends it, and the proof that
it had an effect. Everything here blocks, and runs in threads; it touches only what the run made.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from holdfast.cluster.chaos import faults as kinds
from holdfast.cluster.chaos.active import Active, down_while, member_of, start
from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.coordinator_faults import amnesia, comeback, old_catalogue
from holdfast.cluster.chaos.disks import (
    copy_catalogue,
    copy_store,
    cut_off,
    flip_pages,
    flip_values,
    put_back,
    swap_values,
    wipe,
)
from holdfast.cluster.chaos.faults import AnyFault
from holdfast.cluster.chaos.namespaces import PacketFilter, rules
from holdfast.cluster.chaos.small_disks import Ballast
from holdfast.cluster.chaos.syscalls import SyscallFault
from holdfast.cluster.chaos.toxics import Effect, Rule
from holdfast.cluster.chaos.unsynced import lose_unsynced
from holdfast.cluster.chaos.wiring import COORDINATOR
from holdfast.protocol.directory import write_file
from holdfast.protocol.limits import MIB

__all__ = ["Active", "begin", "copy_for", "keeps_away", "works_on_disks"]

T = TypeVar("T")


def _all(ends: Iterable[Callable[[], None]]) -> Callable[[], None]:
    """One end for several."""
    kept = list(ends)

    def end() -> None:
        for one in kept:
            one()

    return end


def keeps_away(fault: AnyFault) -> bool:
    """Are the targets out of reach while it lasts?"""
    if isinstance(fault, kinds.Timeout | kinds.Down | kinds.ResetPeer | kinds.LimitData | kinds.Garble):
        return True
    return isinstance(fault, kinds.Kill | kinds.Pause | kinds.Restart | kinds.PowerCut | kinds.Partition)


def works_on_disks(fault: AnyFault) -> bool:
    """Do the targets lose shards by it?"""
    return isinstance(
        fault,
        kinds.BitRot | kinds.Truncate | kinds.SwapValues | kinds.OldCopy | kinds.DiskSwap | kinds.DiskErrors,
    )


def begin(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    """Begin a fault on these members."""
    return _BEGIN[type(fault)](arena, fault, targets, random)


def _servers(targets: Sequence[str]) -> list[str]:
    return [name for name in targets if not name.startswith("client-")]


# Processes. Clients are ended by the engine: their processes belong to its event loop.


def _kill(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    names = _servers(targets)
    arena.explained.update(names)
    members = [member_of(arena, name) for name in names]
    with arena.changing:
        had = [member.pid() is not None for member in members]
        for member in members:
            member.signal(signal.SIGKILL)
        for member in members:
            member.kill()
    return Active(_all(partial(start, arena, name) for name in names), lambda: any(had) or not names)


def _power_cut(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    """All are killed, and none has what it had not synced."""
    killed = _kill(arena, fault, targets, random)
    lost = 0
    with arena.changing, arena.sampler.resting():
        for name in _servers(targets):
            member = member_of(arena, name)
            if member.pid() is None:
                lost += lose_unsynced(member.folder, arena.cluster.journals(name), random)
    killed.detail = f"{lost} bytes had not reached the disks"
    return killed


def _restart(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    names = _servers(targets)
    arena.explained.update(names)
    for name in names:
        with arena.changing:
            member_of(arena, name).stop()
    return Active(_all(partial(start, arena, name) for name in names))


def _pause(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    members = [member_of(arena, name) for name in _servers(targets)]
    for member in members:
        member.pause()
    paused = [member.state() == "paused" for member in members]
    return Active(_all(member.resume for member in members), lambda: any(paused) or not members)


# The network


def _rule(
    arena: Arena, targets: Sequence[str], peers: Sequence[str], effect: Effect, way: kinds.Direction
) -> Active:
    """The effect on everything between targets and the others; ``way`` as seen from the targets."""
    network = arena.cluster.network
    senders, receivers = frozenset(peers) - frozenset(targets), frozenset(targets)
    number = network.add(lambda n: Rule(n, senders, receivers, effect, way))
    return Active(lambda: network.remove(number), lambda: network.hits.get(number, 0) > 0)


def _toxic(effect_of: Callable[[Any], Effect]) -> Callable[[Arena, AnyFault, Sequence[str], Random], Active]:
    def made(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
        assert isinstance(fault, kinds.NetworkFault)
        peers = arena.targets(fault.peers, random, free_only=False)
        return _rule(arena, targets, peers, effect_of(fault), fault.toward)

    return made


def _partition(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    assert isinstance(fault, kinds.Partition)
    peers = arena.targets(fault.peers, random, free_only=False)
    if fault.by == "namespace":
        return _lost_packets(arena, targets, peers, one_way=fault.one_way)
    # One way: what the targets say does not reach the others.
    return _rule(arena, targets, peers, Effect(stalled=True), "from" if fault.one_way else "both")


def _lost_packets(arena: Arena, targets: Sequence[str], peers: Sequence[str], *, one_way: bool) -> Active:
    some = [arena.cluster.wire_of(name) for name in targets]
    others = [arena.cluster.wire_of(name) for name in peers if name not in targets]
    dropping = rules(some, others) + ([] if one_way else rules(others, some))
    lost = PacketFilter(arena.faults, dropping)
    dropped: list[int] = []
    return Active(lambda: dropped.append(lost.end()), lambda: sum(dropped) > 0, "by lost packets")


# Disks


def _store(arena: Arena, name: str) -> Path:
    return member_of(arena, name).folder / "store"


def _bit_rot(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    assert isinstance(fault, kinds.BitRot)
    flipped = 0
    for name in targets:
        number, store = arena.number_of(name), _store(arena, name)
        arena.hurt.add(number)
        if fault.what == "values":
            flipped += flip_values(store, arena.sampler.live_keys(number), fault.count, random)
        else:
            arena.broken_stores.add(number)
            flipped += down_while(arena, name, partial(flip_pages, store, fault.count, random))
    return Active(fired=lambda: flipped > 0, detail=f"{flipped} bits")


def _swap(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    assert isinstance(fault, kinds.SwapValues)
    swapped = 0
    for name in targets:
        number = arena.number_of(name)
        arena.hurt.add(number)
        swapped += swap_values(_store(arena, name), arena.sampler.live_keys(number), fault.count, random)
    return Active(fired=lambda: swapped > 0, detail=f"{swapped} pairs")


def _truncate(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    assert isinstance(fault, kinds.Truncate)
    gone = 0
    for name in targets:
        arena.hurt.add(arena.number_of(name))
        arena.broken_stores.add(arena.number_of(name))
        gone += down_while(arena, name, partial(cut_off, _store(arena, name), fault.keep_percent))
    return Active(fired=lambda: gone > 0, detail=f"{gone} bytes")


def _disk_swap(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    for name in targets:
        arena.hurt.add(arena.number_of(name))
        down_while(arena, name, partial(wipe, _store(arena, name)))
    return Active()


def copy_for(arena: Arena, name: str) -> None:
    """Keep a copy of a member's store or catalogue as it is now, for an old-copy fault later."""
    member = member_of(arena, name)
    member.pause()
    try:
        if name == COORDINATOR:
            copy_catalogue(member.folder, arena.scratch / f"{name}.copy")
        else:
            copy_store(member.folder / "store", arena.scratch / f"{name}.copy")
    finally:
        member.resume()


def _old_copy(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    for name in targets:
        copy = arena.scratch / f"{name}.copy"
        if name == COORDINATOR:
            return old_catalogue(arena, copy)
        arena.hurt.add(arena.number_of(name))
        down_while(arena, name, partial(put_back, copy, _store(arena, name)))
    return Active()


def _disk_errors(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    assert isinstance(fault, kinds.DiskErrors)
    tampered: list[int] = []
    tracers = []
    for name in targets:
        if fault.error:
            arena.hurt.add(arena.number_of(name))
        tracers.append(
            SyscallFault(
                member_of(arena, name).pids(),
                call=fault.call,
                error=fault.error,
                times=fault.times,
                delay_ms=fault.delay_ms,
                log=arena.scratch / f"{name}.{arena.faults}.strace",
            )
        )
    return Active(
        lambda: tampered.extend(tracer.end() for tracer in tracers),
        lambda: sum(tampered) > 0,
        detail=f"{fault.call} {fault.error or f'{fault.delay_ms:g} ms late'}",
    )


def _full_disk(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    assert isinstance(fault, kinds.FullDisk)
    leave_bytes = int(fault.leave_mib * MIB)
    ballasts = [Ballast(member_of(arena, name).folder, leave_bytes) for name in targets]
    taken = [ballast.taken_bytes for ballast in ballasts]
    return Active(
        _all(ballast.end for ballast in ballasts), lambda: min(taken) > 0, f"{fault.leave_mib:g} MiB left"
    )


# Lies


def _clock(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    assert isinstance(fault, kinds.Clock)
    for name in targets:
        arena.cluster.set_clock(name, int(fault.offset_s * 1000), fault.drift_ppm)
    return Active(
        _all(partial(arena.cluster.right_clock, name) for name in targets),
        detail=f"{fault.offset_s:+g} s, {fault.drift_ppm:g} ppm",
    )


def _lie(arena: Arena, fault: AnyFault, targets: Sequence[str], random: Random) -> Active:
    assert isinstance(fault, kinds.Lie)
    before = {name: arena.cluster.lies_told(name) for name in targets}
    for name in targets:
        write_file(arena.cluster.lies_file(name), f"{fault.how} {fault.share_percent}\n".encode())

    def honest_again() -> None:
        for name in targets:
            arena.cluster.lies_file(name).unlink(missing_ok=True)

    return Active(honest_again, lambda: any(arena.cluster.lies_told(name) > before[name] for name in targets))


_BEGIN: dict[type, Callable[[Arena, AnyFault, Sequence[str], Random], Active]] = {
    kinds.Kill: _kill,
    kinds.Pause: _pause,
    kinds.Restart: _restart,
    kinds.PowerCut: _power_cut,
    kinds.Latency: _toxic(
        lambda f: Effect(latency_s=f.latency_ms / 1000, jitter_s=f.latency_jitter_ms / 1000)
    ),
    kinds.Bandwidth: _toxic(lambda f: Effect(bytes_per_s=f.kib_per_s * 1024)),
    kinds.SlowClose: _toxic(lambda f: Effect(close_delay_s=f.delay_ms / 1000)),
    kinds.Timeout: _toxic(
        lambda f: Effect(stalled=True, close_after_s=f.timeout_ms / 1000 if f.timeout_ms else None)
    ),
    kinds.ResetPeer: _toxic(
        lambda f: Effect(
            reset_after_s=f.timeout_ms / 1000 if f.bytes is None else None, reset_after_bytes=f.bytes
        )
    ),
    kinds.Slicer: _toxic(
        lambda f: Effect(
            portion_bytes=f.average_bytes,
            portion_variation=f.variation_bytes,
            portion_pause_s=f.delay_us / 1e6,
        )
    ),
    kinds.LimitData: _toxic(lambda f: Effect(limit_bytes=f.bytes)),
    kinds.Garble: _toxic(lambda f: Effect(flip_every_bytes=f.bytes)),
    kinds.Down: _toxic(lambda f: Effect(refused=True)),
    kinds.Partition: _partition,
    kinds.BitRot: _bit_rot,
    kinds.Truncate: _truncate,
    kinds.SwapValues: _swap,
    kinds.OldCopy: _old_copy,
    kinds.DiskSwap: _disk_swap,
    kinds.DiskErrors: _disk_errors,
    kinds.FullDisk: _full_disk,
    kinds.Clock: _clock,
    kinds.Lie: _lie,
    kinds.Amnesia: amnesia,
    kinds.Comeback: comeback,
}
