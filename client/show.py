"""How the client's results look to people, and as JSON lines. 80 columns are enough."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from holdfast.protocol.errors import (
    Degraded,
    HoldfastError,
    IntegrityFailure,
    NotFound,
    Partial,
    TooFewShards,
)
from holdfast.protocol.terminal import Output, human_bytes, human_count, printable

if TYPE_CHECKING:
    from holdfast.client.check import CheckReport
    from holdfast.client.entries import Entry
    from holdfast.client.restore import RestoreReport
    from holdfast.client.snapshots import Snapshot
    from holdfast.protocol.messages.accounts import AccountStatus

__all__ = [
    "deciding",
    "entry_line",
    "show_backup",
    "show_check",
    "show_restore",
    "show_snapshots",
    "show_status",
    "snapshot_fields",
]

_NAMED_MAX = 20
_REPORT = "Run it again; if it stays, tell the operator: nodes hold wrong bytes, and none were handed on."


def shown(path: bytes) -> str:
    """A path for the terminal: bytes that are no text are escaped, control characters too."""
    return printable(path.decode("utf-8", "backslashreplace")).replace("\n", "\\n").replace("\t", "\\t")


def deciding(
    failed: list[tuple[bytes, HoldfastError]], unreadable: list[tuple[bytes, bytes, HoldfastError]], what: str
) -> HoldfastError | None:
    """The error that decides the exit code, where several apply: 23, then 20, then 3.

    It counts the files hit and names every node that would help.
    """
    errors = [*(error for _, error in failed), *(error for _, _, error in unreadable)]
    if not errors:
        return None
    told = [human_count(len(failed), "file")] if failed else []
    if unreadable:
        told.append(human_count(len(unreadable), "unknown range of paths", "unknown ranges of paths"))
    sentence = f"{' and '.join(told)} {what}; everything else is fine"
    for error in errors:
        if isinstance(error, IntegrityFailure):
            return IntegrityFailure(sentence, why=error.why or error.what, do=_REPORT, files=len(failed))
    # A chunk that the cluster does not know of is as far away as one whose nodes are gone.
    away = [error for error in errors if isinstance(error, TooFewShards | NotFound)]
    if not away:
        return Partial(sentence, why=errors[0].what, do="The names are listed above.", files=len(failed))
    named = {name: _union(away, name) for name in ("nodes", "urls")}
    why = f"these nodes do not answer: {', '.join(named['urls'])}" if named["urls"] else away[0].why
    do = away[0].do if isinstance(away[0], TooFewShards) else TooFewShards.default_do
    return TooFewShards(sentence, why=why or away[0].what, do=do, files=len(failed), **named)


def _union(errors: Sequence[HoldfastError], detail: str) -> list[str]:
    found: set[str] = set()
    for error in errors:
        values = error.details.get(detail)
        found.update(map(str, values) if isinstance(values, list) else ())
    return sorted(found)


def snapshot_fields(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot in JSON."""
    return {
        "id": snapshot.id.hex(),
        "time": snapshot.time.isoformat(),
        "device": snapshot.device.hex(),
        "device_name": snapshot.device_name,
        "paths": list(snapshot.paths),
        "tags": list(snapshot.tags),
        "files": snapshot.files,
        "entries": snapshot.entries,
        "bytes": snapshot.bytes,
        "new_bytes": snapshot.new_bytes,
        "skipped": snapshot.skipped_count,
    }


