"""What a backup is asked to do, and what it did."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from holdfast.client.exclude import Excluder
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol.ids import ChunkId

__all__ = ["BackupPlan", "BackupResult", "Skipped"]


class BackupPlan(Struct, frozen=True):
    """What to back up. ``roots`` are absolute, in walking order (walk.normal_roots)."""

    roots: Sequence[bytes]
    excluder: Excluder = field(default_factory=Excluder)
    one_file_system: bool = False
    dry_run: bool = False


class Skipped(Struct, frozen=True):
    """A file that is not in the snapshot (or what of it is not), and why."""

    path: bytes
    why: str


class BackupResult(Struct):
    """What a backup did.

    Attributes:
        pages: the manifest.
        read_files, read_bytes: what had to be read.
        reused: chunk ids taken over from the parent without a claim (32 bytes each, joined).
        reduced: what is in the snapshot without some of its extended attributes.
        changed: files that changed while they were read; they are in the snapshot as they were read.
    """

    pages: list[ChunkRef] = field(default_factory=list)
    entries: int = 0
    files: int = 0
    total_bytes: int = 0
    read_files: int = 0
    read_bytes: int = 0
    reused: bytearray = field(default_factory=bytearray)
    skipped: list[Skipped] = field(default_factory=list)
    reduced: list[Skipped] = field(default_factory=list)
    changed: list[bytes] = field(default_factory=list)

    def reused_chunks(self) -> list[ChunkId]:
        """The reused chunk ids, each once."""
        raw = bytes(self.reused)
        return list(dict.fromkeys(ChunkId(raw[i : i + 32]) for i in range(0, len(raw), 32)))
