"""Progress on a terminal: a bar with rate and ETA on stderr. Nothing elsewhere."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.client.exclude import Excluder
from holdfast.client.progress import OnProgress, Progress
from holdfast.client.walk import Found, walk
from holdfast.protocol.terminal import Output, human_count

__all__ = ["count_ahead", "progress_bar"]


@contextmanager
def progress_bar(output: Output, what: str) -> Iterator[OnProgress | None]:
    """A callback that moves a bar; None when nobody is watching."""
    if not output.for_person:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    console = Console(stderr=True, no_color="NO_COLOR" in os.environ)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[files]}"),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, files="")

        def moved(progress: Progress) -> None:
            total = progress.total_bytes or None
            bar.update(task, completed=progress.bytes, total=total, files=human_count(progress.files, "file"))

        yield moved


@contextmanager
def count_ahead(
    roots: list[bytes], excluder: Excluder, one_file_system: bool, moved: OnProgress | None
) -> Iterator[OnProgress | None]:
    """Counts what there is to back up in a thread beside the backup, so that the bar knows its end."""
    if moved is None:
        yield None
        return
    total = [0]
    known = threading.Event()
    stop = threading.Event()

    def count() -> None:
        for found in walk(roots, excluder, one_file_system=one_file_system):
            if stop.is_set():
                return
            if isinstance(found, Found):
                total[0] += found.stat.st_size if stat.S_ISREG(found.stat.st_mode) else 0
        known.set()

    counter = threading.Thread(target=count, name="count ahead", daemon=True)
    counter.start()

    def with_total(progress: Progress) -> None:
        ending = total[0] if known.is_set() else 0
        moved(
            Progress(
                progress.phase, progress.files, progress.bytes, 0, ending, progress.new_bytes, progress.path
            )
        )

    try:
        yield with_total
    finally:
        stop.set()
        counter.join()