def show_backup(
    output: Output, snapshot: Snapshot, seconds: float, *, dry_run: bool, wire_bytes: int
) -> None:
    """What a backup did; raises Partial when files were skipped, or attributes left out."""
    for event, told in (("skipped", snapshot.skipped), ("reduced", snapshot.reduced)):
        for one in told[:_NAMED_MAX]:
            output.note(f"{event} {shown(one.path)}: {shown(os.fsencode(one.why))}")
        if len(told) > _NAMED_MAX:
            output.note(f"... and {len(told) - _NAMED_MAX:,} more {event} (all of them with --json)")
        for one in told:
            output.status(event=event, path=os.fsdecode(one.path), why=one.why)
    for path in snapshot.changed[:_NAMED_MAX]:
        output.note(f"changed while it was read: {shown(path)}")
    if len(snapshot.changed) > _NAMED_MAX:
        output.note(f"... and {len(snapshot.changed) - _NAMED_MAX:,} more changed (all of them with --json)")
    rate = f", {human_bytes(snapshot.bytes / seconds)}/s" if seconds > 0 else ""
    size = f"{human_count(snapshot.files, 'file')}, {human_bytes(snapshot.bytes)}"
    if dry_run:
        output.say(f"Would back up {size}; {human_bytes(snapshot.new_bytes)} changed and would be read.")
    else:
        output.say(
            f"Snapshot {snapshot.id.short}: {size}; {human_bytes(snapshot.new_bytes)} new in "
            f"{seconds:.1f} s{rate}."
        )
    output.summary(
        **snapshot_fields(snapshot),
        seconds=round(seconds, 3),
        wire_bytes=wire_bytes,
        dry_run=dry_run,
        changed=[os.fsdecode(path) for path in snapshot.changed],
    )
    if snapshot.skipped:
        raise Partial(
            f"{human_count(len(snapshot.skipped), 'file')} could not be backed up",
            do="They are named above; everything else is safe.",
        )
    if snapshot.reduced:
        raise Partial(
            f"{human_count(len(snapshot.reduced), 'file')} could only be backed up without some attributes",
            do="They are named above; their content is safe.",
        )


def show_snapshots(output: Output, snapshots: list[Snapshot]) -> None:
    """A line each, oldest first."""
    if not snapshots:
        output.say("No snapshots yet. Make one with 'holdfast backup PATH'.")
    else:
        output.say(f"{'id':<10}{'time':<18}{'device':<14}{'files':>8}{'size':>11}{'new':>11}  paths")
    for snapshot in snapshots:
        when = snapshot.time.astimezone().strftime("%Y-%m-%d %H:%M")
        tags = f" [{', '.join(snapshot.tags)}]" if snapshot.tags else ""
        output.say(
            f"{snapshot.id.short:<10}{when:<18}{snapshot.device_name[:12]:<14}{snapshot.files:>8,}"
            f"{human_bytes(snapshot.bytes):>11}{human_bytes(snapshot.new_bytes):>11}  "
            f"{shown(os.fsencode(' '.join(snapshot.paths)))}{tags}"
        )
        output.status(**snapshot_fields(snapshot))
    output.summary(snapshots=len(snapshots))


