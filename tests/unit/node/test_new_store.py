"""A node with a new store under its old name takes no shard before its coordinator knows that store.

A shard that comes sooner makes the store look like another node's disk, and the coordinator refuses the node
for good. Real servers, in this process.
"""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec.structs import replace
from support.crash.first_start import running, start_coordinator, start_node
from support.node_service import Device, stripes

from holdfast.coordinator.asking import cluster_status, node_token
from holdfast.node.membership import Identity
from holdfast.node.running import _Node
from holdfast.protocol.address import Address
from holdfast.protocol.errors import HoldfastError, StoreFailed
from holdfast.protocol.ids import NodeId, PublicKey, StoreId
from holdfast.protocol.messages.admin import NodeStatus
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.nodes import Heartbeat, NodeInfo
from holdfast.protocol.serving import ListenAddress
from holdfast.protocol.signing import load_signing_key
from holdfast.protocol.transport import Transport

WITHIN_S = 20.0


class Cluster:
    """A coordinator and a node, each in a folder; both can be away."""

    def __init__(self, folder: Path) -> None:
        self.coordinator = folder / "coordinator"
        self.folder = folder / "node"
        self.token = folder / "token"
        self.address = ""

    @asynccontextmanager
    async def reigned(self) -> AsyncIterator[None]:
        async with running(start_coordinator(self.coordinator), self.coordinator) as ready:
            self.address = ready["address"]
            yield

    @asynccontextmanager
    async def noded(self, **told: Any) -> AsyncIterator[Device]:
        """The node runs; gives a device that has a right to put shards there."""
        async with (
            running(start_node(self.folder, self.address, self.token, **told), self.folder) as ready,
            Transport() as transport,
        ):
            info = await transport.call("GET", ready["url"], "/v1/node", answer=NodeInfo, reads=True)
            node = MapNode(NodeId.from_hex(ready["node"]), PublicKey(info.key), ready["url"], "")
            cluster = Address.parse(self.address).cluster
            assert cluster is not None
            key = load_signing_key((self.coordinator / "coordinator.key").read_bytes())
            yield Device(node, transport, cluster=cluster, coordinator=key)

    async def join(self) -> None:
        async with self.reigned():
            self.token.write_text((await node_token(self.coordinator / "operator.key")).text)
            async with self.noded():
                pass

    @property
    def noted(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "node.json").read_text())
        return found

    async def until(self, fits: Callable[[NodeStatus], bool]) -> None:
        """Until the coordinator sees the node so."""
        async with asyncio.timeout(WITHIN_S):
            while not all(map(fits, (await cluster_status(self.coordinator / "operator.key")).nodes)):  # noqa: ASYNC110 - another server's state
                await asyncio.sleep(0.05)


@pytest.fixture
async def cluster(tmp_path: Path) -> Cluster:
    made = Cluster(tmp_path)
    await made.join()
    return made


async def test_no_shard_comes_before_the_coordinator_knows_the_store(cluster: Cluster) -> None:
    before = cluster.noted
    shutil.rmtree(cluster.folder / "store")
    async with cluster.noded() as device:
        for _ in range(3):
            with pytest.raises(StoreFailed, match="takes no shards yet"):
                await device.put(stripes(1))
        answer, _ = await device.read(stripes(1))
        assert [told.status for told in answer.results] == ["absent"], "what is asked for is answered"
        assert cluster.noted == before, "the store is nobody's until the coordinator knows it"
        async with cluster.reigned():
            receipt = await _put_when_taken(device)
            assert cluster.noted["store"] != before["store"]
            assert receipt.store == StoreId.from_hex(cluster.noted["store"])
            await cluster.until(lambda node: node.shards == 1)


@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/shards"), ("POST", "/v1/rebuild")])
async def test_what_would_bring_shards_is_refused_before_any_of_it_is_taken(
    cluster: Cluster, method: str, path: str
) -> None:
    """A ticket's budget would be spent, and peers asked, for nothing."""
    shutil.rmtree(cluster.folder / "store")
    async with cluster.noded() as device, asyncio.timeout(WITHIN_S):
        url = urlsplit(device.node.url)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503 ")
        writer.transport.abort()


