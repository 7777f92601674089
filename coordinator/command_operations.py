"""``holdfast admin``: nodes come and go, slots move, shards are brought back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from holdfast.protocol.terminal import Output, guarded, json_option, option, run

__all__ = ["drain", "nodes", "operator_options", "rebalance", "remove", "repair", "undrain"]


def operator_options(function: Any) -> Any:
    """``--operator-key`` and ``--coordinator``."""
    function = option(
        "--operator-key", type=click.Path(path_type=Path), required=True, help="The operator key file."
    )(function)
    return option("--coordinator", metavar="URL", help="Default: the address in the operator key file.")(
        function
    )


_dry_run = option("--dry-run", is_flag=True, help="Only tell what would move, and for how long.")


@click.command("nodes")
@operator_options
@json_option
@guarded
def nodes(operator_key: Path, coordinator: str | None, as_json: bool) -> None:
    """List every node: id, state, address, how full, slots."""
    from holdfast.coordinator.asking import cluster_status
    from holdfast.coordinator.show import show_nodes

    show_nodes(Output(as_json), run(lambda: cluster_status(operator_key, coordinator)))


class _StatusFirst(click.Group):
    """A group that means its "status" when it is given no command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click; ``repair --json`` is ``repair status --json``."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["status", *args]
        return super().parse_args(ctx, args)


@click.group("repair", cls=_StatusFirst)
def repair() -> None:
    """Bringing shards back; without a command: its status."""


@repair.command("status")
@operator_options
@json_option
@guarded
def repair_status(operator_key: Path, coordinator: str | None, as_json: bool) -> None:
    """Show what is being brought back, and what waits for a node."""
    from holdfast.coordinator.asking import cluster_status
    from holdfast.coordinator.show import show_repair

    show_repair(Output(as_json), run(lambda: cluster_status(operator_key, coordinator)))


def _set_standing(
    operator_key: Path,
    coordinator: str | None,
    node: str,
    standing: Literal["joined", "draining", "removed"],
    dry_run: bool,
    as_json: bool,
    what: str,
) -> None:
    from holdfast.coordinator.asking import set_standing
    from holdfast.coordinator.show import show_moving

    told = run(lambda: set_standing(operator_key, coordinator, node=node, standing=standing, dry_run=dry_run))
    if standing == "draining" and not told.slots and not told.stuck:
        what += ": it holds nothing"
    show_moving(Output(as_json), told, what, dry_run)


@click.command("drain")
@click.argument("node")
@operator_options
@_dry_run
@json_option
@guarded
def drain(node: str, operator_key: Path, coordinator: str | None, dry_run: bool, as_json: bool) -> None:
    """Empty NODE: its slots go to other nodes.

    NODE is the beginning of its id. Nothing becomes less safe meanwhile: it goes on serving until others
    have its shards.
    """
    _set_standing(operator_key, coordinator, node, "draining", dry_run, as_json, f"Emptying node {node}")


@click.command("undrain")
@click.argument("node")
@operator_options
@json_option
@guarded
def undrain(node: str, operator_key: Path, coordinator: str | None, as_json: bool) -> None:
    """Keep NODE after all. Slots that have been given away stay where they are."""
    _set_standing(operator_key, coordinator, node, "joined", False, as_json, f"Keeping node {node}")


@click.command("remove")
@click.argument("node")
@operator_options
@json_option
@guarded
def remove(node: str, operator_key: Path, coordinator: str | None, as_json: bool) -> None:
    """Let NODE go for good, once it holds no slot any more."""
    _set_standing(operator_key, coordinator, node, "removed", False, as_json, f"Node {node} was removed")


@click.command("rebalance")
@operator_options
@_dry_run
@json_option
@guarded
def rebalance(operator_key: Path, coordinator: str | None, dry_run: bool, as_json: bool) -> None:
    """Move slots from the fullest to the emptiest nodes.

    At most 16 slots at once; run it again for more.
    """
    from holdfast.coordinator.asking import rebalance as ask_rebalance
    from holdfast.coordinator.show import show_moving

    told = run(lambda: ask_rebalance(operator_key, coordinator, dry_run=dry_run))
    what = "Evening out" if told.slots else "Nodes are evenly filled already; nothing has to move"
    show_moving(Output(as_json), told, what, dry_run)