def entry_line(entry: Entry) -> str:
    """Like ``ls -l``."""
    kinds = {"dir": stat.S_IFDIR, "symlink": stat.S_IFLNK, "fifo": stat.S_IFIFO, "file": stat.S_IFREG}
    mode = stat.filemode(kinds[entry.kind] | entry.mode)
    when = datetime.fromtimestamp(entry.mtime_ns / 1e9, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    owner = entry.user or str(entry.uid)
    arrow = f" -> {shown(entry.target)}" if entry.kind == "symlink" else ""
    return f"{mode} {owner[:8]:<8} {entry.size:>12,} {when} {shown(entry.path)}{arrow}"


def entry_fields(entry: Entry) -> dict[str, Any]:
    """An entry in JSON."""
    return {
        "type": entry.kind,
        "path": os.fsdecode(entry.path),
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "target": os.fsdecode(entry.target),
    }


def _name_failures(
    output: Output,
    failed: list[tuple[bytes, HoldfastError]],
    unreadable: list[tuple[bytes, bytes, HoldfastError]],
    verb: str,
) -> None:
    for path, error in failed[:_NAMED_MAX]:
        output.note(f"{verb} {shown(path)}: {error.what}")
    if len(failed) > _NAMED_MAX:
        output.note(f"... and {len(failed) - _NAMED_MAX:,} more (all of them with --json)")
    for after, before, error in unreadable:
        output.note(
            f"unknown: everything after {shown(after) or 'the beginning'} and before "
            f"{shown(before) or 'the end'}: {error.what}"
        )
    for path, error in failed:
        output.status(event="failed", path=os.fsdecode(path), code=error.code, message=error.what)
    for after, before, error in unreadable:
        output.status(
            event="unreadable", after=os.fsdecode(after), before=os.fsdecode(before), code=error.code
        )


def show_restore(
    output: Output, report: RestoreReport, seconds: float, target: str, *, wire_bytes: int
) -> None:
    """What a restore did; raises what decides the exit code when something is lacking."""
    _name_failures(output, report.failed, report.unreadable, "not restored")
    rate = f", {human_bytes(report.bytes / seconds)}/s" if seconds > 0 else ""
    existing = f"; {report.skipped_existing:,} were there already" if report.skipped_existing else ""
    output.say(
        f"Restored {human_count(report.files, 'file')}, {human_bytes(report.bytes)} to {target} in "
        f"{seconds:.1f} s{rate}{existing}."
    )
    if report.owners_skipped or report.modes_reduced or report.xattrs_skipped:
        output.note(
            f"As this is not root: {human_count(report.owners_skipped, 'owner')} not set, "
            f"{human_count(report.modes_reduced, 'mode')} reduced, "
            f"{human_count(report.xattrs_skipped, 'attribute')} left out."
        )
    output.summary(
        files=report.files,
        bytes=report.bytes,
        folders=report.folders,
        links=report.links,
        pipes=report.pipes,
        skipped_existing=report.skipped_existing,
        failed=len(report.failed),
        unreadable_ranges=len(report.unreadable),
        owners_skipped=report.owners_skipped,
        modes_reduced=report.modes_reduced,
        xattrs_skipped=report.xattrs_skipped,
        verified_bytes=report.verified_bytes,
        seconds=round(seconds, 3),
        wire_bytes=wire_bytes,
    )
    worst = deciding(report.failed, report.unreadable, "could not be restored")
    if worst is not None:
        raise worst


def show_check(output: Output, report: CheckReport, seconds: float) -> None:
    """What a check found; raises what decides the exit code when something is wrong."""
    _name_failures(output, report.damaged, report.unreadable, "cannot be restored now:")
    read = f", {human_bytes(report.read_bytes)} read and opened" if report.read_chunks else ""
    verdict = "Everything can be restored" if report.ok else "Not everything can be restored now"
    output.say(
        f"{verdict}: {human_count(report.files, 'file')}, {human_count(report.chunks, 'chunk')}{read} "
        f"in {seconds:.1f} s."
    )
    output.summary(
        ok=report.ok,
        files=report.files,
        entries=report.entries,
        chunks=report.chunks,
        read_chunks=report.read_chunks,
        read_bytes=report.read_bytes,
        damaged_files=report.damaged_files,
        unreadable_ranges=len(report.unreadable),
        seconds=round(seconds, 3),
    )
    worst = deciding(report.damaged, report.unreadable, "cannot be restored now")
    if worst is not None:
        raise worst


def show_status(output: Output, status: AccountStatus, *, strict: bool) -> None:
    """The verdict first; raises Degraded with ``strict`` when it is not "safe"."""
    output.say(status.sentence)
    quota = f" of {human_bytes(status.quota_bytes)}" if status.quota_bytes else ""
    output.say(
        f"{human_count(status.snapshots, 'snapshot')}, {human_count(status.chunks, 'chunk')}, "
        f"{human_bytes(status.used_bytes)}{quota} stored; {human_count(status.devices, 'device')}; "
        f"head {status.head_seq}"
    )
    away = [node for node in status.nodes if node.state != "up"]
    up = len(status.nodes) - len(away)
    output.say(f"{up} of {human_count(len(status.nodes), 'node')} up")
    for node in away:
        output.say(f"  {node.id[:8]} is {node.state}{' in zone ' + node.zone if node.zone else ''}")
    output.summary(
        verdict=status.verdict,
        sentence=status.sentence,
        snapshots=status.snapshots,
        chunks=status.chunks,
        used_bytes=status.used_bytes,
        quota_bytes=status.quota_bytes,
        head_seq=status.head_seq,
        devices=status.devices,
        stripes=status.stripes.shown(),
        nodes=[{"id": node.id, "zone": node.zone, "state": node.state} for node in status.nodes],
    )
    if strict and status.verdict != "safe":
        raise Degraded(status.sentence, do="Bring the nodes back that are not up.")
