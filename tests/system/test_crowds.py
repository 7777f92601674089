"""Servers with few descriptors, and far more connections than that: nobody who works with them notices."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from holdfast.cluster.processes import wait_until
from holdfast.coordinator.asking import cluster_status, node_token
from holdfast.protocol.messages.admin import ClusterStatus

DESCRIPTORS = 300
CONNECTIONS = 2 * DESCRIPTORS
_BOUNDED = ["sh", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "sh", sys.executable]


@contextmanager
def serving(folder: Path, *arguments: object) -> Iterator[dict[str, str]]:
    """A server process that may have so many descriptors; gives what it says of itself."""
    command = [*_BOUNDED, "-m", "holdfast.client.console", *map(str, arguments), "--dir", str(folder)]
    log = folder.with_suffix(".log")
    with log.open("wb") as written:
        process = subprocess.Popen(command, stdout=written, stderr=written)
    try:
        ready = folder / "ready.json"
        assert wait_until(lambda: ready.exists() or process.poll() is not None, 30)
        assert process.poll() is None, log.read_text()
        yield json.loads(ready.read_text())
        assert process.poll() is None, log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert "Traceback" not in log.read_text()


@contextmanager
def crowd(urls: Sequence[str]) -> Iterator[None]:
    """Connections that say nothing, to each."""
    with ExitStack() as stack:
        for url in urls:
            at = urlsplit(url)
            for _ in range(CONNECTIONS):
                stack.enter_context(socket.create_connection((at.hostname, at.port), timeout=10))
        yield


@pytest.fixture(autouse=True)
def room_for_the_crowd() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 3 * CONNECTIONS)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_cluster_goes_on_while_somebody_opens_connections_without_end(tmp_path: Path) -> None:
    coordinator, node, token = tmp_path / "coordinator", tmp_path / "node", tmp_path / "token"
    key = coordinator / "operator.key"

    def status() -> ClusterStatus:
        return asyncio.run(cluster_status(key))

    with serving(coordinator, "coordinator", "run") as reigns:
        token.write_text(asyncio.run(node_token(key)).text)
        joining = ["--coordinator", reigns["address"], "--join-token-file", token, "--unsupervised"]
        with serving(node, "node", "run", *joining) as serves:
            start = status().nodes[0]
            with crowd([reigns["url"], serves["url"]]):
                told = status()
                assert [(each.state, each.store_state) for each in told.nodes] == [("up", "ok")]
                for each in (reigns, serves):
                    assert descriptors_of(int(each["pid"])) < DESCRIPTORS - 100, (
                        "some are left for its own files"
                    )
                # A heartbeat that came through the crowd:
                assert wait_until(lambda: status().nodes[0].last_seen_ms > start.last_seen_ms, 20)
        with crowd([reigns["url"]]):
            token.write_text(asyncio.run(node_token(key)).text)
            with serving(tmp_path / "second", "node", "run", *joining):
                assert wait_until(lambda: [each.state for each in status().nodes].count("up") == 1, 20)