async def test_a_node_that_died_before_the_coordinator_knew_goes_on_with_that_store(cluster: Cluster) -> None:
    before = cluster.noted
    shutil.rmtree(cluster.folder / "store")
    async with cluster.noded():
        pass  # it ends again, and nobody heard of it
    assert cluster.noted == before
    async with cluster.reigned(), cluster.noded() as device:
        await _put_when_taken(device)
        assert cluster.noted["store"] != before["store"]


async def test_a_store_that_was_known_takes_shards_while_the_coordinator_is_away(cluster: Cluster) -> None:
    async with cluster.noded() as device:
        assert (await device.put(stripes(1))).store == StoreId.from_hex(cluster.noted["store"])


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [
        # The coordinator takes it, and does not look at its store: that is as unknown as before.
        (
            {"trouble": "a commit failed; reopening the store"},
            lambda node: node.trouble.startswith("a commit failed"),
        ),
        # It was on its way when the store was replaced.
        ({"store": StoreId(b"s" * 16)}, lambda node: node.state == "up"),
    ],
    ids=["of-trouble", "of-another-store"],
)
async def test_a_report_that_says_nothing_of_the_store_leaves_it_closed(
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    is_seen: Callable[[NodeStatus], bool],
) -> None:
    before, report, is_so = cluster.noted, _Node._report, True

    def reported(self: Any, *rest: Any) -> Heartbeat:
        made = report(self, *rest)
        return replace(made, **change) if is_so else made

    monkeypatch.setattr(_Node, "_report", reported)
    shutil.rmtree(cluster.folder / "store")
    async with cluster.reigned(), cluster.noded() as device:
        await cluster.until(is_seen)
        for _ in range(3):
            with pytest.raises(StoreFailed, match="takes no shards yet"):
                await device.put(stripes(1))
        assert cluster.noted == before
        is_so = False
        await _put_when_taken(device)
        await cluster.until(lambda node: node.shards == 1)


async def test_a_new_store_that_cannot_be_noted_stays_closed_until_it_can(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, save, failures = cluster.noted, Identity.save, 0

    def full(self: Identity, folder: Path) -> None:
        nonlocal failures
        failures += 1
        if failures <= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, folder)

    shutil.rmtree(cluster.folder / "store")
    monkeypatch.setattr(Identity, "save", full)
    async with cluster.reigned(), cluster.noded() as device:
        await _put_when_taken(device)
        assert failures == 3 and cluster.noted["store"] != before["store"]


@pytest.fixture
async def taken_port(cluster: Cluster) -> AsyncIterator[int]:
    """The node's port is somebody else's now."""
    port = int(cluster.noted["listen"].rpartition(":")[2])
    async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", port):
        yield port


async def test_a_node_whose_port_is_somebody_else_s_now_serves_at_another_and_tells_it(
    cluster: Cluster, taken_port: int
) -> None:
    async with cluster.reigned(), cluster.noded() as device:
        assert not device.node.url.endswith(f":{taken_port}")
        assert cluster.noted["listen"] == device.node.url.removeprefix("http://")
        await cluster.until(lambda node: node.url == device.node.url)
        await device.put(stripes(1))


@pytest.mark.parametrize("told", ["listen", "advertise"])
async def test_a_node_that_was_told_where_to_serve_serves_nowhere_else(
    cluster: Cluster, taken_port: int, told: str
) -> None:
    where = ListenAddress("127.0.0.1", taken_port) if told == "listen" else f"http://127.0.0.1:{taken_port}"
    async with cluster.reigned():
        with pytest.raises(HoldfastError, match="cannot listen"):
            async with cluster.noded(**{told: where}):
                raise AssertionError("it serves")


async def _put_when_taken(device: Device) -> Any:
    """Put until it is taken; what is refused meanwhile says so."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                return await device.put(stripes(1))
            except StoreFailed as error:
                assert "takes no shards yet" in str(error)
            except HoldfastError as error:
                raise AssertionError("refused for another reason") from error
            await asyncio.sleep(0.05)
