"""What a killed run leaves behind is ended and removed by the next look, and nothing of anybody else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from holdfast.cluster.chaos.leftovers import clean_up, run_folder
from holdfast.cluster.processes import boot_id

CLIENT = "holdfast.cluster.chaos.client_process"


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "holdfast" / "chaos-runs"


@pytest.fixture
def started() -> Iterator[ExitStack]:
    with ExitStack() as processes:
        yield processes


def client(folder: Path, started: ExitStack) -> subprocess.Popen[bytes]:
    """A client of a run, whose standard input somebody still holds open."""
    made = subprocess.Popen(
        [sys.executable, "-P", "-m", CLIENT, str(folder / "clients" / "client-1"), "canary-1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    started.callback(made.wait)
    started.callback(made.kill)
    return made


def left_behind(notes: Path, folder: Path) -> None:
    """What a run that is not there any more leaves: a marked folder, and a note."""
    folder.mkdir()
    (folder / "holdfast-chaos-run").touch()
    notes.mkdir(parents=True, exist_ok=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    told = {"version": 1, "pid": gone.pid, "started": 1, "boot": boot_id(), "folder": str(folder)}
    (notes / f"{folder.name}.json").write_text(json.dumps(told))


def test_a_client_that_was_just_started_is_ended_and_another_runs_is_not(
    tmp_path: Path, notes: Path, started: ExitStack
) -> None:
    mine, others = tmp_path / "run", tmp_path / "run-2"
    left_behind(notes, mine)
    stray, other = client(mine, started), client(others, started)
    looking = started.enter_context(
        subprocess.Popen([sys.executable, "-c", "input()", f"{mine}/x"], stdin=-1)
    )
    assert clean_up() == [str(mine)]
    assert stray.wait(10) == -9 and not mine.exists() and not list(notes.iterdir())
    assert other.poll() is None, "it works in another folder"
    assert looking.poll() is None, "it only names the folder"
    looking.kill()


def test_a_half_made_cluster_is_removed(tmp_path: Path, notes: Path) -> None:
    mine = tmp_path / "run"
    left_behind(notes, mine)
    (mine / "cluster" / "node-1").mkdir(parents=True)
    assert clean_up() == [str(mine)] and not mine.exists()


def test_a_folder_without_a_runs_marker_is_left_alone(tmp_path: Path, notes: Path) -> None:
    mine = tmp_path / "run"
    left_behind(notes, mine)
    (mine / "holdfast-chaos-run").unlink()
    (mine / "memories").write_text("the only copy")
    clean_up()
    assert (mine / "memories").read_text() == "the only copy"


def test_a_run_that_lives_is_left_alone(notes: Path) -> None:
    with run_folder() as mine:
        assert clean_up() == [] and mine.exists()
    assert not mine.exists() and not list(notes.iterdir())
