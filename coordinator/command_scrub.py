"""``holdfast admin scrub`` and ``holdfast admin quarantine``."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.coordinator.command_operations import operator_options
from holdfast.protocol.terminal import Output, guarded, json_option, option, run

__all__ = ["quarantine", "scrub"]


@click.command("scrub")
@click.argument("node")
@operator_options
@option("--wait", is_flag=True, help="Return when every shard was reread.")
@json_option
@guarded
def scrub(node: str, operator_key: Path, coordinator: str | None, wait: bool, as_json: bool) -> None:
    """Have NODE reread and verify all its shards now.

    NODE is the beginning of its id. Bad shards are kept aside on the node, and brought back from the others.
    """
    from holdfast.coordinator.asking import scrub_node
    from holdfast.coordinator.show import show_scrubbed

    told = run(lambda: scrub_node(operator_key, coordinator, node=node, wait=wait))
    show_scrubbed(Output(as_json), node, told)


@click.group()
def quarantine() -> None:
    """Damaged shards that nodes keep aside."""


@quarantine.command("list")
@operator_options
@option("--node", default="", metavar="NODE", help="Only this node's (the beginning of its id).")
@json_option
@guarded
def list_command(operator_key: Path, coordinator: str | None, node: str, as_json: bool) -> None:
    """List what nodes keep aside: when it was found, and what it was."""
    from holdfast.coordinator.asking import read_quarantine
    from holdfast.coordinator.show import show_quarantine

    show_quarantine(Output(as_json), run(lambda: read_quarantine(operator_key, coordinator, node=node)))
