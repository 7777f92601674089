"""What a run makes on this machine, and removing it, also when the run itself was killed.

Every run has one folder with a marker in it and a note in the platform's place for state. Who
finds the note of a run whose process is gone ends what that run had started and deletes its folder.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.cluster.chaos.small_disks import unmount_below
from holdfast.cluster.local import LocalCluster
from holdfast.cluster.processes import boot_id, end_strays, start_time
from holdfast.protocol.directory import make_private, write_json

__all__ = ["clean_up", "run_folder"]

_MARKER = "holdfast-chaos-run"


def _notes() -> Path:
    from platformdirs import user_state_path

    return user_state_path("holdfast", appauthor=False) / "chaos-runs"


@contextmanager
def run_folder() -> Iterator[Path]:
    """A folder for one run, gone with everything in it afterwards."""
    clean_up()
    folder = Path(tempfile.mkdtemp(prefix="holdfast-chaos-"))
    (folder / _MARKER).touch()
    notes = _notes()
    make_private(notes)
    note = notes / f"{os.getpid()}-{folder.name}.json"
    write_json(
        note,
        {
            "version": 1,
            "pid": os.getpid(),
            "started": start_time(os.getpid()) or 0,
            "boot": boot_id(),
            "folder": str(folder),
        },
    )
    try:
        yield folder
    finally:
        _remove(folder)
        note.unlink(missing_ok=True)


def clean_up() -> list[str]:
    """Remove what runs left that were killed; gives their folders."""
    removed = []
    notes = _notes()
    for note in sorted(notes.glob("*.json")) if notes.is_dir() else ():
        try:
            told = json.loads(note.read_bytes())
            folder, pid, started = Path(told["folder"]), int(told["pid"]), int(told["started"])
            lives = told["boot"] == boot_id() and start_time(pid) == started
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if lives:
            continue
        _remove(folder)
        note.unlink(missing_ok=True)
        removed.append(str(folder))
    return removed


def _remove(folder: Path) -> None:
    """End what runs in it, delete it: only what carries a run's marker."""
    if not (folder / _MARKER).exists():
        return
    cluster = LocalCluster(folder=folder / "cluster", keep=True)
    cluster.down()
    # Clients end by themselves, but not at once; and what was just being started has no note yet.
    end_strays(folder)
    # Its nodes' disks, when they had some: a folder on which something is mounted cannot be deleted.
    unmount_below(folder)
    shutil.rmtree(folder, ignore_errors=True)
