"""Joining the cluster once, and reporting to the coordinator ever after.

The folder remembers who this node is (node.json, node.key); the coordinator's
charter is proven against the cluster id each time it is learnt, and a lower
term than one already seen is refused. While the coordinator is away the node
goes on serving: tickets are self-contained.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.node.limits import HEARTBEAT_BACKOFF_S_MAX, JOIN_PATIENCE_S
from holdfast.node.reigning import KnownReign
from holdfast.protocol import signing
from holdfast.protocol.address import Address, Token
from holdfast.protocol.charter import Charter, open_charter
from holdfast.protocol.clock import Source
from holdfast.protocol.directory import read_json, read_private, write_file, write_json
from holdfast.protocol.errors import BadRequest, HoldfastError, Refused, Unreachable, WrongDirectory
from holdfast.protocol.ids import ClusterId, NodeId, PublicKey, StoreId
from holdfast.protocol.messages.cluster import ClusterInfo
from holdfast.protocol.messages.nodes import Heartbeat, HeartbeatAnswer, Join, Joined
from holdfast.protocol.requests import Signer
from holdfast.protocol.transport import Transport

__all__ = ["Identity", "Membership", "Pace", "load_identity"]

T = TypeVar("T")
_VERSION = 1
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is; the same as long as its folder lives."""

    node: NodeId
    cluster: ClusterId
    store: StoreId
    listen: str
    key: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        """The node's public key."""
        return signing.public_key(self.key)

    def save(self, folder: Path) -> None:
        """Write node.json; the key is there already."""
        write_json(
            folder / "node.json",
            {
                "version": _VERSION,
                "node": self.node.hex(),
                "cluster": self.cluster.hex(),
                "store": self.store.hex(),
                "listen": self.listen,
            },
        )


def load_key(folder: Path, source: Source) -> Ed25519PrivateKey:
    """The node's key, made on the first start."""
    seed = read_private(folder / "node.key")
    if seed is None:
        seed = source.random_bytes(32)
        write_file(folder / "node.key", seed)
    return signing.load_signing_key(seed)


def load_identity(folder: Path, key: Ed25519PrivateKey) -> Identity | None:
    """Who the folder says this node is; None before it has joined.

    Raises:
        WrongDirectory: another version, or the key is another node's.
    """
    values = read_json(folder / "node.json", _VERSION)
    if values is None:
        return None
    try:
        node = NodeId.from_hex(values["node"])
        cluster = ClusterId.from_hex(values["cluster"])
        store = StoreId.from_hex(values["store"])
        listen = str(values["listen"])
    except (KeyError, TypeError, ValueError) as error:
        raise WrongDirectory(f"{folder / 'node.json'} is damaged", why=str(error)) from error
    if node != signing.node_id(signing.public_key(key)):
        raise WrongDirectory(
            f"{folder} is the folder of node {node.short}, but its key is another node's",
            do="Put back the node.key that belongs there.",
        )
    return Identity(node, cluster, store, listen, key)


@dataclass(slots=True)
class Pace:
    """How long a node waits after a report that failed: longer and longer.

    Whoever answers again after silence, and refuses, is another coordinator, restored or rebuilt: its key is
    asked for at once, or it would count this node as down before it has heard of it.
    """

    backoff_s: float = 0.0
    was_silent: bool = False

    def failed(self, heartbeat_s: float, *, is_silent: bool) -> float:
        """Seconds to wait now."""
        longer_s = min(max(2 * self.backoff_s, heartbeat_s), HEARTBEAT_BACKOFF_S_MAX)
        self.backoff_s = heartbeat_s if self.was_silent and not is_silent else longer_s
        self.was_silent = is_silent
        return self.backoff_s


