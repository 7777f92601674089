"""First starts of real servers: as a recorded process, and in the test's own loop on what a power cut left.

python -m support.crash.first_start ROOT LOG coordinator
python -m support.crash.first_start ROOT LOG node ADDRESS TOKEN_FILE
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from holdfast.coordinator.health import HealthSettings
from holdfast.coordinator.running import CoordinatorSettings, run_coordinator
from holdfast.node.running import NodeSettings, run_node
from holdfast.protocol.address import Address
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.serving import ListenAddress

__all__ = ["running", "start_coordinator", "start_node"]

CAPACITY_BYTES = 30_000_000
_READY_WITHIN_S = 30.0


async def start_coordinator(folder: Path) -> None:
    """A coordinator, until it is told to stop."""
    settings = CoordinatorSettings(
        folder=folder, listen=None, profile=None, health=HealthSettings(), program="recorded"
    )
    await run_coordinator(settings, SYSTEM)


async def start_node(
    folder: Path,
    address: str,
    token_file: Path,
    listen: ListenAddress | None = None,
    advertise: str | None = None,
) -> None:
    """A node, until it is told to stop."""
    settings = NodeSettings(
        folder=folder,
        coordinator=Address.parse(address),
        token_file=token_file,
        listen=listen,
        advertise=advertise,
        zone="",
        capacity_bytes=CAPACITY_BYTES,
        program="recorded",
    )
    await run_node(settings, SYSTEM)


@asynccontextmanager
async def running(server: Awaitable[None], folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Start a server; gives what it says of itself once it is ready. Its refusal to start is raised."""
    (folder / "ready.json").unlink(missing_ok=True)  # what a state may hold of the time before
    task = asyncio.ensure_future(server)
    try:
        async with asyncio.timeout(_READY_WITHIN_S):
            while not (folder / "ready.json").exists():
                await asyncio.wait([task], timeout=0.01)
                if task.done():
                    task.result()
                    raise AssertionError("it ended by itself")
        yield json.loads((folder / "ready.json").read_text())
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _recorded(folder: Path, what: str, rest: list[str], note: Any) -> None:
    server = (
        start_coordinator(folder) if what == "coordinator" else start_node(folder, rest[0], Path(rest[1]))
    )
    task = asyncio.ensure_future(server)
    while not (folder / "ready.json").exists():
        await asyncio.wait([task], timeout=0.01)
        assert not task.done(), task
    note("done", 0)
    os.kill(os.getpid(), signal.SIGTERM)
    await task


def main() -> None:
    """The recorded process."""
    import sqlite3

    import lmdb

    from support.crash.recording import Recording

    assert sqlite3.sqlite_version_info and lmdb.version()  # loaded before anything stands before their calls
    recording = Recording(Path(sys.argv[1]), Path(sys.argv[2]))
    folder = Path(sys.argv[1]) / "server"
    asyncio.run(_recorded(folder, sys.argv[3], sys.argv[4:], recording.note))


if __name__ == "__main__":
    main()
