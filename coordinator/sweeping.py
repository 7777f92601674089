"""What the coordinator does for sweeping: the clock that the trash is held by, and the turns that work on it.

The hold is counted on the coordinator's running time: how long it has served, all its starts
together. No jump of a wall clock reaches it, and time in which nobody could have noticed a
mistake (the cluster was off) does not count. It is noted every few seconds; a crash loses
those, which only makes the hold longer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from holdfast.coordinator.catalogue import sweeps, trash
from holdfast.coordinator.catalogue.erasures import is_unreconciled
from holdfast.coordinator.limits import (
    ERASED_HOLD_S_MAX,
    RUNNING_SAVE_S,
    TRASH_EMPTIED_AT_ONCE,
    TRASH_ROWS_AT_ONCE,
    TRASH_TURN_S,
)
from holdfast.protocol.errors import SweepRefused
from holdfast.protocol.failpoints import reached

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = ["Sweeping", "keep_trash", "require_quorum", "running_now_ms", "sweep_account"]

_log = structlog.get_logger()


@dataclass(slots=True)
class Sweeping:
    """What is known of sweeping without asking the catalogue.

    Attributes:
        hold_s: for how long swept chunks are kept.
        looked: the floor of the last look at everything, by (account, sweep).
    """

    hold_s: float
    base_ms: int | None = None
    base_at_s: float = 0.0
    saved_at_s: float = 0.0
    looked: dict[tuple[int, int], int] = field(default_factory=dict)


async def running_now_ms(desk: Desk) -> int:
    """For how long this cluster's coordinator has run, in ms; see the module."""
    state = desk.sweeping
    if state.base_ms is None:
        base_ms = await desk.catalogue.read(trash.running_ms)
        if state.base_ms is None:
            state.base_ms, state.base_at_s = base_ms, desk.source.monotonic()
            state.saved_at_s = state.base_at_s
    return state.base_ms + int(1000 * (desk.source.monotonic() - state.base_at_s))


async def require_quorum(desk: Desk, account: int | None) -> None:
    """Raises SweepRefused while stripes (of an account, or of all) cannot be read: something is wrong."""
    from holdfast.coordinator.service.stripes import account_verdict

    await desk.live.settle()
    verdict = await account_verdict(desk, account)
    if verdict.word == "unavailable":
        raise SweepRefused(
            "nothing is swept now",
            why=verdict.sentence,
            do="Bring the nodes back ('holdfast status' shows them), then prune again.",
            reason="unavailable",
        )


async def sweep_account(desk: Desk, account: int, within_s: float) -> bool:
    """Move what an account's sealed sweep leaves to the trash; False: the time was too short.

    What running uploads hold stays, and is looked at again when they have ended.
    """
    until = desk.source.monotonic() + within_s
    after, first = b"", None
    while True:
        now_ms = await running_now_ms(desk)
        done = await desk.catalogue.write(
            lambda c: trash.move_to_trash(c, account, after, TRASH_ROWS_AT_ONCE, now_ms)  # noqa: B023
        )
        reached("coordinator.trash.moved")
        if done is None:
            return True
        if first is None or first.number != done.number:
            if first is not None:
                after = b""  # another sweep was sealed meanwhile: from the beginning
                first = None
                continue
            first = done
        if done.last is None:
            number, floor = first.number, first.floor
            if floor >= first.generation:
                await desk.catalogue.write(lambda c: trash.finish(c, account, number))  # noqa: B023
                desk.sweeping.looked.pop((account, number), None)
            else:
                desk.sweeping.looked[(account, number)] = floor
            return True
        after = done.last
        if desk.source.monotonic() > until:
            return False


async def keep_trash(desk: Desk) -> float | None:
    """One turn: note the running time, sweep on, empty what was kept long enough, drop old marks."""
    now_ms = await running_now_ms(desk)
    now_s = desk.source.monotonic()
    if now_s - desk.sweeping.saved_at_s >= RUNNING_SAVE_S:
        await desk.catalogue.write(lambda c: trash.save_running_ms(c, now_ms))
        desk.sweeping.saved_at_s = now_s
    waiting, is_old = await desk.catalogue.read(lambda c: (trash.waiting(c), is_unreconciled(c)))
    if is_old:
        return None
    more = False
    for sweep in waiting:
        if sweep.floor > desk.sweeping.looked.get((sweep.account, sweep.number), -1):
            more |= not await sweep_account(desk, sweep.account, TRASH_TURN_S)
    more |= await _empty(desk, now_ms)
    if not waiting:
        desk.sweeping.looked.clear()
    more |= await desk.catalogue.write(sweeps.drop_old_marks)
    return 0.01 if more else None


async def _empty(desk: Desk, now_ms: int) -> bool:
    """Have what was in the trash long enough erased; True: there is more."""
    hold_s = desk.sweeping.hold_s
    before_ms = now_ms - int(1000 * hold_s)
    if not await desk.catalogue.read(lambda c: trash.is_due(c, before_ms)):
        return False
    try:
        await require_quorum(desk, None)
    except SweepRefused as error:
        _log.info("the trash is kept longer", why=error.why)
        return False
    node_hold_s = int(min(hold_s, ERASED_HOLD_S_MAX))
    until = desk.source.monotonic() + TRASH_TURN_S
    gone = TRASH_EMPTIED_AT_ONCE
    while gone == TRASH_EMPTIED_AT_ONCE and desk.source.monotonic() <= until:
        # The command looks by itself whether the catalogue is good: it may have turned out to be old by now.
        gone = await desk.catalogue.write(
            lambda c: (
                0
                if is_unreconciled(c)
                else trash.empty_trash(c, before_ms, TRASH_EMPTIED_AT_ONCE, node_hold_s)
            )
        )
        reached("coordinator.trash.emptied")
        if gone:
            _log.info("swept chunks are erased", chunks=gone)
    return gone == TRASH_EMPTIED_AT_ONCE