class Membership:
    """The node's side of the talk with the coordinator."""

    def __init__(self, address: Address, transport: Transport, source: Source) -> None:
        self._given = address.url
        self._address = address
        self._told = ""
        self._is_heard = False
        self._transport = transport
        self._source = source
        self.charter: Charter | None = None
        self.heartbeat_s = 1.0
        self.hear_time: Callable[[int], None] = lambda time_ms: None
        """Told the coordinator's wall time with every answer."""
        self.taken: Callable[[Heartbeat], None] = lambda report: None
        """Told which report the coordinator took."""
        self.pulse = 0
        """The highest pulse of the catalogue that an answer told."""

    def follow(self, reign: KnownReign) -> None:
        """Report to this coordinator from now on, where it says it serves.

        One that is heard where this node was sent stays there: it may be reached through a tunnel.
        """
        self._told = reign.url or self._told
        is_same = self.charter == reign.charter
        if reign.url and self._address.url != reign.url and not (is_same and self._is_heard):
            self._address = Address(reign.url, self._address.cluster)
            self.charter = reign.charter

    async def learn_charter(self, at_least_term: int) -> KnownReign:
        """Fetch and prove the coordinator's charter: where it last said it serves, or where we were sent.

        Raises:
            Refused: another cluster, or a term that is over.
            Unreachable: no answer.
        """
        places = list(dict.fromkeys(url for url in (self._told, self._given) if url))
        for at, url in enumerate(places, 1):
            try:
                return await self._learn_at(url, at_least_term)
            except HoldfastError:
                if at == len(places):
                    raise
        raise AssertionError("the loop returns or raises")

    async def _learn_at(self, url: str, at_least_term: int) -> KnownReign:
        info = await self._transport.call("GET", url, "/v1/cluster", answer=ClusterInfo, reads=True)
        cluster = self._address.cluster
        if cluster is None:
            raise BadRequest("the cluster's id is not known")
        charter = open_charter(info.root_key, info.charter, cluster)
        if charter.term < at_least_term:
            raise Refused(
                f"the coordinator at {url} is of term {charter.term}, which is over",
                why=f"this node has seen term {at_least_term}",
            )
        self._address = Address(url, cluster)
        self.charter = charter
        return KnownReign(charter, info.root_key, info.charter, url)

    async def patiently(self, work: Callable[[], Awaitable[object]], what: str) -> None:
        """Try until it works or JOIN_PATIENCE_S are over; refusals are final at once."""
        until = self._source.monotonic() + JOIN_PATIENCE_S
        wait = 0.1
        while True:
            try:
                await work()
                return
            except Unreachable as error:
                if self._source.monotonic() > until:
                    raise
                _log.warning("waiting for the coordinator", what=what, why=error.why or error.what)
            await asyncio.sleep(wait)
            wait = min(2 * wait, 2.0)

    def _signer(self, key: Ed25519PrivateKey, cluster: ClusterId) -> Signer:
        return Signer("node", b"", signing.node_id(signing.public_key(key)), key, cluster)

    async def join(
        self,
        token: Token,
        key: Ed25519PrivateKey,
        *,
        url: str,
        zone: str,
        capacity_bytes: int,
        store: StoreId,
    ) -> Joined:
        """Join with a one-time token; asking again with the same token and key is safe."""
        assert self.charter is not None and self._address.cluster is not None
        joined = await self._transport.call(
            "POST",
            self._address.url,
            "/v1/nodes/join",
            Join(
                token=token.secret,
                key=signing.public_key(key),
                url=url,
                zone=zone,
                capacity_bytes=capacity_bytes,
                store=store,
            ),
            answer=Joined,
            signer=self._signer(key, self._address.cluster),
            receiver=self.charter.coordinator,
            reads=True,  # joining twice is the same as once
        )
        self.heartbeat_s = joined.heartbeat_ms / 1000
        return joined

    async def beat(self, identity: Identity, report: Heartbeat) -> HeartbeatAnswer:
        """One heartbeat."""
        assert self.charter is not None
        answer = await self._transport.call(
            "POST",
            self._address.url,
            "/v1/nodes/heartbeat",
            report,
            answer=HeartbeatAnswer,
            signer=self._signer(identity.key, identity.cluster),
            receiver=self.charter.coordinator,
            reads=True,
            timeout_s=max(2.0, 4 * self.heartbeat_s),
        )
        self.heartbeat_s = answer.heartbeat_ms / 1000
        self._is_heard = True
        self.pulse = max(self.pulse, answer.pulse)
        self.hear_time(answer.time_ms)
        self.taken(report)
        return answer

    async def tell(self, identity: Identity, target: str, message: Any, answer: type[T]) -> T:
        """Something to tell the coordinator that may be told again.

        Raises:
            Unreachable: there is no coordinator now. HoldfastError: what it refuses.
        """
        if self.charter is None:
            raise Unreachable("the coordinator is not known yet")
        return await self._transport.call(
            "POST",
            self._address.url,
            target,
            message,
            answer=answer,
            signer=self._signer(identity.key, identity.cluster),
            receiver=self.charter.coordinator,
            reads=True,
        )

    async def report_forever(
        self,
        identity: Identity,
        report: Callable[[], Heartbeat],
        reigned: Callable[[KnownReign], Awaitable[object]],
        term: Callable[[], int],
    ) -> None:
        """Heartbeats until cancelled; follows a coordinator that comes back with a new charter."""
        pace = Pace()
        while True:
            try:
                if self.charter is None:
                    await reigned(await self.learn_charter(term()))
                answer = await self.beat(identity, report())
                if self.charter is not None and answer.term > self.charter.term:
                    await reigned(await self.learn_charter(answer.term))
                pace, pause_s = Pace(), self.heartbeat_s
            except HoldfastError as error:
                self._is_heard = False
                if pace == Pace():
                    _log.warning("the coordinator does not take this node's report", why=str(error))
                if not isinstance(error, Unreachable) or self._told not in ("", self._given):
                    self.charter = None  # it may have another key now, or serve elsewhere
                pause_s = pace.failed(self.heartbeat_s, is_silent=isinstance(error, Unreachable))
            await asyncio.sleep(pause_s)
