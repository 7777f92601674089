"""Files are whole or not there; folders belong to one process at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.protocol.directory import Lock, make_private, read_json, read_private, write_file, write_json
from holdfast.protocol.errors import HoldfastError, Locked, WrongDirectory


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_a_write_that_fails_anywhere_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "key"
    write_file(path, b"old")

    def failing(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, failing)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new, and longer")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["key"]


def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    write_file(tmp_path / "key", b"longer than three")
    monkeypatch.undo()
    assert (tmp_path / "key").read_bytes() == b"longer than three"


def test_secrets_are_private(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "b")
    write_file(tmp_path / "a" / "b" / "key", b"x")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b" / "key").stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HoldfastError) as caught:
        make_private(tmp_path / "file" / "below")
    assert caught.value.do


def test_a_second_process_is_kept_out_and_a_dead_one_is_not(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from holdfast.protocol.directory import Lock
with Lock(Path(sys.argv[1]), "the test"):
    print("held", flush=True)
    sys.stdin.read()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert other.stdout is not None and other.stdin is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(Locked) as caught:
        Lock(tmp_path, "the test")
    assert caught.value.exit_code == 11 and caught.value.do
    other.kill()
    other.wait()
    other.stdout.close()
    other.stdin.close()
    with Lock(tmp_path, "the test"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2}', '{"version": "1"}', "{}", "\xff"])
def test_a_file_of_another_version_or_damaged_is_refused_with_a_next_step(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "x.json").write_text(content, encoding="latin-1")
    with pytest.raises(WrongDirectory) as caught:
        read_json(tmp_path / "x.json", 1)
    assert caught.value.do


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "x.json", 1) is None
    assert read_private(tmp_path / "key") is None
    write_json(tmp_path / "x.json", {"version": 1, "a": 2})
    assert read_json(tmp_path / "x.json", 1) == {"version": 1, "a": 2}
