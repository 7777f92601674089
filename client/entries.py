"""What a manifest says of one file, folder or link.

In memory an entry's extents name their chunks directly; in a page they index
the page's own chunk table (client/manifest.py).
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from holdfast.client.limits import MODE_MAX, NAME_BYTES_MAX, OWNER_MAX, PATH_BYTES_MAX, SIZE_BYTES_MAX
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol.errors import IntegrityFailure

__all__ = ["KINDS", "Entry", "Extent", "Kind", "check_entry", "check_path"]

Kind = Literal["file", "dir", "symlink", "fifo", "more"]
KINDS: Final = ("file", "dir", "symlink", "fifo", "more")
_NOT_NAMES: Final = (b"", b".", b"..")


class Extent(msgspec.Struct, frozen=True):
    """``length`` bytes at ``offset`` of a chunk's plaintext."""

    ref: ChunkRef
    offset: int
    length: int


class Entry(msgspec.Struct, frozen=True):
    """One entry. ``path`` is the absolute source path without the leading '/'.

    Attributes:
        linked: other names lead to the same (device, inode): they are restored as hard links.
        digest: BLAKE3-keyed(K_file, content) of small files, else empty.
        holes: (offset, length) of ranges that hold nothing; extents follow one another around them.
        trusted: the next backup may take equal size, times and inode as "unchanged".

    An entry of kind "more" goes on with the extents of the file before it (same path).
    Structs, not dataclasses: making one takes a tenth of the time, and backups make millions.
    """

    kind: Kind
    path: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    device: int = 0
    size: int = 0
    target: bytes = b""
    linked: bool = False
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    digest: bytes = b""
    holes: tuple[tuple[int, int], ...] = ()
    trusted: bool = False
    extents: tuple[Extent, ...] = ()

    def with_extents(self, extents: tuple[Extent, ...]) -> Entry:
        """The same entry with other extents."""
        return self if extents == self.extents else msgspec.structs.replace(self, extents=extents)


def check_path(path: bytes) -> list[bytes]:
    """The components of a path; refuse whatever could lead outside a restore's target.

    Raises:
        IntegrityFailure: empty, absolute, too long, or with a component that is empty, '.', '..',
            longer than a name may be, or holds NUL.
    """
    parts = path.split(b"/")
    wrong = len(path) > PATH_BYTES_MAX or b"\0" in path
    for part in parts:
        if part in _NOT_NAMES or len(part) > NAME_BYTES_MAX:
            wrong = True
    if wrong:
        raise IntegrityFailure(
            "the manifest names a path that no backup can have made",
            why=f"{path[:80]!r} is not a plain relative path",
            do="Nothing was written for it. Treat this snapshot as hostile.",
        )
    return parts


def check_entry(entry: Entry) -> None:
    """Refuse what the system calls of a restore would not take, whatever they made of it.

    Raises:
        IntegrityFailure: a mode, owner or size out of range, or a zero byte in a link's target or an
            attribute's name.
    """
    wrong = (
        not 0 <= entry.mode <= MODE_MAX
        or not 0 <= entry.uid <= OWNER_MAX
        or not 0 <= entry.gid <= OWNER_MAX
        or not 0 <= entry.size <= SIZE_BYTES_MAX
        or b"\0" in entry.target
        or any(b"\0" in name for name, _ in entry.xattrs)
    )
    if wrong:
        raise IntegrityFailure(
            "the manifest describes what no filesystem can hold",
            why=f"mode, owner, size, target or attributes of {entry.path[:80]!r} are out of range",
        )
