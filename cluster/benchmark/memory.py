"""The memory that a measurement is given: touched beforehand, or bounded.

Touched: a virtual machine gets memory from its host when it first touches it, and gives it
back when it lies free for a while. Whoever writes next pays for that, up to half as much again
as for the work itself, and who that is depends on what ran before. So as much as a step will
need is touched before it, and left for it to take.

Bounded: in a control group of its own (memory(7) of version 1 or 2), where this machine lets us
make one; the page cache of what is read and written counts there, too.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from holdfast.protocol.limits import MIB

__all__ = ["bounded_memory", "touch_memory"]

_TOUCHED_BYTES_MAX: Final = 1024 * MIB
_BESIDE_BYTES: Final = 128 * MIB
_TIMES: Final = 3
"""Of n/k times the bytes in page caches, buffers of sockets, and what a client holds."""
_GROUPS: Final = Path("/sys/fs/cgroup")
# The second of each: what is swapped out would be memory that nobody has given.
_VERSION_1: Final = (("memory.limit_in_bytes", 1), ("memory.memsw.limit_in_bytes", 1))
_VERSION_2: Final = (("memory.max", 1), ("memory.swap.max", 0))


def touch_memory(user_bytes: int) -> None:
    """Have the machine hold memory for a step that moves so many bytes of user data."""
    count = min(_TIMES * user_bytes + _BESIDE_BYTES, _TOUCHED_BYTES_MAX)
    count = -(-count // MIB) * MIB
    filled = b"\1" * MIB
    with mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as room:
        with suppress(OSError):  # a kernel without huge pages
            # Small pages: file caches are made of what small pages leave behind.
            room.madvise(mmap.MADV_NOHUGEPAGE)
        for start in range(0, count, MIB):
            room[start : start + MIB] = filled


def _own_group() -> tuple[Path, tuple[tuple[str, int], ...]] | None:
    """(this process's memory group, what bounds one: files and how many times the memory); None: no group."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _GROUPS / "memory" / path.lstrip("/"), _VERSION_1
        if number == "0" and "memory" in _controllers(_GROUPS / path.lstrip("/")):
            return _GROUPS / path.lstrip("/"), _VERSION_2
    return None


def _controllers(group: Path) -> list[str]:
    try:
        return (group / "cgroup.subtree_control").read_text().split()
    except OSError:
        return []


@contextmanager
def bounded_memory(count: int) -> Iterator[Path | None]:
    """A control group of so many bytes: write a process's number into the file given, and it is in it.

    None where no group can be made here. Every process must have ended before it is left.
    """
    group = None
    try:
        own = _own_group()
        if own is not None:
            group = own[0] / f"holdfast-bench-{os.getpid()}"
            group.mkdir()
            for number, (file, times) in enumerate(own[1]):
                if number == 0 or (group / file).exists():  # not every kernel counts swap
                    (group / file).write_text(str(times * count))
    except OSError:
        if group is not None and group.is_dir():
            group.rmdir()
        group = None
    try:
        yield group / "cgroup.procs" if group is not None else None
    finally:
        if group is not None:
            group.rmdir()
