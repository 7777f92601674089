"""``holdfast node``: running a storage node."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.protocol.terminal import BYTES, configure_logging, guarded, option, run

__all__ = ["node"]


@click.group()
def node() -> None:
    """Run a storage node."""


@node.command("run")
@option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    envvar="HOLDFAST_NODE_DIR",
    help="The node's own folder: identity, key and store.",
)
@option("--coordinator", required=True, metavar="URL", help="The coordinator's address.")
@option(
    "--join-token-file",
    type=click.Path(path_type=Path),
    help="One-time token; needed on the first start only.",
)
@option(
    "--listen",
    metavar="HOST:PORT",
    envvar="HOLDFAST_NODE_LISTEN",
    help="Where to serve; chosen once and kept. Default: a free port on 127.0.0.1.",
)
@option("--advertise", metavar="URL", help="How others reach this node, where that differs.")
@option("--zone", default="", help="Failure domain: rack, room, datacentre.")
@option("--capacity", type=BYTES, help="Bytes to store at most. Default: what the disk has free.")
@option(
    "--scrub-days",
    type=float,
    default=14.0,
    show_default=True,
    help="Reread and verify every shard once in so many days.",
)
@option(
    "--replace-damaged-store",
    is_flag=True,
    help="If the store is damaged as a whole, keep it aside and be filled anew by the other nodes.",
)
@option(
    "--supervised/--unsupervised",
    "supervise",
    default=True,
    show_default=True,
    help="Restart the node when a bad disk kills it, and leave alone what killed it.",
)
@option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="How much to log.",
)
@option("--log-json", is_flag=True, help="Log JSON lines.")
@guarded
def run_command(
    folder: Path,
    coordinator: str,
    join_token_file: Path | None,
    listen: str | None,
    advertise: str | None,
    zone: str,
    capacity: int | None,
    scrub_days: float,
    replace_damaged_store: bool,
    supervise: bool,
    log_level: str,
    log_json: bool,
) -> None:
    """Serve shards until SIGTERM."""
    from holdfast.node.supervising import supervised
    from holdfast.protocol.clock import SYSTEM

    # Before anything heavy is imported: the process that is forked here stays as small as it is now.
    pid = supervised(folder, SYSTEM) if supervise else None
    configure_logging(log_json, log_level)
    from holdfast.node.running import NodeSettings, run_node
    from holdfast.protocol.address import Address
    from holdfast.protocol.program import program_version
    from holdfast.protocol.serving import ListenAddress

    settings = NodeSettings(
        folder=folder,
        coordinator=Address.parse(coordinator),
        token_file=join_token_file,
        listen=ListenAddress.parse(listen) if listen else None,
        advertise=advertise,
        zone=zone,
        capacity_bytes=capacity,
        program=program_version(),
        scrub_days=scrub_days,
        replace_damaged_store=replace_damaged_store,
        pid=pid,
    )
    run(lambda: run_node(settings, SYSTEM), transfers=True)
