"""Small filesystems of a run's own, for nodes' folders to lie on and to run full.

An ext4 image behind a loop device where that works, else a tmpfs. They are mounted inside the run's own
folder and nowhere else; an image has no name once it is mounted, so that unmounting it leaves nothing.
What takes up room (:class:`Ballast`) has no name either, and is gone with the process that holds it.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from holdfast.protocol.errors import HoldfastError

__all__ = ["Ballast", "make_disk", "unmount_below", "why_unavailable"]

_MOUNTS = Path("/proc/self/mountinfo")
_COMMAND_WITHIN_S = 30.0
_PROBE_BYTES = 8 << 20
_STEP_BYTES = 16 << 20
_PAGE_BYTES = 4096


def _ran(*command: str) -> None:
    """Run a command of the system.

    Raises:
        HoldfastError: it is not there, or fails.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_WITHIN_S, check=False, cwd="/"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HoldfastError(f"{command[0]} cannot be run", why=str(error)) from error
    if done.returncode:
        raise HoldfastError(f"{command[0]} failed", why=done.stderr.strip()[:200])


def _mount_ext4(folder: Path, size_bytes: int) -> None:
    descriptor, image = tempfile.mkstemp(prefix=f".{folder.name}-", suffix=".image", dir=folder.parent)
    try:
        os.truncate(descriptor, size_bytes)
        # Nothing kept back for root: what is free is free for everybody.
        _ran("mkfs.ext4", "-q", "-m", "0", image)
        _ran("mount", "-o", "loop,nosuid,nodev", image, str(folder))
    finally:
        os.close(descriptor)
        os.unlink(image)


def _mount_tmpfs(folder: Path, size_bytes: int) -> None:
    _ran("mount", "-t", "tmpfs", "-o", f"size={size_bytes},nosuid,nodev", "holdfast-chaos", str(folder))


_WAYS: dict[str, Callable[[Path, int], None]] = {"ext4": _mount_ext4, "tmpfs": _mount_tmpfs}


def make_disk(folder: Path, size_bytes: int) -> str:
    """Mount a new filesystem on an empty folder; gives which kind it is.

    Raises:
        HoldfastError: no kind can be mounted here.
    """
    troubles = []
    for kind, mount in _WAYS.items():
        try:
            mount(folder, size_bytes)
        except HoldfastError as error:
            troubles.append(f"{kind}: {error.what}: {error.why}")
            continue
        folder.chmod(0o700)
        return kind
    raise HoldfastError("no filesystem can be mounted here", why="; ".join(troubles))


def why_unavailable() -> str:
    """Why no filesystem can be mounted on this machine; empty when one can."""
    if os.geteuid() != 0:
        return "only root may mount filesystems"
    folder = Path(tempfile.mkdtemp(prefix="holdfast-doctor-"))
    probe = folder / "disk"
    probe.mkdir()
    try:
        make_disk(probe, _PROBE_BYTES)
    except HoldfastError as error:
        return error.why or error.what
    finally:
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return ""


def _mounted_below(folder: Path) -> list[Path]:
    """Where filesystems are mounted below a folder, innermost first (proc_pid_mountinfo(5))."""
    inside = os.fsencode(folder.resolve()) + b"/"
    found = []
    for line in _MOUNTS.read_bytes().splitlines():
        # Blanks, tabs, newlines and backslashes are written as octal numbers: \040.
        place = line.split()[4].decode("unicode_escape").encode("latin-1")
        if place.startswith(inside):
            found.append(Path(os.fsdecode(place)))
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def unmount_below(folder: Path) -> list[Path]:
    """Unmount whatever is mounted below a folder; gives what it was. Fine when there is nothing.

    Raises:
        HoldfastError: it cannot be unmounted.
    """
    found = _mounted_below(folder)
    for place in found:
        # Lazily: a process that is only just ending may still hold a file.
        _ran("umount", "--lazy", str(place))
    return found


class Ballast:
    """Takes up all room of a filesystem but some, until :meth:`end`, or until this process is gone.

    Args:
        folder: where a filesystem of a run's own is mounted.
        leave_bytes: so much stays free.

    Raises:
        HoldfastError: nothing is mounted there: no other filesystem is ever filled.
    """

    def __init__(self, folder: Path, leave_bytes: int) -> None:
        if not os.path.ismount(folder):
            raise HoldfastError(
                f"{folder.name} has no filesystem of its own", do="Give the cluster disk_mib."
            )
        self.taken_bytes = 0
        self._file = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            self._grow(leave_bytes)
        except BaseException:
            os.close(self._file)
            raise

    def _grow(self, leave_bytes: int) -> None:
        step = _STEP_BYTES
        while step >= _PAGE_BYTES:
            room = os.fstatvfs(self._file)
            if room.f_bavail * room.f_frsize - step < leave_bytes:
                step //= 2
                continue
            try:
                os.posix_fallocate(self._file, self.taken_bytes, step)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                step //= 2
                continue
            self.taken_bytes += step

    def end(self) -> None:
        """Give the room back; once is as good as often."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
