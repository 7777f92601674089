"""What long operations tell while they run."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

__all__ = ["OnProgress", "Progress"]


class Progress(Struct, frozen=True):
    """Done so far. Totals are 0 while they are not known.

    Attributes:
        phase: "scan", "backup", "restore", "check" or "prune" (``files``: snapshots looked at).
        bytes: bytes of file content done; ``new_bytes`` of them had to be sent.
    """

    phase: str
    files: int = 0
    bytes: int = 0
    total_files: int = 0
    total_bytes: int = 0
    new_bytes: int = 0
    path: str = ""


OnProgress = Callable[[Progress], None]
