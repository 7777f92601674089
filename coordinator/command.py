"""``holdfast coordinator`` and ``holdfast admin``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast.coordinator.command_audit import audit, trust
from holdfast.coordinator.command_compact import compact
from holdfast.coordinator.command_keeping import backup, rebuild, restore
from holdfast.coordinator.command_operations import (
    drain,
    nodes,
    operator_options,
    rebalance,
    remove,
    repair,
    undrain,
)
from holdfast.coordinator.command_scrub import quarantine, scrub
from holdfast.coordinator.limits import (
    AUDITS_PER_HOUR_DEFAULT,
    COMPARE_EVERY_S_DEFAULT,
    REPAIR_BYTES_PER_S_DEFAULT,
    REPAIR_NODE_BYTES_PER_S_DEFAULT,
)
from holdfast.protocol.limits import DELETION_HOLD_S_DEFAULT, TOKEN_LIFETIME_S_DEFAULT
from holdfast.protocol.terminal import (
    BYTES,
    Output,
    configure_logging,
    guarded,
    json_option,
    option,
    run,
)

if TYPE_CHECKING:
    from holdfast.coordinator.asking import MadeToken

__all__ = ["admin", "coordinator"]


@click.group()
def coordinator() -> None:
    """Run a coordinator, and keep it from being lost."""


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
@option("--advertise", metavar="URL", help="How others reach this coordinator, where that differs.")
@option("--profile", metavar="K+M", help="Redundancy. Default: by the number of nodes (4+2 from six on).")
@option("--heartbeat-ms", type=int, default=2000, show_default=True, help="How often nodes report.")
@option("--suspect-after-s", type=float, default=10.0, show_default=True, help="Silent so long: asked last.")
@option("--down-after-s", type=float, default=30.0, show_default=True, help="Silent so long: not written to.")
@option(
    "--lost-after-s",
    type=float,
    default=86400.0,
    show_default=True,
    help="Silent so long: replaced.",
)
@option(
    "--zone-lost-after-s", type=float, default=604800.0, show_default=True, help="For a whole zone: replaced."
)
@option(
    "--trash-hold-s",
    type=click.FloatRange(min=0),
    default=float(DELETION_HOLD_S_DEFAULT),
    show_default=True,
    help="How long swept chunks can be undeleted.",
)
@option(
    "--compare-every-s",
    type=click.FloatRange(min=1),
    default=COMPARE_EVERY_S_DEFAULT,
    show_default=True,
    help="How often each node's inventory is compared with the catalogue.",
)
@option(
    "--audits-per-hour",
    type=click.IntRange(min=0),
    default=AUDITS_PER_HOUR_DEFAULT,
    show_default=True,
    help="How many chunks' nodes are challenged; 0: none.",
)
@option(
    "--repair-rate",
    type=BYTES,
    default=REPAIR_BYTES_PER_S_DEFAULT,
    help="Bytes a second that repair may pull in the whole cluster; 0: any. Default: 1 GiB.",
)
@option(
    "--repair-node-rate",
    type=BYTES,
    default=REPAIR_NODE_BYTES_PER_S_DEFAULT,
    help="The same for each node. Default: 256 MiB. Where no shard is spare, neither counts.",
)
@option(
    "--rebalance/--no-rebalance",
    "rebalances",
    default=True,
    show_default=True,
    help="Fill nodes evenly when some are added.",
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
    listen: str | None,
    advertise: str | None,
    profile: str | None,
    heartbeat_ms: int,
    suspect_after_s: float,
    down_after_s: float,
    lost_after_s: float,
    zone_lost_after_s: float,
    trash_hold_s: float,
    compare_every_s: float,
    audits_per_hour: int,
    repair_rate: int,
    repair_node_rate: int,
    rebalances: bool,
    log_level: str,
    log_json: bool,
) -> None:
    """Serve until SIGTERM. The first start makes a new cluster in the folder."""
    configure_logging(log_json, log_level)
    from holdfast.coordinator.health import HealthSettings
    from holdfast.coordinator.repair_pacing import RepairSettings
    from holdfast.coordinator.running import CoordinatorSettings, run_coordinator
    from holdfast.protocol.clock import SYSTEM
    from holdfast.protocol.profiles import Profile
    from holdfast.protocol.program import program_version
    from holdfast.protocol.serving import ListenAddress

    settings = CoordinatorSettings(
        folder=folder,
        listen=ListenAddress.parse(listen) if listen else None,
        advertise=advertise,
        profile=Profile.parse(profile) if profile else None,
        health=HealthSettings(
            heartbeat_ms, suspect_after_s, down_after_s, lost_after_s, max(lost_after_s, zone_lost_after_s)
        ),
        program=program_version(),
        trash_hold_s=trash_hold_s,
        compare_every_s=compare_every_s,
        audits_per_hour=audits_per_hour,
        repair=RepairSettings(repair_rate, repair_node_rate),
        rebalances=rebalances,
    )
    run(lambda: run_coordinator(settings, SYSTEM), transfers=True)


coordinator.add_command(backup)
coordinator.add_command(restore)
coordinator.add_command(rebuild)


@click.group()
def admin() -> None:
    """Operate a cluster."""


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
@operator_options
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


@admin.group("node")
def node() -> None:
    """Let nodes join."""


@node.command("add-token")
@operator_options
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
    """Make a token: one node may join the cluster with it. Also called 'admin node-token'."""
    from holdfast.coordinator.asking import node_token as ask_node_token

    made = run(lambda: ask_node_token(operator_key, coordinator, lifetime_s=lifetime_s))
    _hand_over(Output(as_json), made, target, "Pass it as --join-token-file to 'holdfast node run'.")


admin.add_command(node_token, "node-token")


@admin.command("status")
@operator_options
@json_option
@guarded
def status(operator_key: Path, coordinator: str | None, as_json: bool) -> None:
    """Show whether everything is safe, and every node."""
    from holdfast.coordinator.asking import cluster_status
    from holdfast.coordinator.show import show_status

    told = run(lambda: cluster_status(operator_key, coordinator))
    show_status(Output(as_json), told)


admin.add_command(nodes)
admin.add_command(drain)
admin.add_command(undrain)
admin.add_command(remove)
admin.add_command(repair)
admin.add_command(rebalance)
admin.add_command(scrub)
admin.add_command(audit)
admin.add_command(trust)
admin.add_command(compact)
admin.add_command(quarantine)
