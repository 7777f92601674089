"""``holdfast admin audit`` and ``holdfast admin trust``."""

from __future__ import annotations

from pathlib import Path

import click

from holdfast.coordinator.command_operations import operator_options
from holdfast.protocol.terminal import Output, guarded, json_option, option, run

__all__ = ["audit", "trust"]


@click.command("audit")
@operator_options
@option(
    "--chunks",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="How many chunks to draw; 0: only show what is known.",
)
@json_option
@guarded
def audit(operator_key: Path, coordinator: str | None, chunks: int, as_json: bool) -> None:
    """Challenge nodes now: do they have what they vouched for?

    Chunks are drawn at random, and every node that holds a shard of one must show bytes of it that nobody
    can foresee. A node that shows others is named and not trusted any more; its shards are rebuilt elsewhere.
    """
    from holdfast.coordinator.asking import audit as ask_audit
    from holdfast.coordinator.show_audit import show_audits

    show_audits(Output(as_json), run(lambda: ask_audit(operator_key, coordinator, chunks=chunks)))


@click.command("trust")
@click.argument("node")
@operator_options
@json_option
@guarded
def trust(node: str, operator_key: Path, coordinator: str | None, as_json: bool) -> None:
    """Trust NODE again, which was found lying. What it still holds is proven anew."""
    from holdfast.coordinator.asking import set_standing
    from holdfast.coordinator.show import show_moving

    told = run(lambda: set_standing(operator_key, coordinator, node=node, standing="trusted"))
    show_moving(Output(as_json), told, f"Node {node} is trusted again; what it holds is being proven", False)
