"""How forgetting, pruning and undeleting look to people, and as JSON lines. 80 columns are enough."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from holdfast.client.forgetting import ForgetReport, Forgotten
from holdfast.client.show import shown, snapshot_fields
from holdfast.client.snapshots import Snapshot
from holdfast.client.sweeping import PruneReport
from holdfast.protocol.terminal import Output, human_bytes, human_count

__all__ = ["forget_fields", "prune_fields", "show_forget", "show_forgotten", "show_prune", "show_undelete"]


def _line(snapshot: Snapshot, verb: str, why: str = "") -> str:
    when = snapshot.time.astimezone().strftime("%Y-%m-%d %H:%M")
    tags = f" [{', '.join(snapshot.tags)}]" if snapshot.tags else ""
    return f"  {verb:<7} {snapshot.id.short:<10}{when:<18}{why}{tags}".rstrip()


def show_forget(output: Output, report: ForgetReport) -> None:
    """By group: what stays and why, and what goes."""
    for decision in report.decisions:
        paths = shown(os.fsencode(" ".join(decision.paths)))
        output.say(" ".join(filter(None, [decision.device_name, paths])) or "all snapshots")
        for one in decision.keep:
            output.say(_line(one.snapshot, "keep", ", ".join(one.reasons)))
            output.status(event="keep", reasons=list(one.reasons), **snapshot_fields(one.snapshot))
        for snapshot in decision.remove:
            output.say(_line(snapshot, "forget"))
    if not report.decisions:
        for snapshot in report.removed:
            output.say(_line(snapshot, "forget", f"{snapshot.device_name} {' '.join(snapshot.paths)}"))
    for snapshot in report.removed:
        output.status(event="forget", **snapshot_fields(snapshot))
    verb = "Would forget" if report.dry_run else "Forgot"
    output.say(f"{verb} {human_count(len(report.removed), 'snapshot')}; {report.kept:,} stay.")


def forget_fields(report: ForgetReport) -> dict[str, Any]:
    """For the summary."""
    return {
        "forgotten": [snapshot.id.hex() for snapshot in report.removed],
        "kept": report.kept,
        "dry_run": report.dry_run,
    }


def _hold(seconds: int) -> str:
    if seconds % 86400 == 0 and seconds:
        return human_count(seconds // 86400, "day")
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds} s"


def show_prune(output: Output, report: PruneReport) -> None:
    """What went to the trash, and what becomes of it."""
    what = f"{human_count(report.chunks, 'chunk')}, {human_bytes(report.bytes)}"
    verb = "needs" if report.snapshots == 1 else "need"
    needed = f"{human_count(report.snapshots, 'snapshot')} {verb} {human_count(report.live, 'chunk')}"
    if report.dry_run:
        output.say(f"Would move {what} to the trash; {needed}.")
        return
    output.say(f"Moved {what} to the trash; {needed}.")
    if report.waiting_for:
        backups = "a backup is" if report.waiting_for == 1 else f"{report.waiting_for:,} backups are"
        output.note(f"As {backups} under way, what they may need is looked at again when they end.")
    elif not report.finished:
        output.note("More follows; the coordinator goes on by itself.")
    if report.chunks:
        output.say(f"The trash is kept for {_hold(report.hold_s)}; until then 'holdfast undelete' works.")


def prune_fields(report: PruneReport) -> dict[str, Any]:
    """For the summary."""
    return {
        "snapshots": report.snapshots,
        "live_chunks": report.live,
        "trashed_chunks": report.chunks,
        "trashed_bytes": report.bytes,
        "finished": report.finished,
        "waiting_for_backups": report.waiting_for,
        "hold_s": report.hold_s,
        "dry_run": report.dry_run,
    }


def show_forgotten(output: Output, found: Sequence[Forgotten]) -> None:
    """A line each, the latest forgotten first."""
    if not found:
        output.say("No snapshot was forgotten.")
    for one in found:
        when = one.forgotten.astimezone().strftime("%Y-%m-%d %H:%M")
        verb = "" if one.restorable else "gone"
        output.say(_line(one.snapshot, verb, f"{one.snapshot.device_name}, forgotten {when}"))
        output.status(
            **snapshot_fields(one.snapshot),
            forgotten=one.forgotten.isoformat(),
            restorable=one.restorable,
        )
    output.summary(snapshots=len(found), restorable=sum(one.restorable for one in found))


def show_undelete(output: Output, snapshot: Snapshot) -> None:
    """It is back."""
    when = snapshot.time.astimezone().strftime("%Y-%m-%d %H:%M")
    output.say(f"Snapshot {snapshot.id.short} of {when} from {snapshot.device_name} is back.")
    output.summary(**snapshot_fields(snapshot))
