"""``holdfast cluster``: a whole cluster on this machine; and ``holdfast demo``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.protocol.terminal import Output, guarded, human_count, json_option, option, run

if TYPE_CHECKING:
    from holdfast.cluster.local import LocalCluster

__all__ = ["cluster", "demo"]


def _folder(function: Any) -> Any:
    return option(
        "--dir", "folder", type=click.Path(path_type=Path), envvar="HOLDFAST_CLUSTER_DIR",
        help="The cluster's folder. Default: where the platform keeps state.",
    )(function)  # fmt: skip


def _cluster(folder: Path | None, **settings: Any) -> LocalCluster:
    from holdfast.cluster.local import LocalCluster, default_folder

    chosen = (folder or default_folder()).absolute()
    return LocalCluster(folder=chosen, keep=True, **settings)


@click.group()
def cluster() -> None:
    """Run a whole cluster on this machine: one coordinator and some nodes, as real processes."""


@cluster.command("up")
@option("--nodes", type=click.IntRange(1, 64), help="How many. Default: those that are there, or 6.")
@option("--profile", metavar="K+M", help="Redundancy. Default: by the number of nodes.")
@option("--zones", type=click.IntRange(1, 64), help="Spread the nodes over so many zones.")
@_folder
@json_option
@guarded
def up(nodes: int | None, profile: str | None, zones: int | None, folder: Path | None, as_json: bool) -> None:
    """Start the cluster, or what of it does not run.

    Returns when it is healthy.
    """
    output = Output(as_json)
    made = _cluster(folder, nodes=nodes, profile=profile, zones=zones)
    existed = made.exists
    made.up()
    members = made.members()
    at = _dir_option(folder)
    output.say(
        f"A cluster of {human_count(made.node_count, 'node')} {'is' if existed else 'was made and is'} "
        f"running in {made.folder}."
    )
    for member in members:
        output.say(f"  {member.name:<12} {member.url:<28} pid {member.pid}")
    output.say()
    output.say("To use it from this shell:")
    output.say(f'  eval "$(holdfast cluster env{at})"')
    output.say("  holdfast init")
    output.say("  holdfast backup PATH")
    output.say()
    output.say(
        f"Its cluster kit is {made.folder / 'coordinator' / 'cluster-kit.pem'}; a real one belongs offline."
    )
    output.summary(
        folder=str(made.folder),
        existed=existed,
        coordinator=made.address,
        nodes=[{"name": m.name, "url": m.url, "node": m.node, "pid": m.pid} for m in members[1:]],
    )


def _dir_option(folder: Path | None) -> str:
    return f" --dir {shlex.quote(str(folder))}" if folder else ""


@cluster.command("status")
@_folder
@json_option
@guarded
def status(folder: Path | None, as_json: bool) -> None:
    """Show whether everything is safe, every process, and every node."""
    from holdfast.coordinator.show import show_status
    from holdfast.protocol.errors import Unreachable

    output = Output(as_json)
    made = _cluster(folder)
    members = made.members()
    for member in members:
        output.status(name=member.name, state=member.state, url=member.url, node=member.node, pid=member.pid)
    away = [member for member in members if member.state != "running"]
    try:
        told = made.status()
    except Unreachable:
        output.say("The coordinator does not answer: backups and restores wait for it.")
        for member in members:
            output.say(f"  {member.name:<12} {member.state}")
        raise
    show_status(output, told)
    if away:
        output.say()
    for member in away:
        number = member.name.removeprefix("node-")
        verb = "resume" if member.state == "paused" else "start"
        output.say(f"{member.name} is {member.state}: holdfast cluster {verb} {number}{_dir_option(folder)}")


@cluster.command("env")
@_folder
@json_option
@guarded
def env(folder: Path | None, as_json: bool) -> None:
    """Print the environment a client needs, with a fresh invite."""
    output = Output(as_json)
    values = _cluster(folder).env()
    for name, value in values.items():
        output.say(f"export {name}={shlex.quote(value)}")
    output.summary(coordinator=values["HOLDFAST_COORDINATOR"], invite=values["HOLDFAST_INVITE"])


def _verb(name: str, done: str, words: str) -> None:
    @cluster.command(name, help=words)
    @click.argument("targets", nargs=-1, required=True, metavar="NODE...")
    @_folder
    @json_option
    @guarded
    def command(targets: tuple[str, ...], folder: Path | None, as_json: bool) -> None:
        made = _cluster(folder)
        getattr(made, name)(*targets)
        output = Output(as_json)
        output.say(f"{done}: {', '.join(made.member(target).name for target in targets)}")
        output.summary(targets=list(targets), verb=name)


_verb("kill", "Killed", "End members at once (SIGKILL). NODE is 1..n or 'coordinator'.")
_verb("stop", "Stopped", "End members cleanly (SIGTERM). NODE is 1..n or 'coordinator'.")
_verb("start", "Started", "Start members again. NODE is 1..n or 'coordinator'.")
_verb("pause", "Paused", "Freeze members (SIGSTOP). NODE is 1..n or 'coordinator'.")
_verb("resume", "Resumed", "Let frozen members go on (SIGCONT). NODE is 1..n or 'coordinator'.")


@cluster.command("logs")
@click.argument("target", default="coordinator", metavar="[NODE]")
@_folder
@json_option
@guarded
def logs(target: str, folder: Path | None, as_json: bool) -> None:
    """Print the end of a member's log. NODE is 1..n or 'coordinator'."""
    output = Output(as_json)
    made = _cluster(folder)
    told = made.logs(target)
    output.say(told)
    for line in told.splitlines():
        output.status(line=line)
    output.summary(name=made.member(target).name)


@cluster.command("down")
@click.option("--delete", is_flag=True, help="Delete the folder too, with all data in it.")
@_folder
@json_option
@guarded
def down(delete: bool, folder: Path | None, as_json: bool) -> None:
    """Stop the whole cluster."""
    output = Output(as_json)
    made = _cluster(folder)
    if not made.exists and not delete:
        output.say(f"There is no cluster in {made.folder}.")
    else:
        gone = made.down(delete=delete)
        if delete and not gone:
            output.note(f"{made.folder} holds something that is not the cluster's; that was left alone")
        output.say(f"Stopped the cluster in {made.folder}{' and deleted it' if delete else ''}.")
    output.summary(folder=str(made.folder), deleted=delete)


@click.command()
@option(
    "--source",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder to back up. Default: Python's standard library.",
)
@option("--nodes", type=click.IntRange(3, 64), default=6, show_default=True, help="How many nodes.")
@option("--profile", metavar="K+M", help="Redundancy. Default: by the number of nodes (4+2 for six).")
@json_option
@guarded
def demo(source: Path | None, nodes: int, profile: str | None, as_json: bool) -> None:
    """Show the main job on a cluster of its own: back up, lose nodes, restore byte for byte."""
    from holdfast.cluster.demo.run import run_demo
    from holdfast.protocol.terminal import configure_logging

    configure_logging(False, "error")
    output = Output(as_json)
    raise SystemExit(run(lambda: run_demo(source, nodes, profile, output)))
