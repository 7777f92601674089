"""The verbs of what is kept: forget, prune, undelete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from holdfast.client.command import coordinator_option, open_client
from holdfast.protocol.terminal import Output, guarded, json_option, option, run

if TYPE_CHECKING:
    from holdfast.client.retention import RetentionPolicy

__all__ = ["forget", "prune", "undelete"]

_PERIODS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_HELP = {
    "last": "Keep the N newest snapshots.",
    "hourly": "Keep the newest of each of the N newest hours.",
    "daily": "The same for days.",
    "weekly": "The same for ISO weeks.",
    "monthly": "The same for months.",
    "yearly": "The same for years.",
}


class _Count(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number of snapshots, or "unlimited"."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if str(value).strip().lower() in ("unlimited", "all"):
            return -1
        if not str(value).strip().isdecimal():
            self.fail(f"{value!r} is neither a number nor 'unlimited'.", param, ctx)
        return int(value)


def _policy_options(function: Any) -> Any:
    function = option(
        "--keep-tag",
        "keep_tags",
        multiple=True,
        metavar="TAG[,TAG]",
        help="Keep what has all of these tags; may be repeated.",
    )(function)
    function = option(
        "--keep-within",
        metavar="DURATION",
        help="Keep what is younger than this, seen from the newest snapshot: 30d, 1y5m7d2h.",
    )(function)
    for name in reversed(_PERIODS):
        function = option(f"--keep-{name}", type=_Count(), default=0, metavar="N", help=_HELP[name])(function)
    return function


def _policy(rules: dict[str, Any]) -> RetentionPolicy | None:
    """The policy that the options make; None when none is given."""
    from holdfast.client.retention import Duration, RetentionPolicy

    within = rules.pop("keep_within")
    tags = tuple(
        tuple(filter(None, (tag.strip() for tag in told.split(",")))) for told in rules.pop("keep_tags")
    )
    policy = RetentionPolicy(
        **{name: rules.pop(f"keep_{name}") for name in _PERIODS},
        within=Duration.parse(within) if within else None,
        tags=tuple(filter(None, tags)),
    )
    return None if policy.is_empty else policy


@click.command()
@click.argument("snapshots", nargs=-1, metavar="[SNAP]...")
@_policy_options
@option("--device", help="Look at snapshots of this device only (name, or beginning of its id).")
@option("--path", "of_path", envvar="HOLDFAST_PATH", help="Look at snapshots of this path only.")
@option(
    "--tag",
    "tags",
    multiple=True,
    envvar="HOLDFAST_TAG",
    help="Look at snapshots with this tag only; may be repeated.",
)
@option(
    "--group-by",
    default="device,paths",
    show_default=True,
    metavar="LIST",
    help="Apply the rules to each device, or each set of paths, by itself; '' for neither.",
)
@option("--allow-remove-all", is_flag=True, help="Let the rules leave nothing of a group.")
@option("--prune", "and_prune", is_flag=True, help="Prune afterwards.")
@option("--dry-run", is_flag=True, help="Say what would be forgotten; change nothing.")
@coordinator_option
@json_option
@guarded
def forget(
    snapshots: tuple[str, ...],
    device: str | None,
    of_path: str | None,
    tags: tuple[str, ...],
    group_by: str,
    allow_remove_all: bool,
    and_prune: bool,
    dry_run: bool,
    coordinator: str | None,
    as_json: bool,
    **rules: Any,
) -> None:
    """Take snapshots off the list: those named, or all that no rule keeps.

    A snapshot stays when any of the --keep rules says so; N may be 'unlimited'. What was
    forgotten stays stored until 'holdfast prune', and comes back with 'holdfast undelete'
    until the trash is emptied, a week later by default.
    """
    from holdfast.client.show_retention import forget_fields, prune_fields, show_forget, show_prune
    from holdfast.protocol.errors import BadRequest

    output = Output(as_json)
    policy = _policy(rules)
    if snapshots and policy is not None:
        raise click.UsageError("Give either snapshots or --keep rules.")
    if not snapshots and policy is None:
        raise BadRequest(
            "neither a snapshot nor a rule is given, so there is nothing to forget",
            do="Give ids, or rules like --keep-daily 7 --keep-monthly 12; try it with --dry-run.",
        )
    groups = [name.strip() for name in group_by.split(",") if name.strip()]
    if wrong := set(groups) - {"device", "paths"}:
        raise click.UsageError(f"Snapshots are grouped by device, paths, or both, not by {min(wrong)}.")

    async def work() -> tuple[Any, Any]:
        async with open_client(coordinator) as client:
            report = await client.forget(
                *snapshots,
                policy=policy,
                device=device,
                path=of_path,
                tags=tags,
                group_by=groups,  # type: ignore[arg-type]
                allow_remove_all=allow_remove_all,
                dry_run=dry_run,
            )
            show_forget(output, report)
            return report, await client.prune() if and_prune and not dry_run else None

    report, pruned = run(work)
    if pruned is not None:
        show_prune(output, pruned)
    elif and_prune:
        output.note("With --dry-run nothing is forgotten, so there is nothing to prune by.")
    output.summary(**forget_fields(report), **({"prune": prune_fields(pruned)} if pruned else {}))


@click.command()
@option("--dry-run", is_flag=True, help="Count what would go to the trash; change nothing.")
@coordinator_option
@json_option
@guarded
def prune(dry_run: bool, coordinator: str | None, as_json: bool) -> None:
    """Move everything that no snapshot needs to the trash.

    Reads the lists of files of all snapshots, and refuses when one cannot be read. The
    trash is emptied after a week (the operator may set another time); until then 'holdfast
    undelete' brings forgotten snapshots back. Backups may run meanwhile, on any device.
    """
    from holdfast.client.show_retention import prune_fields, show_prune

    output = Output(as_json)

    async def work() -> Any:
        async with open_client(coordinator) as client:
            return await client.prune(dry_run=dry_run)

    report = run(work)
    show_prune(output, report)
    output.summary(**prune_fields(report))


@click.command()
@click.argument("snapshot", metavar="[SNAP]", required=False)
@option("--list", "only_list", is_flag=True, help="Show what was forgotten and may come back.")
@coordinator_option
@json_option
@guarded
def undelete(snapshot: str | None, only_list: bool, coordinator: str | None, as_json: bool) -> None:
    """Bring a forgotten snapshot back.

    SNAP is the beginning of its id, or 'latest' for the one forgotten last. It works until the
    trash is emptied, a week after 'holdfast prune' by default.
    """
    from holdfast.client.show_retention import show_forgotten, show_undelete

    output = Output(as_json)
    if only_list == (snapshot is not None):
        raise click.UsageError("Give the snapshot to bring back, or --list.")

    async def work() -> Any:
        async with open_client(coordinator) as client:
            return await (client.forgotten() if snapshot is None else client.undelete(snapshot))

    found = run(work)
    if snapshot is None:
        show_forgotten(output, found)
    else:
        show_undelete(output, found)
