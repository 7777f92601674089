"""Processes that nobody has noted are found by what they were told to do, and no others are ended."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from holdfast.cluster.processes import Member, end_strays, start_time, wait_until

STANDS_IN = """
import fcntl, sys
from pathlib import Path
told = Path(sys.argv[-1])
held = open(told.parent / f"{told.name}.held", "w") if told.parent.is_dir() else None
if held:
    fcntl.flock(held, fcntl.LOCK_EX)
print("up", flush=True)
sys.stdin.read()
"""
"""Looks like a member's process; holds a lock beside its folder."""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with a module of a name that is ours."""
    (tmp_path / "modules" / "holdfast").mkdir(parents=True)
    (tmp_path / "modules" / "holdfast" / "stands_in.py").write_text(STANDS_IN)
    return tmp_path / "modules"


@pytest.fixture
def started(program: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    with ExitStack() as running:

        def start(*arguments: object, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
            made = subprocess.Popen(
                [*before, sys.executable, "-P", "-m", "holdfast.stands_in", *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": str(program)},
                stdin=subprocess.PIPE,  # it ends with whoever started it
                stdout=subprocess.PIPE,
            )
            running.callback(made.wait)
            running.callback(made.kill)
            assert made.stdout is not None and made.stdout.readline() == b"up\n"
            return made

        yield start


def member(folder: Path) -> Member:
    return Member("node-1", folder / "node-1", ["node", "run", "--dir", str(folder / "node-1"), "--more"])


def serves(folder: Path) -> tuple[object, ...]:
    return ("node", "run", "--dir", folder / "node-1")


def test_a_member_without_a_note_is_ended_with_all_that_it_held(
    tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "node-1").mkdir()
    stray, other = started(*serves(tmp_path)), started("node", "run", "--dir", tmp_path / "node-11")
    member(tmp_path).stop()
    with (tmp_path / "node-1.held").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it is really gone
    assert stray.wait(5) == -9 and other.poll() is None


def test_a_stray_whose_folder_was_deleted_is_ended_too(
    tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    run = tmp_path / "run"
    (run / "node-1").mkdir(parents=True)
    one = started(*serves(run))
    shutil.rmtree(run / "node-1")
    member(run).stop()
    assert one.wait(5) == -9
    another = started(*serves(run))
    shutil.rmtree(run)
    end_strays(run)
    assert another.wait(5) == -9


def _can(*before: str) -> bool:
    return (
        shutil.which(before[0]) is not None and subprocess.run([*before, "true"], check=False).returncode == 0
    )


MOUNTS = ("unshare", "--mount", "--")
PIDS = ("unshare", "--pid", "--fork", "--kill-child", "--")
USERS = ("unshare", "--user", "--map-root-user", "--")


@pytest.mark.skipif(not _can(*MOUNTS), reason="no mount namespaces may be made here")
def test_another_folder_of_the_same_name_is_another_s(
    tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """As in a container whose folder has the name of ours."""
    mine = tmp_path / "mine"
    (mine / "node-1").mkdir(parents=True)
    elsewhere = ("sh", "-c", f'mount -t tmpfs none "{mine}" && mkdir "{mine}/node-1" && exec "$@"', "sh")
    theirs = started(*serves(mine), before=(*MOUNTS, *elsewhere))
    member(mine).stop()
    end_strays(mine)
    assert theirs.poll() is None


@pytest.mark.skipif(not _can(*PIDS), reason="no namespaces of pids may be made here")
def test_a_member_of_a_container_that_shares_the_folder_is_not_a_stray(
    tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Its note has a pid that means nothing here."""
    (tmp_path / "node-1").mkdir()
    theirs = started(*serves(tmp_path), before=PIDS)
    member(tmp_path).stop()
    assert theirs.poll() is None


LOOKS = """
import sys
from pathlib import Path
from holdfast.cluster.processes import end_strays
end_strays(Path(sys.argv[1]))
"""


@pytest.mark.skipif(not _can(*USERS), reason="no user namespaces may be made here")
@pytest.mark.parametrize("stray_in", [(), USERS])
def test_a_stray_is_found_from_inside_another_user_namespace(
    tmp_path: Path, started: Callable[..., subprocess.Popen[bytes]], stray_in: tuple[str, ...]
) -> None:
    """A run that cuts nodes off by lost packets works in one, and removes what others left."""
    (tmp_path / "node-1").mkdir()
    stray = started(*serves(tmp_path), before=stray_in)
    subprocess.run([*USERS, sys.executable, "-c", LOOKS, str(tmp_path)], check=True, timeout=60)
    assert wait_until(lambda: start_time(stray.pid) is None, 5)
