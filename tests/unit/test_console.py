"""The console script: one table, nothing imported before it is needed, near misses named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from holdfast.client.console import _COMMANDS, main
from holdfast.protocol.program import program_version


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_of_the_table_is_there_and_helps(name: str) -> None:
    module, _, attribute = _COMMANDS[name][0].partition(":")
    assert isinstance(getattr(import_module(module), attribute), click.Command)
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0 and done.stdout.startswith("Usage: ")


def test_the_help_lists_every_command_in_80_columns() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert all(f"  {name} " in done.stdout for name in _COMMANDS)
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("typed", "meant"), [("bakcup", "backup"), ("snapshot", "snapshots"), ("verson", "version")]
)
def test_a_near_miss_is_named(typed: str, meant: str) -> None:
    done = CliRunner().invoke(main, [typed])
    assert done.exit_code == 2 and f"Did you mean '{meant}'?" in done.stderr


def test_nonsense_is_a_usage_error() -> None:
    done = CliRunner().invoke(main, ["qqqqqq"])
    assert done.exit_code == 2 and "Did you mean" not in done.stderr


def test_every_own_option_of_a_client_verb_has_an_environment_variable() -> None:
    for name, (place, _) in _COMMANDS.items():
        if not place.startswith("holdfast.client."):
            continue
        made = main.get_command(click.Context(main), name)  # type: ignore[attr-defined]
        assert made is not None
        for parameter in made.params:
            if isinstance(parameter, click.Option):
                assert str(parameter.envvar).startswith("HOLDFAST_"), f"{name} {parameter.opts}"


def test_it_runs_as_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.client.console", "version"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "erasure kernel:" in done.stdout


def test_the_version_is_the_installed_one() -> None:
    """Read off a folder's name; what the library makes of the whole installation must agree."""
    assert program_version() == version("holdfast")


