"""What the coordinator does by itself, beside answering: one table of tasks, each a turn at a time.

A turn is short, leaves everything it did durable, and may die anywhere: the next
one looks at the catalogue anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from holdfast.coordinator.auditing import keep_auditing
from holdfast.coordinator.catalogue.uploads import expire_uploads
from holdfast.coordinator.erasing import send_orders
from holdfast.coordinator.keeping_membership import keep_membership
from holdfast.coordinator.keeping_witnesses import keep_witnesses
from holdfast.coordinator.limits import (
    AUDIT_PAUSE_S,
    COMPARE_PAUSE_S,
    ERASE_EVERY_S,
    MEMBERSHIP_EVERY_S,
    PULSE_EVERY_S,
    REENCODE_PAUSE_S,
    REPAIR_PAUSE_S,
    SWEEP_UPLOADS_EVERY_S,
    TELL_EVERY_S,
    TRASH_EVERY_S,
    WITNESSES_EVERY_S,
)
from holdfast.coordinator.reconciling import keep_pulse, keep_reconciled
from holdfast.coordinator.reencoding import reencode
from holdfast.coordinator.repairing import keep_whole
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.sweeping import keep_trash
from holdfast.coordinator.telling import keep_told

__all__ = ["TASKS", "BackgroundTask"]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """``turn`` does one portion of work, and may say after how many seconds it wants the next one."""

    name: str
    pause_s: float
    turn: Callable[[Desk], Awaitable[float | None]]
    also_superseded: bool = False
    """Does it go on when another coordinator reigns?"""
    is_due: Callable[[Desk], asyncio.Event] | None = None
    """What ends a pause before its time."""

    async def pause(self, desk: Desk, seconds: float) -> None:
        """Wait for so long, or until it is due."""
        if self.is_due is None:
            await asyncio.sleep(seconds)
            return
        due = self.is_due(desk)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await due.wait()
        due.clear()


async def _end_abandoned_uploads(desk: Desk) -> None:
    now_ms = desk.live.steady_ms()
    ended = await desk.catalogue.write(lambda c: expire_uploads(c, now_ms))
    if ended:
        _log.info("abandoned uploads ended", count=ended)


TASKS: tuple[BackgroundTask, ...] = (
    BackgroundTask("ending abandoned uploads", SWEEP_UPLOADS_EVERY_S, _end_abandoned_uploads),
    BackgroundTask("keeping membership", MEMBERSHIP_EVERY_S, keep_membership),
    BackgroundTask("keeping the trash", TRASH_EVERY_S, keep_trash),
    BackgroundTask("sending deletion orders", ERASE_EVERY_S, send_orders),
    BackgroundTask("keeping the pulse", PULSE_EVERY_S, keep_pulse),
    BackgroundTask("comparing inventories", COMPARE_PAUSE_S, keep_reconciled),
    BackgroundTask("auditing", AUDIT_PAUSE_S, keep_auditing),
    BackgroundTask(
        "keeping stripes whole", REPAIR_PAUSE_S, keep_whole, is_due=lambda desk: desk.repairs.is_due
    ),
    BackgroundTask("encoding fallback stripes anew", REENCODE_PAUSE_S, reencode),
    BackgroundTask("telling who reigns", TELL_EVERY_S, keep_told, also_superseded=True),
    BackgroundTask("keeping witnesses", WITNESSES_EVERY_S, keep_witnesses),
)
