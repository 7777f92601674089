"""``holdfast coordinator`` and ``holdfast admin``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.protocol.limits import TOKEN_LIFETIME_S_DEFAULT
from holdfast.protocol.terminal import (
    BYTES,
    Output,
    configure_logging,
    guarded,
    human_bytes,
    human_count,
    json_option,
    option,
    run,
)

if TYPE_CHECKING:
    from holdfast.coordinator.asking import MadeToken
    from holdfast.protocol.messages.admin import ClusterStatus

__all__ = ["admin", "coordinator", "show_status"]


@click.group()
def coordinator() -> None:
    """Run a coordinator."""


@coordinator.command("run")
@option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    envvar="HOLDFAST_COORDINATOR_DIR",
    help="The coordinator's own folder: keys and catalogue.",
)
@option(
    "--listen",
    metavar="HOST:PORT",
    envvar="HOLDFAST_COORDINATOR_LISTEN",
    help="Where to serve; chosen once and kept. Default: a free port on 127.0.0.1.",
)
@option("--profile", metavar="K+M", help="Redundancy. Default: by the number of nodes (4+2 from six on).")
@option("--heartbeat-ms", type=int, default=2000, show_default=True, help="How often nodes report.")
@option("--suspect-after-s", type=float, default=10.0, show_default=True)
@option("--down-after-s", type=float, default=30.0, show_default=True)
@option("--lost-after-s", type=float, default=86400.0, show_default=True)
@option("--log-level", default="info", type=click.Choice(["debug", "info", "warning", "error"]))
@option("--log-json", is_flag=True, help="Log JSON lines.")
@guarded
def run_command(
    folder: Path,
    listen: str | None,
    profile: str | None,
    heartbeat_ms: int,
    suspect_after_s: float,
    down_after_s: float,
    lost_after_s: float,
    log_level: str,
    log_json: bool,
) -> None:
    """Serve until SIGTERM. The first start makes a new cluster in the folder."""
    from holdfast.coordinator.health import HealthSettings
    from holdfast.coordinator.running import CoordinatorSettings, run_coordinator
    from holdfast.protocol.clock import SYSTEM
    from holdfast.protocol.profiles import Profile
    from holdfast.protocol.program import program_version
    from holdfast.protocol.serving import ListenAddress

    configure_logging(log_json, log_level)
    settings = CoordinatorSettings(
        folder=folder,
        listen=ListenAddress.parse(listen) if listen else None,
        profile=Profile.parse(profile) if profile else None,
        health=HealthSettings(heartbeat_ms, suspect_after_s, down_after_s, lost_after_s),
        program=program_version(),
    )
    run(lambda: run_coordinator(settings, SYSTEM))


@click.group()
def admin() -> None:
    """Operate a cluster."""


def _operator_options(function: Any) -> Any:
    function = option(
        "--operator-key", type=click.Path(path_type=Path), required=True, help="The operator key file."
    )(function)
    return option("--coordinator", metavar="URL", help="Default: the address in the operator key file.")(
        function
    )


def _hand_over(output: Output, made: MadeToken, target: Path | None, used: str) -> None:
    from datetime import UTC, datetime

    from holdfast.protocol.directory import write_file

    until = datetime.fromtimestamp(made.expires_ms / 1000, UTC).isoformat(timespec="seconds")
    if target is not None:
        write_file(target, made.text.encode() + b"\n")
        output.note(f"Written to {target}; good once, until {until}. {used}")
    else:
        output.say(made.text)
        output.note(f"Good once, until {until}. {used}")
    output.summary(expires=until, **({"file": str(target)} if target else {"token": made.text}))


@admin.command("invite")
@_operator_options
@option("--quota", type=BYTES, default=0, help="Bytes the account may store; default: no quota.")
@option(
    "--expires",
    "lifetime_s",
    type=int,
    default=TOKEN_LIFETIME_S_DEFAULT,
    metavar="SECONDS",
    envvar="HOLDFAST_EXPIRES",
    help="How long the invite is good. Default: a week.",
)
@option(
    "--output",
    "target",
    type=click.Path(path_type=Path),
    envvar="HOLDFAST_OUTPUT",
    help="Write it to a file (0600) instead of printing it.",
)
@json_option
@guarded
def invite(
    operator_key: Path,
    coordinator: str | None,
    quota: int,
    lifetime_s: int,
    target: Path | None,
    as_json: bool,
) -> None:
    """Make an invite: one person may create one account with it."""
    from holdfast.coordinator.asking import invite_token

    made = run(lambda: invite_token(operator_key, coordinator, quota_bytes=quota, lifetime_s=lifetime_s))
    _hand_over(Output(as_json), made, target, "Its owner runs 'holdfast init' with it.")


@admin.command("node-token")
@_operator_options
@option(
    "--expires",
    "lifetime_s",
    type=int,
    default=TOKEN_LIFETIME_S_DEFAULT,
    metavar="SECONDS",
    envvar="HOLDFAST_EXPIRES",
    help="How long the token is good. Default: a week.",
)
@option(
    "--output",
    "target",
    type=click.Path(path_type=Path),
    envvar="HOLDFAST_OUTPUT",
    help="Write it to a file (0600) instead of printing it.",
)
@json_option
@guarded
def node_token(
    operator_key: Path, coordinator: str | None, lifetime_s: int, target: Path | None, as_json: bool
) -> None:
    """Make a token: one node may join the cluster with it."""
    from holdfast.coordinator.asking import node_token as ask_node_token

    made = run(lambda: ask_node_token(operator_key, coordinator, lifetime_s=lifetime_s))
    _hand_over(Output(as_json), made, target, "Pass it as --join-token-file to 'holdfast node run'.")


@admin.command("status")
@_operator_options
@json_option
@guarded
def status(operator_key: Path, coordinator: str | None, as_json: bool) -> None:
    """Show whether everything is safe, and every node."""
    from holdfast.coordinator.asking import cluster_status

    told = run(lambda: cluster_status(operator_key, coordinator))
    show_status(Output(as_json), told)


def show_status(output: Output, told: ClusterStatus) -> None:
    """The verdict first, then stripes by spare shards, then every node."""
    output.say(told.sentence)
    spare = ", ".join(
        f"{count:,} with {number} spare" for number, count in told.stripes.by_spare.items() if count
    )
    output.say(
        f"{human_count(told.stripes.total, 'stripe')}{': ' + spare if spare else ''}; "
        f"{human_bytes(told.stored_bytes)} sealed, {human_count(told.accounts, 'account')}, "
        f"{human_count(told.open_uploads, 'open upload')}"
    )
    output.say()
    output.say(
        f"{'node':<10}{'state':<10}{'store':<9}{'zone':<12}{'used':>10}{'capacity':>11}  {'shards':>9}"
    )
    for node in told.nodes:
        output.say(
            f"{node.id.short:<10}{node.state:<10}{node.store_state:<9}{node.zone[:11] or '-':<12}"
            f"{human_bytes(node.used_bytes):>10}{human_bytes(node.capacity_bytes):>11}  {node.shards:>9,}"
        )
    output.summary(
        verdict=told.verdict,
        sentence=told.sentence,
        term=told.term,
        epoch=told.epoch,
        accounts=told.accounts,
        chunks=told.chunks,
        stored_bytes=told.stored_bytes,
        open_uploads=told.open_uploads,
        stripes={"total": told.stripes.total, "by_spare": told.stripes.by_spare},
        nodes=[
            {
                "id": node.id.hex(),
                "url": node.url,
                "zone": node.zone,
                "state": node.state,
                "store_state": node.store_state,
                "used_bytes": node.used_bytes,
                "capacity_bytes": node.capacity_bytes,
                "shards": node.shards,
            }
            for node in told.nodes
        ],
    )