@pytest.mark.parametrize(("words", "code"), [(["version", "--json"], 0), (["qqqqqq"], 2)])
def test_its_process_ends_with_everything_said_and_the_right_code(words: list[str], code: int) -> None:
    """The interpreter is not taken apart at the end; nothing that was said may stay in a buffer for that."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "holdfast.client.console", *words],
        capture_output=True, text=True, timeout=60, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )  # fmt: skip
    assert done.returncode == code
    assert json.loads(done.stdout)["message_type"] == "summary" if code == 0 else "Usage:" in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_who_does_not_listen_changes_nothing_about_the_code(closed: str) -> None:
    """Timers and daemons may start commands with closed outputs: a backup that went well must say so."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -P -m holdfast.client.console --version {closed}', sys.executable],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("holdfast.cluster.surveying:survey", "admin fsck --coordinator-dir . --node-dir ."),
        ("holdfast.cluster.benchmark.command:_run", "bench --quick"),
        ("asyncio:Runner", "status"),
    ],
)
def test_garbage_is_looked_for_while_a_command_works(place: str, words: str, tmp_path: Path) -> None:
    """It is not while everything is being loaded; one that forgot to begin again would grow for hours."""
    module, _, name = place.partition(":")
    code = (
        f"import gc, sys, {module} as module, holdfast.client.console as console\n"
        "def working(*_, **__):\n    print(gc.isenabled())\n    raise SystemExit(0)\n"
        f"module.{name} = working\n"
        f"sys.argv = ['holdfast', *{words.split()!r}]\n"
        "console.entry()\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        env=os.environ | {"HOLDFAST_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == "True\n", done.stderr


def test_whoever_still_works_at_the_end_is_waited_for() -> None:
    code = (
        "import threading, sys\n"
        "import holdfast.client.console as console\n"
        "def work():\n    threading.main_thread().join()\n    print('done')\n"
        "threading.Thread(target=work).start()\n"
        "sys.argv = ['holdfast', '--version']\n"
        "console.entry()\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"


def test_the_package_gives_both_clients_without_importing_them_early() -> None:
    code = (
        "import sys, holdfast.client as c\n"
        "assert 'holdfast.client.sdk' not in sys.modules\n"
        "from holdfast.client import AsyncClient, Client\n"
        "assert AsyncClient.__name__ == 'AsyncClient' and Client.__name__ == 'Client'\n"
        "try:\n    c.Nothing\nexcept AttributeError:\n    pass\nelse:\n    raise SystemExit('no error')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def _variables(command: click.Command) -> set[str]:
    if isinstance(command, click.Group):
        inside = [
            command.get_command(click.Context(command), n)
            for n in command.list_commands(click.Context(command))
        ]
        return set().union(*(_variables(made) for made in inside if made is not None))
    found = (p.envvar for p in command.params if isinstance(p, click.Option) and p.envvar)
    return {variable for value in found for variable in ([value] if isinstance(value, str) else value)}


def test_every_environment_variable_is_documented_and_every_documented_one_exists() -> None:
    """docs/operations.md lists them; options and page must not drift apart."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    listed = set(re.findall(r"^\| `(HOLDFAST_[A-Z_]+)` \|", text, re.MULTILINE))
    without_option = {f"HOLDFAST_{name}" for name in ("HOME", "INVITE", "ISAL", "CALL_FROM", "PORTS")}
    assert _variables(main) == listed - without_option


def every_command(command: click.Command, name: str = "holdfast") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    for part in command.list_commands(click.Context(command)):
        found = command.get_command(click.Context(command), part)
        assert found is not None
        yield from every_command(found, f"{name} {part}")


def test_every_command_speaks_json_but_those_that_serve() -> None:
    silent = {name for name, command in every_command(main) if not has_option(command, "--json")}
    assert silent == {"holdfast coordinator run", "holdfast node run"}, "they have --log-json"


def test_every_option_says_what_it_is_for() -> None:
    silent = [
        f"{name} {parameter.opts[-1]}"
        for name, command in every_command(main)
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert not silent, silent


def has_option(command: click.Command, name: str) -> bool:
    return any(name in parameter.opts for parameter in command.params)


def test_version_is_an_option_too() -> None:
    done = CliRunner().invoke(main, ["--version"], prog_name="holdfast")
    assert (done.exit_code, done.stdout.split()[0]) == (0, "holdfast")


@pytest.mark.parametrize("command", [["init", "--invite-file"], ["recover", "--recovery-file"]])
def test_a_file_that_is_no_text_is_refused_in_words(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    (tmp_path / "file").write_bytes(b"\x84\xff\x00")
    done = CliRunner().invoke(main, [*command, str(tmp_path / "file")], prog_name="holdfast")
    assert done.exit_code == 1
    assert "because it is not text" in done.stderr


@pytest.mark.parametrize("tag", ["", "a,b", "x" * 5000, "bytes\udcff", "two\nlines", "\x1b[31mred"])
def test_what_is_no_tag_is_refused_before_anything_is_read(
    tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(main, ["backup", str(tmp_path), "--tag", tag], prog_name="holdfast")
    assert done.exit_code == 1
    assert "is not a tag" in done.stderr and len(done.stderr) < 400


def test_the_environment_of_a_cluster_that_was_never_made_says_how_to_make_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["cluster", "env", "--dir", str(tmp_path)], prog_name="holdfast")
    assert done.exit_code == 1
    assert "holdfast cluster up" in done.stderr


def test_a_second_init_in_one_folder_names_the_account_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.client.home import Home, KnownAccount
    from holdfast.protocol.address import Address
    from holdfast.protocol.ids import AccountId, DeviceId

    home = Home(tmp_path)
    address = Address.parse("http://127.0.0.1:1#" + "ab" * 32)
    home.save_account(KnownAccount(address, AccountId(bytes(32)), DeviceId(bytes(16)), "laptop"))
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    monkeypatch.delenv("HOLDFAST_INVITE", raising=False)
    done = CliRunner().invoke(main, ["init"], prog_name="holdfast")
    assert done.exit_code == 1 and "is set up for account" in done.stderr


def test_a_source_that_cannot_be_read_is_no_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is skipped and named like any other, and what else was asked for is backed up."""
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    done = CliRunner().invoke(main, ["backup", str(tmp_path)], prog_name="holdfast")
    assert done.exit_code == 10, "it goes on to look for the account"
