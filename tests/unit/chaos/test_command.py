"""``holdfast chaos``: what can be asked without running anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from holdfast.client.console import main
from holdfast.cluster.chaos.doctor import examine
from holdfast.cluster.chaos.judging import INVARIANTS
from holdfast.cluster.chaos.scenario import builtin_names, parse_scenario
from holdfast.protocol.failpoints import STEPS


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["chaos", *arguments])


def test_the_list_names_every_scenario_with_a_line() -> None:
    done = asked("list")
    assert done.exit_code == 0
    assert all(f"  {name} " in done.output for name in builtin_names())
    lines = [json.loads(line) for line in asked("list", "--json").output.splitlines()]
    assert [line["name"] for line in lines[:-1]] == builtin_names()


def test_an_explanation_is_the_file_itself_and_can_be_run_again() -> None:
    told = json.loads(asked("explain", "power-cut", "--json").output.splitlines()[-1])
    assert parse_scenario(told["toml"], "told").name == "power-cut"
    assert "every 9 s" in asked("explain", "power-cut").output


@pytest.mark.parametrize(("what", "table"), [("steps", STEPS), ("invariants", INVARIANTS)])
def test_steps_and_invariants_are_explained(what: str, table: dict[str, str]) -> None:
    output = asked("explain", what).output
    words = " ".join(output.split())  # long ones go over several lines
    assert all(f"{name} {text}" in words for name, text in table.items())
    assert max(map(len, output.splitlines())) <= 80


def test_what_there_is_not_is_said_with_a_next_step(tmp_path: Path) -> None:
    done = asked("explain", "no-such-thing")
    assert done.exit_code == 1 and "holdfast chaos list" in done.output
    assert asked("run", str(tmp_path / "none.toml")).exit_code == 1
    (tmp_path / "bad.toml").write_text("version = 1\n")
    assert asked("run", str(tmp_path / "bad.toml")).exit_code == 1
    assert asked("replay", str(tmp_path)).exit_code == 1
    assert asked("run", "first-kill", "--nodes", "3").exit_code == 1


def test_a_report_s_folder_must_be_new(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    done = asked("run", "first-kill", "--report", str(tmp_path))
    assert done.exit_code == 1 and "not empty" in done.output


def test_the_doctor_s_probes_leave_nothing_and_say_why_not() -> None:
    found = examine()
    assert {"signals", "proxies", "disks", "strace"} <= {one.name for one in found}
    assert all(one.faults for one in found)
    assert not next(one for one in found if one.name == "signals").why_not
