"""Chaos runs with fixed seeds: short scenarios on real processes, each judged by every invariant."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.cluster.chaos.history import FaultBegan, RunEnded, Sampled, read_history
from holdfast.cluster.chaos.run import run_scenario
from holdfast.cluster.chaos.scenario import load_builtin, parse_scenario, to_toml
from holdfast.cluster.chaos.small_disks import why_unavailable as why_no_disks
from holdfast.cluster.processes import clean_environment, wait_until

pytestmark = pytest.mark.timeout(400)

COMMAND = [sys.executable, "-m", "holdfast.client.console", "chaos"]
QUICK = """
version = 1
name = "quick"
about = "A step that nobody comes to."
calm_s = 0.5
chaos_s = 2.0
[cluster]
nodes = 3
profile = "2+1"
[load]
clients = 1
files = [1, 2]
file_kib = [1, 50]
[expect]
operations_min = 1
[[faults]]
kind = "kill"
step = "node.join.joined"
"""


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("m-plus-one-and-back", 1),
        ("bit-rot", 1),
        ("coordinator-crash", 1),
        ("power-cut", 1),
        ("reset-mid-body", 1),
        # Seeds that have found something: see the table of defects in docs/reliability.md.
        ("coordinator-amnesia", 71),
        ("coordinator-crash", 61),
        ("thundering-herd", 1),
    ],
)
async def test_a_short_scenario_loses_nothing(name: str, seed: int, tmp_path: Path) -> None:
    result = await run_scenario(load_builtin(name), seed=seed, report=tmp_path / "report")
    told = [f"({judged.letter}) {judged.why}" for judged in result.violations]
    assert result.ok, "\n".join([result.sentence, *told, f"holdfast chaos run {name} --seed {seed}"])
    assert any(isinstance(event, Sampled) and event.stripes for event in result.events)
    assert any(isinstance(event, FaultBegan) for event in result.events)
    assert list(read_history(tmp_path / "report" / "history.jsonl")) == list(result.events)


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def environment(tmp_path: Path) -> dict[str, str]:
    """Notes of runs go to a place of this test's own."""
    kept = clean_environment()
    return {**kept, "XDG_STATE_HOME": str(tmp_path / "state")}


def test_a_fault_that_never_fires_makes_a_run_inconclusive_and_it_can_be_replayed(tmp_path: Path) -> None:
    (tmp_path / "quick.toml").write_text(QUICK)
    for verb, what, report in (
        ("run", tmp_path / "quick.toml", tmp_path / "one"),
        ("replay", tmp_path / "one", tmp_path / "two"),
    ):
        more = ["--seed", "5"] if verb == "run" else []
        done = subprocess.run(
            [*COMMAND, verb, str(what), "--json", "--report", str(report), *more],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == 31, done.stdout + done.stderr
        told = lines(done)
        assert told[-1]["message_type"] == "summary" and told[-1]["seed"] == 5
        verdicts = {line["letter"]: line["verdict"] for line in told[:-1]}
        assert verdicts["m"] == "violated" and verdicts["b"] == "held"
        assert (report / "index.html").exists() and (report / "logs" / "node-1.log").exists()
        resolved = parse_scenario((report / "scenario.toml").read_text(), "again")
        assert to_toml(resolved) == (report / "scenario.toml").read_text()
        last = list(read_history(report / "history.jsonl"))[-1]
        assert isinstance(last, RunEnded) and last.exit_code == 31


def processes_in(folder: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if folder.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def mounted_in(folder: str) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {folder}/" in line]


def under_way(tmp_path: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A run whose cluster is up; its process, and its folder."""
    notes = tmp_path / "state" / "holdfast" / "chaos-runs"
    running = subprocess.Popen(
        [*COMMAND, "run", "full-disk", "--seed", "1"],
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell's background jobs ignore Ctrl-C; this one must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )

    def folder() -> str | None:
        for note in notes.glob("*.json"):
            return str(json.loads(note.read_bytes())["folder"])
        return None

    assert wait_until(lambda: (found := folder()) is not None and len(processes_in(found)) > 7, 90)
    return running, folder() or ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_leaves_nothing(number: int, tmp_path: Path) -> None:
    running, folder = under_way(tmp_path)
    running.send_signal(number)
    assert running.wait(90) in (130, 143)
    assert not Path(folder).exists() and not processes_in(folder) and not mounted_in(folder)
    assert not list((tmp_path / "state" / "holdfast" / "chaos-runs").iterdir())


def test_what_a_killed_run_leaves_the_next_look_removes(tmp_path: Path) -> None:
    running, folder = under_way(tmp_path)
    running.kill()
    running.wait(30)
    assert Path(folder).exists() and processes_in(folder)
    assert bool(mounted_in(folder)) == (not why_no_disks()), "where it can, each node has a filesystem"
    done = subprocess.run(
        [*COMMAND, "doctor", "--json"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert lines(done)[-1]["removed"] == [folder]
    assert not Path(folder).exists() and not processes_in(folder) and not mounted_in(folder)
