"""A node whose wall clock is wrong: judged by it, every ticket would be expired, or from the future."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.node_service import Device, running_node, stripes

from holdfast.node.limits import CLOCK_TOLERATED_MS
from holdfast.protocol.clock import SYSTEM, SystemSource
from holdfast.protocol.errors import HoldfastError, Refused, StaleRequest
from holdfast.protocol.limits import NONCE_BYTES
from holdfast.protocol.signing import public_key
from holdfast.protocol.transport import Transport, body_digest

HOUR_MS = 3_600_000


@pytest.mark.parametrize("off_ms", [HOUR_MS, -HOUR_MS, 24 * HOUR_MS, -24 * HOUR_MS])
async def test_it_serves_once_it_has_heard_its_coordinator_s_time(off_ms: int, tmp_path: Path) -> None:
    batch = stripes(2)
    async with running_node(tmp_path / "store", SystemSource(off_ms)) as node, Transport() as transport:
        ada = Device(node.node, transport)
        with pytest.raises(HoldfastError):
            await ada.put(batch)
        node.service._door.hear_time(SYSTEM.now_ms())
        assert (await ada.put(batch)).entries
        answer, _ = await ada.read(batch)
        assert [result.status for result in answer.results] == ["ok", "ok"]


async def test_a_clock_that_goes_wrong_while_it_runs_is_set_right_as_well(tmp_path: Path) -> None:
    class Jumping(SystemSource):
        jump_ns = 0

        def now_ns(self) -> int:
            return super().now_ns() + self.jump_ns

    source, batch = Jumping(), stripes(2)
    async with running_node(tmp_path / "store", source) as node, Transport() as transport:
        ada = Device(node.node, transport)
        await ada.put(batch)
        for jump_ms in (-HOUR_MS, HOUR_MS, 0):
            source.jump_ns = jump_ms * 1_000_000
            node.service._door.hear_time(SYSTEM.now_ms())
            answer, _ = await ada.read(batch)
            assert [result.status for result in answer.results] == ["ok", "ok"]


async def test_it_serves_when_all_clocks_were_ahead_and_are_right_again(tmp_path: Path) -> None:
    """It began to serve, or heard the time, while all were ahead: what is signed now is not old for that."""

    class Jumping(SystemSource):
        jump_ns = HOUR_MS * 1_000_000

        def now_ns(self) -> int:
            return super().now_ns() + self.jump_ns

    source, batch = Jumping(), stripes(2)
    async with running_node(tmp_path / "store", source) as node, Transport() as transport:
        ada = Device(node.node, transport)
        node.service._door.hear_time(source.now_ms())
        source.jump_ns = 0
        with pytest.raises(StaleRequest):
            await ada.put(batch)
        node.service._door.hear_time(SYSTEM.now_ms())
        assert (await ada.put(batch)).entries


async def test_a_little_off_is_left_as_it_is(tmp_path: Path) -> None:
    async with running_node(tmp_path / "store") as node:
        door = node.service._door
        before = door._gate
        door.hear_time(SYSTEM.now_ms() + CLOCK_TOLERATED_MS - 5_000)
        door.hear_time(SYSTEM.now_ms() - CLOCK_TOLERATED_MS + 5_000)
        assert door._gate is before
        assert abs(door.now_ms() - SYSTEM.now_ms()) < 5_000


async def test_a_request_made_before_cannot_be_made_again_after(tmp_path: Path) -> None:
    """Setting the clock forgets which nonces were used: whatever was signed before must be refused."""
    target = "/v1/shards/read"
    async with running_node(tmp_path / "store", SystemSource(HOUR_MS)) as node, Transport() as transport:
        ada, door = Device(node.node, transport), node.service._door
        door.hear_time(SYSTEM.now_ms())
        digest = body_digest(b"whatever it asks for", ada.ticket("read"))
        key, made_ms = public_key(ada.key), door.now_ms()
        signed = ada.signer.sign(
            node.node.id, "POST", target, digest, time_ms=made_ms, nonce=bytes(NONCE_BYTES)
        )
        door._gate.check(signed, key, "POST", target, digest, now_ms=made_ms)
        with pytest.raises(Refused):
            door._gate.check(signed, key, "POST", target, digest, now_ms=made_ms)
        door.hear_time(SYSTEM.now_ms() + 2 * CLOCK_TOLERATED_MS)
        with pytest.raises(StaleRequest):
            door._gate.check(signed, key, "POST", target, digest, now_ms=door.now_ms())
