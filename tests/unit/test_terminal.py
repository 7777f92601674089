"""What every command shares: errors become sentences and exit codes, programs get JSON lines."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from holdfast.cluster.chaos.result import HARNESS_FAILED, INCONCLUSIVE, VIOLATED
from holdfast.protocol import errors
from holdfast.protocol.errors import HoldfastError, NoRoom, TooFewShards
from holdfast.protocol.terminal import (
    BYTES,
    Output,
    guarded,
    human_bytes,
    human_count,
    json_option,
    option,
    run,
)

KINDS = [getattr(errors, name) for name in errors.__all__ if name not in ("error_from_wire",)]


def command(raised: BaseException | None = None) -> click.Command:
    @click.command()
    @option("--target-size", type=BYTES, default=0, help="How much.")
    @click.option("--quiet", is_flag=True)
    @json_option
    @guarded
    def made(target_size: int, quiet: bool, as_json: bool) -> None:
        output = Output(as_json, quiet)
        output.note("a note")
        output.say(f"size {target_size}")
        output.status(event="seen", path=b"\xff\x00")
        if raised is not None:
            raise raised
        output.summary(size=target_size)

    return made


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_told_with_its_exit_code_cause_and_next_step(kind: type[HoldfastError]) -> None:
    error = kind("the thing broke.", why="it was old.", do="Run 'holdfast fix'.", chunk="ab")
    done = CliRunner().invoke(command(error), [])
    assert done.exit_code == kind.exit_code
    assert "Error: the thing broke, because it was old.\n  Next: Run 'holdfast fix'.\n" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize("kind", KINDS)
def test_programs_get_the_same_as_one_json_line(kind: type[HoldfastError]) -> None:
    done = CliRunner().invoke(command(kind("broke", why="old", do="fix", chunk="ab")), ["--json"])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["message_type"] for line in lines] == ["status", "error"]
    told = lines[-1]
    assert (told["code"], told["exit_code"], told["message"], told["why"], told["do"], told["chunk"]) == (
        kind.code, kind.exit_code, "broke", "old", "fix", "ab",
    )  # fmt: skip
    assert done.exit_code == kind.exit_code and done.stderr == ""


def test_documented_exit_codes_are_the_errors_own() -> None:
    """docs/operations.md lists them all; the two must not drift apart."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    of_chaos = {VIOLATED, INCONCLUSIVE, HARNESS_FAILED}
    assert {kind.exit_code for kind in KINDS} | {0, 2, 130} | of_chaos == listed


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), click.Abort()], ids=["at work", "at a prompt"])
def test_ctrl_c_is_130(raised: BaseException) -> None:
    done = CliRunner().invoke(command(raised), [])
    assert done.exit_code == 130
    assert "Interrupted." in done.stderr
    told = json.loads(CliRunner().invoke(command(raised), ["--json"]).stdout.splitlines()[-1])
    assert (told["message_type"], told["code"], told["exit_code"]) == ("error", "interrupted", 130)


def test_what_the_system_refuses_is_no_trace() -> None:
    refused = CliRunner().invoke(command(PermissionError(errno.EACCES, "Permission denied", "/secret")), [])
    assert refused.exit_code == 1
    assert "/secret" in refused.stderr and "Permission denied" in refused.stderr
    full = CliRunner().invoke(command(OSError(errno.ENOSPC, "No space left on device", "/disk")), [])
    assert full.exit_code == NoRoom.exit_code == 22


def test_an_error_of_the_program_itself_is_not_hidden() -> None:
    done = CliRunner().invoke(command(ZeroDivisionError()), [])
    assert isinstance(done.exception, ZeroDivisionError)


def test_people_and_programs_read_different_things() -> None:
    people = CliRunner().invoke(command(), ["--target-size", "2KiB"])
    assert (people.stdout, people.stderr) == ("size 2048\n", "a note\n")
    programs = CliRunner().invoke(command(), ["--target-size", "2k", "--json"])
    assert [json.loads(line)["message_type"] for line in programs.stdout.splitlines()] == [
        "status",
        "summary",
    ]
    assert programs.stderr == ""
    quiet = CliRunner().invoke(command(), ["--quiet"])
    assert (quiet.stdout, quiet.stderr) == ("size 0\n", "")


def test_every_option_has_its_environment_variable() -> None:
    done = CliRunner().invoke(command(), [], env={"HOLDFAST_TARGET_SIZE": "3M", "HOLDFAST_JSON": "1"})
    assert json.loads(done.stdout.splitlines()[-1])["size"] == 3 * 1024**2
    assert "HOLDFAST_TARGET_SIZE" in CliRunner().invoke(command(), ["--help"]).stdout


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("500M", 500 * 1024**2), ("2GiB", 2 * 1024**3), ("7 kb", 7 * 1024)]
)
def test_numbers_of_bytes_have_units(text: str, count: int) -> None:
    assert BYTES.convert(text, None, None) == count


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "3X", "1e3", "ten"])
def test_what_is_no_number_of_bytes_is_a_usage_error(text: str) -> None:
    done = CliRunner().invoke(command(), ["--target-size", text])
    assert done.exit_code == 2


def test_numbers_read_well() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1536, 3 * 1024**5)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3072.0 TiB",
    ]
    assert [human_count(n, "file") for n in (0, 1, 1234)] == ["0 files", "1 file", "1,234 files"]
    assert human_count(2, "entry", "entries") == "2 entries"


def test_progress_is_only_for_somebody_watching() -> None:
    assert not Output().for_person, "stderr is no terminal here"


@pytest.mark.parametrize(("transfers", "loop"), [(True, "uvloop"), (False, "asyncio")])
def test_what_transfers_runs_on_uvloop_and_an_error_comes_through(transfers: bool, loop: str) -> None:
    async def loop_name() -> str:
        import asyncio

        return type(asyncio.get_running_loop()).__module__

    async def fails() -> None:
        raise TooFewShards("gone")

    assert run(loop_name, transfers=transfers).startswith(loop)
    with pytest.raises(TooFewShards):
        run(fails, transfers=transfers)


def test_control_characters_of_others_do_not_reach_the_terminal() -> None:
    evil = "gone\x1b[2J\x1b]0;owned\x07 \u202eabc \udcff"
    done = CliRunner().invoke(command(HoldfastError(evil, why=evil, do=evil)), [])
    assert done.exit_code == 1
    assert not set(done.stderr) & set("\x1b\x07\u202e\udcff") and "\\x1b[2J" in done.stderr

    @click.command()
    def told() -> None:
        Output().say(f"{evil}\n\tindented")
        Output().note(evil)

    done = CliRunner().invoke(told)
    assert done.exit_code == 0
    assert not set(done.output) & set("\x1b\x07\u202e\udcff") and "\n\tindented" in done.output
