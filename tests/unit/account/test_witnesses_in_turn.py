"""Accounts whose witnesses cannot be completed now keep no other account waiting."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.coordinator import keeping_witnesses
from holdfast.coordinator.keeping_witnesses import keep_witnesses
from holdfast.coordinator.limits import WITNESSED_PER_TURN_MAX
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.ids import AccountId


async def test_every_account_has_its_turn_while_none_can_be_completed(
    coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = {AccountId(SYSTEM.random_bytes(AccountId.SIZE)) for _ in range(3 * WITNESSED_PER_TURN_MAX)}
    seen: list[AccountId] = []

    async def a_witness_is_away(desk: Any, account: AccountId) -> bool:
        seen.append(account)
        return False

    monkeypatch.setattr(keeping_witnesses, "complete_account", a_witness_is_away)
    coordinator.desk.witnessing.dirty.update(accounts)
    for _ in range(3):
        await keep_witnesses(coordinator.desk)
    assert len(seen) == len(accounts) and set(seen) == accounts
    await keep_witnesses(coordinator.desk)
    assert len(seen) == len(accounts) + WITNESSED_PER_TURN_MAX, "and from the beginning"
