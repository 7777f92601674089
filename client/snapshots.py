"""Snapshots as people see them, and finding the one that is meant."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from holdfast.client.backup_result import BackupResult, Skipped
from holdfast.client.snapshot_record import ChunkRef, SnapshotRecord
from holdfast.protocol.errors import BadRequest, NotFound
from holdfast.protocol.ids import DeviceId, SnapshotId
from holdfast.protocol.limits import LABEL_BYTES_MAX

if TYPE_CHECKING:
    from holdfast.client.session import Session

_FETCHED_TOGETHER = 16

PathBytes = bytes
"""The name ``bytes`` means a count inside :class:`Snapshot`."""

__all__ = [
    "Snapshot",
    "checked_tags",
    "choose",
    "find_snapshot",
    "is_of",
    "newest_first",
    "snapshots_of",
    "split_reference",
]


class Snapshot(Struct, frozen=True):
    """One moment of a person's files.

    Attributes:
        paths: what was backed up (absolute).
        bytes: sum of the sizes of all files; ``new_bytes``: sealed bytes that were not stored before.
        skipped, reduced, changed: only right after the backup that made it; files not in it, files in it
            without some of their extended attributes, and files that changed while they were read.
    """

    id: SnapshotId
    time: datetime
    device: DeviceId
    device_name: str
    paths: tuple[str, ...]
    tags: tuple[str, ...]
    files: int
    entries: int
    bytes: int
    new_bytes: int
    skipped_count: int
    pages: tuple[ChunkRef, ...]
    skipped: tuple[Skipped, ...] = ()
    reduced: tuple[Skipped, ...] = ()
    changed: tuple[PathBytes, ...] = ()

    def __repr__(self) -> str:
        return f"Snapshot({self.id}, {self.time.isoformat()}, {self.files:,} files)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", str(self.id)), ("time", self.time.isoformat()), ("files", self.files)]

    @classmethod
    def of(cls, snapshot: SnapshotId, record: SnapshotRecord, result: BackupResult | None = None) -> Snapshot:
        """From its record."""
        return cls(
            snapshot,
            datetime.fromtimestamp(record.time_ns / 1e9, UTC),
            record.device,
            record.device_name,
            tuple(os.fsdecode(path) for path in record.paths),
            tuple(record.tags),
            record.files,
            record.entries,
            record.total_bytes,
            record.new_bytes,
            record.skipped,
            tuple(record.pages),
            tuple(result.skipped) if result else (),
            tuple(result.reduced) if result else (),
            tuple(result.changed) if result else (),
        )


def split_reference(text: str) -> tuple[str, str]:
    """``SNAP[:PATH]`` -> (snapshot, path in it)."""
    snapshot, _, path = text.partition(":")
    return snapshot, path


def is_of(snapshot: Snapshot, *, device: str | None = None, path: str | None = None) -> bool:
    """Is it of this device (name, or the beginning of its id), and did it back up this path?"""
    return (
        device is None or device == snapshot.device_name or snapshot.device.hex().startswith(device)
    ) and (path is None or os.path.abspath(path) in snapshot.paths)


def choose(
    snapshots: Sequence[Snapshot], wanted: str, *, device: str | None = None, path: str | None = None
) -> Snapshot:
    """The snapshot meant by an id's beginning, or ``latest`` (narrowed by device name or id, and path).

    Args:
        snapshots: oldest first.

    Raises:
        NotFound: none fits. BadRequest: several do.
    """
    listing = "'holdfast snapshots' lists them."
    if wanted == "latest":
        fitting = [snapshot for snapshot in snapshots if is_of(snapshot, device=device, path=path)]
        if not fitting:
            narrowed = " that fits --device and --path" if device or path else ""
            raise NotFound(f"this account has no snapshot{narrowed} yet", do=f"{listing}")
        return fitting[-1]
    if not wanted or not set(wanted) <= set("0123456789abcdef"):
        raise BadRequest(
            f"{wanted!r} is not a snapshot", do=f"Use 'latest' or the beginning of an id; {listing}"
        )
    fitting = [snapshot for snapshot in snapshots if snapshot.id.hex().startswith(wanted)]
    if not fitting:
        raise NotFound(f"there is no snapshot {wanted}", do=listing)
    if len(fitting) > 1:
        named = ", ".join(snapshot.id.hex()[: len(wanted) + 4] for snapshot in fitting[:5])
        raise BadRequest(
            f"{wanted} is the beginning of several snapshots: {named}", do="Give more of the id."
        )
    return fitting[0]


def checked_tags(tags: Iterable[str]) -> list[str]:
    """Each tag once, in order; raises BadRequest for what is none."""
    made = list(dict.fromkeys(tags))
    for tag in made:
        # Surrogates: bytes of the command line that are no text, which a record cannot hold.
        length = len(tag.encode(errors="surrogatepass"))
        if not 1 <= length <= LABEL_BYTES_MAX or "," in tag or not tag.isprintable():
            raise BadRequest(
                f"{tag[:40]!r} is not a tag",
                why=f"a tag has 1 to {LABEL_BYTES_MAX} bytes of printable text and no comma",
            )
    return made


async def snapshots_of(session: Session, wanted: Sequence[SnapshotId]) -> list[Snapshot]:
    """These snapshots, opened, in order.

    Raises:
        IntegrityFailure: a record is gone or does not open.
    """
    records = await session.records(wanted)
    return [Snapshot.of(snapshot, record) for snapshot, record in zip(wanted, records, strict=True)]


async def newest_first(session: Session, listed: Sequence[SnapshotId]) -> AsyncGenerator[Snapshot, None]:
    """Snapshots of a head's list, the last first; each opened when it is asked for, a few fetched together.

    Each has to be fetched and decrypted: with years of daily snapshots, all of them take longer than
    many a restore.

    Raises:
        IntegrityFailure: a record is gone or does not open.
    """
    for end in range(len(listed), 0, -_FETCHED_TOGETHER):
        portion = listed[max(0, end - _FETCHED_TOGETHER) : end]
        for snapshot, record in zip(reversed(portion), await session.records_backwards(portion), strict=True):
            yield Snapshot.of(snapshot, record)


async def find_snapshot(
    session: Session,
    listed: Sequence[SnapshotId],
    wanted: str,
    *,
    device: str | None = None,
    path: str | None = None,
) -> Snapshot:
    """As :func:`choose` of a head's whole list, oldest first; opens no more records than it must."""
    if wanted != "latest":
        fitting = [snapshot for snapshot in listed if wanted and snapshot.hex().startswith(wanted)]
        return choose(await snapshots_of(session, fitting), wanted)
    async with aclosing(newest_first(session, listed)) as snapshots:
        async for snapshot in snapshots:
            if is_of(snapshot, device=device, path=path):
                return snapshot
    return choose([], wanted, device=device, path=path)
