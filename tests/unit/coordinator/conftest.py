"""A coordinator with six nodes, served in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.coordinator_service import KeyNode, Office, office


@pytest.fixture
async def desk_office(tmp_path: Path) -> AsyncIterator[Office]:
    """A coordinator without nodes."""
    async with office(tmp_path / "coordinator") as opened:
        yield opened


@pytest.fixture
async def nodes(desk_office: Office) -> list[KeyNode]:
    """Six nodes of that coordinator, in three zones."""
    return await desk_office.nodes(6, zones=3)
