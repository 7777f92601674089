"""``holdfast coordinator backup``, ``restore``, ``rebuild``: losing a coordinator loses nothing."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.protocol.terminal import (
    Output,
    configure_logging,
    guarded,
    human_count,
    json_option,
    option,
    run,
)

__all__ = ["backup", "rebuild", "restore"]

_folder_option = option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    envvar="HOLDFAST_COORDINATOR_DIR",
    help="The coordinator's own folder.",
)
_kit_option = option(
    "--kit",
    type=click.Path(path_type=Path),
    required=True,
    help="The cluster kit, which was written on the first start and kept offline.",
)


@click.command("backup")
@_folder_option
@option(
    "--output",
    "target",
    type=click.Path(path_type=Path),
    required=True,
    help="The file to write (0600); it must not exist yet.",
)
@json_option
@guarded
def backup(folder: Path, target: Path, as_json: bool) -> None:
    """Copy the coordinator's folder into one file, while it runs."""
    from holdfast.coordinator.backing_up import back_up
    from holdfast.protocol.clock import SYSTEM

    output = Output(as_json)
    made = back_up(folder, target, SYSTEM)
    output.say(
        f"Written to {made.path} ({made.size_bytes:,} bytes). Keep it like a key, and off this machine."
    )
    output.summary(
        file=str(made.path), cluster=made.cluster.hex(), term=made.term, size_bytes=made.size_bytes
    )


@click.command("restore")
@option(
    "--from",
    "source_file",
    type=click.Path(path_type=Path),
    required=True,
    help="A file that 'coordinator backup' wrote.",
)
@_folder_option
@_kit_option
@json_option
@guarded
def restore(source_file: Path, folder: Path, kit: Path, as_json: bool) -> None:
    """Make a coordinator's folder from a backup and the cluster kit."""
    from holdfast.coordinator import backing_up
    from holdfast.protocol.clock import SYSTEM

    configure_logging(False, "error")
    output = Output(as_json)
    made = run(lambda: backing_up.restore(source_file, folder, kit, SYSTEM))
    output.say(f"Restored as of {made.taken}; term {made.term} of cluster {made.cluster.short} begins.")
    output.say(
        "Start it with 'holdfast coordinator run'. What happened since that backup is taken over from the "
        "nodes; nothing is swept before all was compared. Unused invites and tokens are void."
    )
    output.summary(cluster=made.cluster.hex(), term=made.term, taken=made.taken, nodes=made.nodes)


@click.command("rebuild")
@_kit_option
@_folder_option
@option(
    "--node",
    "nodes",
    multiple=True,
    metavar="URL",
    envvar="HOLDFAST_NODE_URLS",
    help="A node's URL; may be given several times. Nodes that it knows are found by themselves.",
)
@option(
    "--nodes-file",
    type=click.Path(path_type=Path),
    help="A file with a node's URL on each line.",
)
@json_option
@guarded
def rebuild(kit: Path, folder: Path, nodes: tuple[str, ...], nodes_file: Path | None, as_json: bool) -> None:
    """Make a lost coordinator again, from the cluster kit and the nodes."""
    from holdfast.coordinator import rebuilding
    from holdfast.protocol.clock import SYSTEM
    from holdfast.protocol.errors import BadRequest

    configure_logging(False, "error")
    output = Output(as_json)
    urls = list(nodes)
    if nodes_file is not None:
        try:
            urls += nodes_file.read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(f"cannot read {nodes_file}", why=str(error)) from error
    made = run(lambda: rebuilding.rebuild(kit, folder, urls, SYSTEM, output.note))
    output.say(
        f"Rebuilt from {human_count(made.nodes, 'node')}: {human_count(made.accounts, 'account')}, "
        f"{human_count(made.heads, 'head')}, {human_count(made.chunks, 'chunk')}. Term {made.term} begins."
    )
    if made.silent:
        names = ", ".join(node.short for node in made.silent)
        output.say(f"Silent so far: {names}. What they hold counts as missing until they are back.")
    if made.nameless:
        output.say(
            f"{made.nameless:,} stripes belong to accounts that no node knows; they stay where they are."
        )
    if made.unplaced:
        output.say(
            f"{human_count(made.unplaced, 'shard')} cannot be read with these nodes: a node is missing that "
            "they do not know of. Rebuild into another folder with --node for each of the nodes; or let a "
            "new node join, and what lacks is made anew. The shards stay where they are."
        )
    output.say("Start it with 'holdfast coordinator run'. Unused invites and tokens are void.")
    output.summary(
        term=made.term,
        nodes=made.nodes,
        silent=[node.hex() for node in made.silent],
        groups=made.groups,
        accounts=made.accounts,
        heads=made.heads,
        chunks=made.chunks,
        nameless=made.nameless,
        unplaced=made.unplaced,
    )
