"""A server whose very first start met a power cut starts again, as itself."""

from __future__ import annotations

import asyncio
import json
import shutil
from itertools import chain
from pathlib import Path

from support.crash.first_start import running, start_coordinator, start_node
from support.crash.replay import number_of_states, record, seed_of_states
from support.crash.write_log import Created

from holdfast.coordinator.asking import cluster_status, node_token


def identity_of(folder: Path) -> bytes | None:
    """The kit, which is the cluster's identity, if there is one."""
    kit = folder / "cluster-kit.pem"
    return kit.read_bytes() if kit.exists() else None


async def test_a_coordinator_starts_after_a_power_cut_in_its_first_start(tmp_path: Path) -> None:
    recorded = await asyncio.to_thread(record, "support.crash.first_start", tmp_path, "coordinator")
    final = identity_of(recorded.root / "server")
    assert final is not None
    known = 0
    for number, state in enumerate(recorded.states(number_of_states(25), seed_of_states())):
        root = tmp_path / f"state-{number}"
        state.left.write(root)
        kit = identity_of(root / "server")
        assert kit in (None, final)
        assert kit == final or state.acknowledged < 0, "a cluster that was served is gone"
        async with running(start_coordinator(root / "server"), root / "server") as ready:
            status = await cluster_status(root / "server" / "operator.key")
            assert (status.verdict, status.chunks) == ("safe", 0)
            if kit is not None:
                known += 1
                assert identity_of(root / "server") == final, "a second cluster in one folder"
            assert ready["address"]
        shutil.rmtree(root)
    assert known >= 5, "too few states had anything in them"


async def test_a_node_joins_once_whatever_its_first_start_met(tmp_path: Path) -> None:
    """Before it asked to join it may start anew, in any cluster; from then on it is the node that asked."""
    here = tmp_path / "here"
    async with running(start_coordinator(here), here) as ready:
        token = tmp_path / "token"
        token.write_text((await node_token(here / "operator.key")).text)
        recorded = await asyncio.to_thread(
            record, "support.crash.first_start", tmp_path, "node", ready["address"], token
        )
        node = json.loads((recorded.root / "server" / "node.json").read_text())
        asks_from = recorded.position_of(Created, "server/charter.json.new")
        # Half of the states from each side: how long the log is behind that moment depends on the machine.
        each, seed, end = number_of_states(20), seed_of_states(), len(recorded.events)
        before = recorded.states(each, seed, (0, asks_from))
        behind = recorded.states(each, seed, (asks_from + 1, end))
        for number, state in enumerate(chain(before, behind)):
            folder = tmp_path / f"state-{number}" / "server"
            state.left.write(folder.parent)
            if state.position <= asks_from:
                elsewhere, fresh = folder.parent / "elsewhere", folder.parent / "token"
                async with running(start_coordinator(elsewhere), elsewhere) as other:
                    fresh.write_text((await node_token(elsewhere / "operator.key")).text)
                    async with running(start_node(folder, other["address"], fresh), folder) as told:
                        assert told["node"]
            else:
                async with running(start_node(folder, ready["address"], token), folder) as told:
                    assert told["node"] == node["node"], "it is another node now"
                    now = json.loads((folder / "node.json").read_text())
                    assert now["store"] == node["store"], "the store it joined with is gone"
            shutil.rmtree(folder.parent)
