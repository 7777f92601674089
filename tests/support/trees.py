"""A tree with one of everything that a backup must keep, and what to look for in what came back."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from holdfast.client.placing import temporary_prefix
from holdfast.cluster.demo.compare import compare_trees
from holdfast.protocol.clock import SystemSource

LATER = SystemSource(offset_ms=10_000)
"""Ten seconds later: what was just written counts as settled."""


def tree(folder: Path) -> Path:
    """A tree with everything a backup must keep."""
    folder.mkdir()
    (folder / "small").write_bytes(b"small" * 100)
    (folder / "empty").touch(mode=0o600)
    (folder / "large").write_bytes(os.urandom(5_000_000))
    (folder / "text").write_text("line of text\n" * 100_000)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "file").write_text("deep")
    (folder / "deep" / "er").chmod(0o711)
    (folder / "same as small").write_bytes(b"small" * 100)
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "script").chmod(0o755)
    os.symlink("nowhere/\udcff", folder / "dangling")
    os.link(folder / "large", folder / "zz second name")
    os.mkfifo(folder / "pipe", 0o640)
    (Path(os.fsdecode(os.fsencode(folder) + b"/b\xe4d\n name"))).write_text("bytes")
    with (folder / "sparse").open("wb") as sparse:
        sparse.seek(3_000_000)
        sparse.write(os.urandom(300_000))
        sparse.seek(9_000_000)
        sparse.write(b"end")
        sparse.truncate(12_000_000)
    with (folder / "all hole").open("wb") as hole:
        hole.truncate(1_000_000)
    with contextlib.suppress(OSError):  # a filesystem without attributes: then there is nothing to keep
        os.setxattr(folder / "small", "user.note", b"\0\xff")
    os.utime(folder / "small", ns=(1_234_567_890_123_456_789, 1_234_567_890_987_654_321))
    os.utime(folder / "deep", ns=(0, 999_999_999))
    return folder


def assert_same(source: Path, restored: Path) -> None:
    compared = compare_trees(os.fsencode(source), os.fsencode(restored))
    assert compared.identical, compared.differences


def leftovers(target: Path) -> list[bytes]:
    return [
        name
        for _, _, names in os.walk(os.fsencode(target))
        for name in names
        if name.startswith(temporary_prefix)
    ]
