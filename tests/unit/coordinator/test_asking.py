"""What an operator's commands say where the coordinator broke down while it answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.coordinator_service import Office

from holdfast.coordinator.asking import cluster_status, invite_token
from holdfast.coordinator.service import admin
from holdfast.protocol.errors import HoldfastError, OutcomeUnknown


async def breaks_down(*_: Any, **__: Any) -> Any:
    raise KeyError("nobody foresaw this")


async def test_a_status_changes_nothing_and_an_invite_may_have_been_made(
    desk_office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "coordinator" / "operator.key"
    assert (await cluster_status(key)).verdict == "safe"
    assert (await invite_token(key)).text
    monkeypatch.setattr(admin, "account_verdict", breaks_down)
    with pytest.raises(HoldfastError) as told:
        await cluster_status(key)
    assert type(told.value) is HoldfastError, "what only asks may simply be asked again"
    monkeypatch.setattr(desk_office.desk.catalogue, "write", breaks_down)
    with pytest.raises(OutcomeUnknown):
        await invite_token(key)
