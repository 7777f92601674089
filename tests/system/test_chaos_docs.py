"""What docs/chaos.md shows works: its commands, its scenario, its Python and its test run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cluster.chaos.faults import KINDS
from holdfast.cluster.chaos.scenario import parse_scenario
from holdfast.protocol.failpoints import STEPS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "chaos.md"
TEXT = PAGE.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_tutorial_s_commands_run_as_written(tmp_path: Path) -> None:
    """All but the replay, which only runs the same again."""
    section = TEXT.split("## A tutorial")[1].split("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    holdfast ")]
    assert lines[-1] == "holdfast chaos replay first-kill-report"
    (tmp_path / "holdfast").write_text(f'#!/bin/sh\nexec {sys.executable} -m holdfast.client.console "$@"\n')
    (tmp_path / "holdfast").chmod(0o755)
    script = "\n".join(line.replace("holdfast", "./holdfast", 1) for line in lines[:-1])
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "nothing was lost" in done.stdout
    report = tmp_path / "first-kill-report"
    for name in ("index.html", "history.jsonl", "scenario.toml", "logs"):
        assert (report / name).exists(), name
    assert (tmp_path / "survival.svg").read_text().startswith("<svg")


def test_the_scenario_that_is_shown_is_one() -> None:
    (shown,) = blocks("toml")
    scenario = parse_scenario(shown, "docs/chaos.md")
    assert len(scenario.faults) == 3
    assert scenario.faults[1].step in STEPS


def test_every_kind_of_fault_is_named() -> None:
    table = TEXT.split("| faults | what they break |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([a-z-]+)`", table)) - {"toward", "one_way"} == set(KINDS)


def test_the_python_that_is_shown_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "index.html").exists()


def test_the_test_that_is_shown_passes(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(blocks("python")[1])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
