"""``holdfast admin compact``."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.coordinator.command_operations import operator_options
from holdfast.protocol.terminal import Output, guarded, json_option, option, run

__all__ = ["compact"]


@click.command("compact")
@click.argument("node")
@operator_options
@option("--wait", is_flag=True, help="Return when the room is given back.")
@json_option
@guarded
def compact(node: str, operator_key: Path, coordinator: str | None, wait: bool, as_json: bool) -> None:
    """Have NODE give the free room in its store back to its disk.

    NODE is the beginning of its id. The store is copied without what is free in it, beside everything else;
    the disk needs room for the copy.
    """
    from holdfast.coordinator.asking import compact_node
    from holdfast.coordinator.show import show_compacted

    told = run(lambda: compact_node(operator_key, coordinator, node=node, wait=wait))
    show_compacted(Output(as_json), node, told)
