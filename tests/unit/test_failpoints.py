"""Named steps: what a file arms happens there, once, and is written down; without a file nothing does."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.protocol import failpoints
from holdfast.protocol.failpoints import STEPS, VARIABLE, Failpoints

ROOT = Path(__file__).resolve().parents[2]


def test_a_step_kills_the_nth_time_it_is_reached_and_leaves_a_note(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    file.write_text("node.put.committed 3 kill\n")
    code = (
        "from holdfast.protocol.failpoints import reached\n"
        "for turn in range(5):\n"
        "    reached('node.put.written')\n"
        "    print(turn, flush=True)\n"
        "    reached('node.put.committed')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, VARIABLE: str(file)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1", "2"]
    assert Path(f"{file}.hits").read_text().split()[0] == "node.put.committed"


def test_the_file_may_come_and_change_while_the_process_runs(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    armed = Failpoints(file)
    armed.reached("node.put.written")
    file.write_text("node.put.written 1 delay:1\n")
    armed.reached("node.put.written")
    armed.reached("node.put.written")  # once alone
    other = tmp_path / "other"
    other.write_text("node.put.committed 2 delay:1\n")
    os.replace(other, file)
    armed.reached("node.put.committed")
    armed.reached("node.put.committed")
    file.unlink()
    armed.reached("node.put.committed")
    hits = [line.split()[0] for line in Path(f"{file}.hits").read_text().splitlines()]
    assert hits == ["node.put.written", "node.put.committed"]


def test_nothing_is_armed_without_the_variable() -> None:
    assert VARIABLE not in os.environ
    assert failpoints._ARMED is None


@pytest.mark.parametrize("step", STEPS)
def test_every_step_stands_in_the_part_it_names_and_nowhere_else(step: str) -> None:
    part = step.split(".", 1)[0]
    found = [
        path.relative_to(ROOT).parts[0]
        for path in ROOT.glob("*/**/*.py")
        if path.relative_to(ROOT).parts[0] in ("protocol", "client", "node", "coordinator")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "reached"
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value == step
    ]
    assert found == [part]


def test_every_step_in_the_code_is_in_the_table() -> None:
    used = {
        node.args[0].value
        for part in ("client", "node", "coordinator")
        for path in (ROOT / part).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "reached"
        and isinstance(node.args[0], ast.Constant)
    }
    assert used == set(STEPS)
