"""Folders that belong to one server or one device: locked, versioned, written atomically.

Shared by node, coordinator and client, so that a half-written file never
exists anywhere: every file is written beside its place, synced, and renamed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from holdfast.protocol.errors import HoldfastError, Locked, WrongDirectory

__all__ = [
    "Lock",
    "make_private",
    "read_json",
    "read_private",
    "refuse_strangers",
    "remove_file",
    "sync_folder",
    "write_file",
    "write_json",
]


class Lock:
    """Holds ``<folder>/lock`` as long as the process lives (flock); a crash lets go of it.

    Raises:
        Locked: another process holds it.
    """

    def __init__(self, folder: Path, what: str, *, wait: bool = False) -> None:
        self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            os.close(self._fd)
            raise Locked(
                f"{what} in {folder} is in use by another process", do="Stop that one first, or wait for it."
            ) from None

    def release(self) -> None:
        """Let go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def make_private(folder: Path, do: str = "Choose another with --dir.") -> None:
    """Make a folder (and its parents) that only its owner can look into.

    Raises:
        HoldfastError: it cannot be made.
    """
    missing = [above for above in (folder, *folder.parents) if not above.exists()]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for made in missing:
            sync_folder(made.parent)
    except OSError as error:
        raise HoldfastError(f"cannot make the folder {folder}", why=error.strerror or "", do=do) from error


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file whole or not at all, and durably."""
    beside = path.with_name(path.name + ".new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    except OSError as error:
        error.filename = error.filename or os.fspath(path)  # a full disk should name itself
        raise
    finally:
        os.close(fd)
    os.replace(beside, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a file's own sync does not promise that the file can be found."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, values: dict[str, Any], mode: int = 0o600) -> None:
    """A small JSON file, written like :func:`write_file`."""
    write_file(path, json.dumps(values, indent=2).encode() + b"\n", mode)


def read_json(path: Path, version: int) -> dict[str, Any] | None:
    """A versioned JSON file, or None when there is none.

    Raises:
        WrongDirectory: it is of another version, or not JSON.
    """
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise WrongDirectory(f"{path} is damaged", why=str(error)) from error
    found = values.get("version") if isinstance(values, dict) else None
    if found != version:
        raise WrongDirectory(
            f"{path} has version {found}, and this program reads {version}",
            do="Use the program version that wrote it, or another folder.",
        )
    return dict(values)


def read_private(path: Path) -> bytes | None:
    """The content of a secret file, or None when there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def refuse_strangers(folder: Path, own: Collection[str], what: str) -> None:
    """Before a folder is first used: nothing of anybody else's may be in it.

    Args:
        own: names that a start which died halfway may have left.

    Raises:
        WrongDirectory: something else is there.
    """
    known = {*own, *(f"{name}.new" for name in own), "lock", "ready.json", "lost+found"}
    strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in known)
    if strangers:
        raise WrongDirectory(
            f"{folder} holds something that is not {what} ({strangers[0]})",
            do="Name an empty or new folder with --dir.",
        )


def remove_file(path: Path) -> None:
    """Remove a file durably; fine when it is gone already."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)
