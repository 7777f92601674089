"""A real coordinator in this process, and a transport that can lose requests and answers on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.devices import OpenDevice
from support.witness_nodes import WitnessNode, joined_nodes

from holdfast.client.home import Home
from holdfast.client.joining import init_account, recover_account
from holdfast.client.link import Link
from holdfast.client.recovery_code import decode_recovery_code
from holdfast.client.session import Session
from holdfast.coordinator.catalogue.accounts import account_row
from holdfast.coordinator.catalogue.engine import Catalogue
from holdfast.coordinator.catalogue.nodes import add_token
from holdfast.coordinator.catalogue.uploads import open_upload
from holdfast.coordinator.health import HealthSettings
from holdfast.coordinator.identity import load_or_make
from holdfast.coordinator.live import Live
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.service.routes import make_routes
from holdfast.protocol.address import Address, Token
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import OutcomeUnknown, Unreachable
from holdfast.protocol.ids import AccountId, DeviceId, NodeId, UploadId
from holdfast.protocol.serving import ListenAddress, Server
from holdfast.protocol.stripes import digest_of
from holdfast.protocol.transport import Transport


class FaultyTransport(Transport):
    """Loses what it is told to lose.

    Attributes:
        before: paths whose requests never arrive; after: paths whose answers are lost; both count down.
        death: what to raise instead, e.g. the end of this process.
        rewrite: what becomes of an answer to a path, for coordinators that lie.
    """

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, int] = {}
        self.after: dict[str, int] = {}
        self.rewrite: dict[str, Callable[[Any], Any]] = {}
        self.death: BaseException | None = None
        self.calls: list[str] = []

    async def call(self, method: str, url: str, target: str, message: Any = None, **rest: Any) -> Any:
        path = target.split("?")[0]
        self.calls.append(path)
        if self.before.get(path, 0):
            self.before[path] -= 1
            raise self.death or Unreachable(f"{url} does not answer", why="lost on purpose")
        answer = await super().call(method, url, target, message, **rest)
        if self.after.get(path, 0):
            self.after[path] -= 1
            raise self.death or OutcomeUnknown(f"the answer of {url} was lost", why="on purpose")
        return self.rewrite[path](answer) if path in self.rewrite else answer


@dataclass
class Coordinator:
    """One cluster's coordinator, and what its operator can do."""

    desk: Desk
    address: Address
    invites: list[Token] = field(default_factory=list)

    def invite(self) -> Token:
        secret = SYSTEM.random_bytes(16)
        later_ms = SYSTEM.now_ms() + 60_000
        self.desk.catalogue.write_now(lambda c: add_token(c, digest_of(secret), "invite", later_ms, 0))
        return Token(self.address, secret)

    def open_upload(self, account: AccountId, device: DeviceId) -> UploadId:
        """An upload without nodes: enough to post a head under."""
        upload = UploadId(SYSTEM.random_bytes(16))
        self.desk.catalogue.write_now(
            lambda c: open_upload(c, account_row(c, account), upload, device, 0, SYSTEM.now_ms())
        )
        return upload


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[Coordinator]:
    folder = tmp_path / "coordinator"
    folder.mkdir()
    identity, _ = load_or_make(folder, SYSTEM)
    catalogue = Catalogue(f"sqlite:///{folder / 'catalogue.sqlite'}")
    live = Live(SYSTEM, HealthSettings(), None, SYSTEM.monotonic())
    await live.refresh(catalogue)
    async with Transport(source=SYSTEM) as transport:
        desk = Desk(identity, catalogue, live, SYSTEM, "test", transport)
        server = Server(make_routes(desk), ListenAddress("127.0.0.1", 0))
        bound = await server.start()
        try:
            yield Coordinator(desk, Address(f"http://{bound}", identity.cluster))
        finally:
            await server.stop()
            catalogue.close()


@pytest.fixture
async def transport() -> AsyncIterator[FaultyTransport]:
    async with FaultyTransport() as made:
        assert isinstance(made, FaultyTransport)
        yield made


@pytest.fixture
async def device(coordinator: Any, transport: Any, tmp_path: Path) -> OpenDevice:
    """Gives a session on another device of one account; the first one makes the account."""
    codes: list[str] = []

    async def opened(name: str) -> Session:
        home = Home(tmp_path / name)
        if home.has_account:
            pass
        elif not codes:
            await init_account(
                home,
                coordinator.invite(),
                device_name=name,
                show_code=lambda code, *_: codes.append(code),
                transport=transport,
                source=SYSTEM,
            )
        else:
            link = await Link.connect(coordinator.address, transport=transport, source=SYSTEM)
            code = decode_recovery_code(codes[0])
            await recover_account(home, link, code, device_name=name, source=SYSTEM)
        return await Session.open(home, transport=transport, source=SYSTEM)

    return opened


@pytest.fixture
async def nodes(coordinator: Any, tmp_path: Path) -> AsyncIterator[list[WitnessNode]]:
    """Six nodes that keep heads, and were told the map once."""
    cluster = coordinator.address.cluster
    async with joined_nodes(coordinator.desk, cluster, tmp_path, SYSTEM, ["zone"] * 6) as made:
        yield made


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[NodeId]]:
    """Nodes in it hang: who asks them gets no answer, until the call's time is up."""
    found: set[NodeId] = set()
    ask = NodeCalls.ask_encoded

    async def asked(self: NodeCalls, node: Any, *rest: Any, timeout_s: float) -> Any:
        if node.id in found:
            await asyncio.sleep(timeout_s)
            raise Unreachable("it does not answer", why="on purpose")
        return await ask(self, node, *rest, timeout_s=timeout_s)

    monkeypatch.setattr(NodeCalls, "ask_encoded", asked)
    yield found
