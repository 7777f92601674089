"""The console script: one lazy table of every command of every part.

``holdfast --help`` imports click and nothing else; a command's module is
imported when the command runs. This file is the house test's only exception to
"client imports no other part": it names them as strings.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from importlib import import_module
from typing import NoReturn

import click

__all__ = ["entry", "main"]

_COMMANDS = {
    "init": ("holdfast.client.command_account:init", "Create an account and print its recovery code."),
    "recover": ("holdfast.client.command_account:recover", "Set this device up from the recovery code."),
    "backup": ("holdfast.client.command:backup", "Back up files and folders."),
    "snapshots": ("holdfast.client.command:snapshots", "List the account's snapshots."),
    "ls": ("holdfast.client.command:ls", "List what a snapshot holds."),
    "restore": ("holdfast.client.command:restore", "Put files of a snapshot back."),
    "check": ("holdfast.client.command:check", "Verify that a snapshot can be restored."),
    "forget": ("holdfast.client.command_retention:forget", "Take snapshots off the list, by rules."),
    "prune": ("holdfast.client.command_retention:prune", "Move what no snapshot needs to the trash."),
    "undelete": ("holdfast.client.command_retention:undelete", "Bring a forgotten snapshot back."),
    "status": (
        "holdfast.client.command_account:status",
        "Show the account and whether its backups are safe.",
    ),
    "version": ("holdfast.client.command_account:version", "Show versions and the erasure kernel in use."),
    "coordinator": ("holdfast.coordinator.command:coordinator", "Run a coordinator; back it up, rebuild it."),
    "node": ("holdfast.node.command:node", "Run a storage node."),
    "admin": ("holdfast.coordinator.command:admin", "Operate a cluster: status, nodes, audits, invites."),
    "cluster": ("holdfast.cluster.command:cluster", "Run a whole cluster on this machine."),
    "bench": ("holdfast.cluster.benchmark.command:bench", "Measure Holdfast, its peers and this machine."),
    "demo": ("holdfast.cluster.command:demo", "Show the main job on a cluster of its own."),
    "chaos": ("holdfast.cluster.chaos.command:chaos", "Break a cluster on purpose: is anything lost?"),
}
# Verbs of a group that live in another part, which the group's own part may not import.
_JOINING = {"admin": ("holdfast.cluster.fsck:fsck",)}


def _loaded(where: str) -> click.Command:
    from holdfast.protocol.optional_imports import passed_over

    with passed_over("typing_extensions"):  # Python's own typing does all of it
        import msgspec  # noqa: F401
    with passed_over("ssl"):  # addresses here are http://; asyncio does without it where there is none
        import asyncio  # noqa: F401
    module, _, attribute = where.partition(":")
    command: click.Command = getattr(import_module(module), attribute)
    return command


class _Lazy(click.Group):
    """Knows every command's one line without importing it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = _loaded(_COMMANDS[cmd_name][0])
        if isinstance(command, click.Group):
            for joining in _JOINING.get(cmd_name, ()):
                command.add_command(_loaded(joining))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, 1)
            if not near or args[0] in _COMMANDS:
                raise
            message = f"There is no command '{args[0]}'. Did you mean '{near[0]}'?"
            raise click.UsageError(message, ctx) from error


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from holdfast.protocol.program import program_version

        click.echo(f"holdfast {program_version()}")
        ctx.exit()


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version; 'holdfast version' says more.",
)
def main() -> None:
    """Your own cloud for end-to-end encrypted backup.

    Servers that cannot read a byte, and may fail. Start with 'holdfast demo', or with
    'holdfast cluster up' for a cluster of your own on this machine.
    """


def entry() -> NoReturn:
    """The whole process of the console script.

    Garbage is not looked for while everything is being loaded: nothing of that is any (terminal.run turns
    the collector on). At the end what a process promises is done, but the interpreter is not taken apart:
    that takes longer than a round trip to the coordinator, and the kernel does it at once.
    """
    gc.disable()
    try:
        main(prog_name="holdfast")
    except SystemExit as leaving:
        if threading.active_count() > 1 or not isinstance(leaving.code, int | None):
            raise  # somebody is still at work, or there is something to say: as usual
        atexit._run_exitfuncs()
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:  # whoever started it may have closed one
                    stream.flush()
        except (OSError, ValueError):
            raise leaving from None  # Python has its own way of telling that
        os._exit(leaving.code or 0)
    raise AssertionError("click ends a command with SystemExit")


if __name__ == "__main__":
    entry()
