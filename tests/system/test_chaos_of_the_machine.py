"""Faults that a machine must allow: disks that run full, packets that get lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cluster import LocalCluster
from holdfast.cluster.chaos import namespaces, small_disks
from holdfast.cluster.chaos.history import FaultEnded, InvariantJudged, Note, OperationEnded, read_history
from holdfast.cluster.chaos.loading import FULL
from holdfast.cluster.chaos.run import run_scenario
from holdfast.cluster.chaos.scenario import parse_scenario
from holdfast.protocol.errors import NoRoom

pytestmark = pytest.mark.timeout(300)

RUN_FULL = """
version = 1
name = "small-and-full"
about = "A small cluster whose disks run full."
budget = "anything"
calm_s = 1.0
chaos_s = 15.0
[cluster]
nodes = 3
profile = "2+1"
disk_mib = 384
[load]
clients = 2
devices = 2
backup = 4.0
restore = 6.0
delete = 2.0
file_kib = [500, 6000]
[expect]
availability = "no room"
operations_min = 5
[[faults]]
kind = "full-disk"
at_s = 1.0
targets = ["all"]
leave_mib = 65.5
for_s = 9.0
[[faults]]
kind = "full-disk"
at_s = 11.0
targets = ["any"]
for_s = 3.0
"""
CUT_OFF = """
version = 1
name = "cut-off"
about = "Packets of a node get lost, first one way, then both."
calm_s = 1.0
chaos_s = 9.0
[cluster]
nodes = 3
profile = "2+1"
[expect]
operations_min = 5
[[faults]]
kind = "partition"
at_s = 1.0
targets = ["any"]
by = "namespace"
one_way = true
for_s = 3.0
[[faults]]
kind = "partition"
at_s = 5.0
targets = ["any"]
by = "namespace"
for_s = 3.0
"""


def said(events: object) -> str:
    assert isinstance(events, list | tuple)
    judged = [event for event in events if isinstance(event, InvariantJudged) and event.why]
    return "\n".join(f"({event.letter}) {event.why}" for event in judged)


async def test_disks_that_run_full_refuse_what_comes_and_keep_what_there_is(tmp_path: Path) -> None:
    if why := small_disks.why_unavailable():
        pytest.skip(why)
    result = await run_scenario(parse_scenario(RUN_FULL, "full"), seed=1, report=tmp_path / "report")
    assert result.ok, said(result.events)
    assert any(event.code in FULL for event in result.events if isinstance(event, OperationEnded))
    assert not [event for event in result.events if isinstance(event, Note) and "capacity" in event.text]


async def test_a_program_fills_a_disk_by_hand_and_gives_the_room_back(tmp_path: Path) -> None:
    if why := small_disks.why_unavailable():
        pytest.skip(why)
    (tmp_path / "letters").mkdir()
    async with LocalCluster(nodes=2, profile="1+1", seed=1, disk_mib=160) as c:
        async with c.client(tmp_path / "home") as client:
            await client.init(c.invite())
            (tmp_path / "letters" / "first").write_bytes(os.urandom(300_000))
            await client.backup(tmp_path / "letters")
            async with c.chaos.fill_disk(1, 2, leave_mib=32):
                (tmp_path / "letters" / "second").write_bytes(os.urandom(300_000))
                with pytest.raises(NoRoom):
                    await client.backup(tmp_path / "letters")
                report = await client.restore("latest", tmp_path / "back", path=tmp_path / "letters")
                assert report.complete
            await client.backup(tmp_path / "letters")
        found = await c.verify()
    assert found.ok, str(found)
    outcomes = [event.outcome for event in found.events if isinstance(event, OperationEnded)]
    assert outcomes == ["ok", "ok", "failed", "ok", "ok"], "what a program does is in its report"


def test_packets_that_get_lost_in_a_namespace_of_the_run_s_own_are_survived(tmp_path: Path) -> None:
    if why := namespaces.why_unavailable():
        pytest.skip(why)
    (tmp_path / "cut.toml").write_text(CUT_OFF)
    command = [sys.executable, "-m", "holdfast.client.console", "chaos", "run", str(tmp_path / "cut.toml")]
    done = subprocess.run(
        [*command, "--seed", "1", "--report", str(tmp_path / "report")],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = list(read_history(tmp_path / "report" / "history.jsonl"))
    ended = [event.detail for event in events if isinstance(event, FaultEnded)]
    assert ended == ["by lost packets"] * 2
    assert not [event for event in events if isinstance(event, Note) and "proxies" in event.text]
