"""A coordinator served in this process on a clock that tests set, and who talks to it: people and nodes.

The nodes here are keys without a store: they sign receipts for whatever a test says they keep.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.client.identity import DeviceKeys, RootKeys, first_device_list
from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.coordinator.catalogue.nodes import TokenKind, add_token
from holdfast.coordinator.catalogue.uploads import hear_again
from holdfast.coordinator.health import HealthSettings
from holdfast.coordinator.identity import hand_over_operator_key, load_or_make, read_operator_key
from holdfast.coordinator.live import Live
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.service.routes import make_routes
from holdfast.protocol.accounts import (
    NO_DIGEST,
    Device,
    DeviceList,
    Head,
    SnapshotList,
    list_digest,
    open_device_list,
    signed_digest,
)
from holdfast.protocol.address import Address
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.ids import (
    AccountId,
    ChunkId,
    ClusterId,
    Digest,
    NodeId,
    PublicKey,
    SnapshotId,
    StoreId,
    UploadId,
)
from holdfast.protocol.limits import NONCE_BYTES
from holdfast.protocol.messages import accounts as account_messages
from holdfast.protocol.messages import heads as head_messages
from holdfast.protocol.messages import nodes as node_messages
from holdfast.protocol.messages import uploads as upload_messages
from holdfast.protocol.messages.cluster import Refusal
from holdfast.protocol.messages.uploads import CommitChunk, Lease
from holdfast.protocol.receipts import Receipt, ReceiptEntry, encode_receipt
from holdfast.protocol.requests import AUTH_HEADER, Signer
from holdfast.protocol.serving import ListenAddress, Server
from holdfast.protocol.signing import Signed, generate_signing_key, node_id, public_key, sign
from holdfast.protocol.stripes import digest_of
from holdfast.protocol.transport import Transport, body_digest

T = TypeVar("T")


@dataclass
class HandClock:
    """Wall and steady clock as a test sets them; randomness is the system's."""

    wall_ms: int = 1_800_000_000_000
    steady_s: float = 1000.0

    def now_ms(self) -> int:
        return self.wall_ms

    def now_ns(self) -> int:
        return self.wall_ms * 1_000_000

    def monotonic(self) -> float:
        return self.steady_s

    def random_bytes(self, count: int) -> bytes:
        return SYSTEM.random_bytes(count)

    def advance(self, seconds: float) -> None:
        """Time goes by."""
        self.wall_ms += int(1000 * seconds)
        self.steady_s += seconds

    def set_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock, by so much."""
        self.wall_ms += int(1000 * seconds)


def chunk_id(number: int) -> ChunkId:
    return ChunkId(digest_of(b"chunk %d" % number))


def upload_id() -> UploadId:
    return UploadId(SYSTEM.random_bytes(UploadId.SIZE))


@dataclass
class Person:
    """An account's root and one of its devices."""

    name: str
    cluster: ClusterId
    root: RootKeys = field(init=False)
    device: DeviceKeys = field(init=False)
    listed: Signed = field(init=False)

    def __post_init__(self) -> None:
        secret = digest_of(self.name.encode())
        self.root, self.device = RootKeys.of(secret), DeviceKeys.from_bytes(secret * 2)
        self.listed = first_device_list(self.root, self.device, "laptop", self.cluster, bytes(32))

    @property
    def account(self) -> AccountId:
        return self.root.account

    def signer(self, device: DeviceKeys | None = None) -> Signer:
        keys = device or self.device
        return Signer("device", self.account, keys.id, keys.sign_key, self.cluster)

    def next_list(self, devices: Sequence[Device], current: Signed | None = None) -> Signed:
        """The list after the current one, of these devices."""
        before = current or self.listed
        old = open_device_list(before, self.cluster)
        following = DeviceList(
            1,
            old.account,
            old.root_key,
            old.root_box_key,
            old.seq + 1,
            signed_digest(before),
            old.epoch,
            list(devices),
            old.keys,
        )
        payload = encode(following)
        return Signed(payload, sign(self.root.sign_key, "device-list", self.cluster, payload))


@dataclass
class KeyNode:
    """A node of which there is only the key."""

    number: int
    cluster: ClusterId
    zone: str = "zone"

    @property
    def key(self) -> Ed25519PrivateKey:
        return generate_signing_key(bytes([self.number]) * 32)

    @property
    def public(self) -> PublicKey:
        return public_key(self.key)

    @property
    def id(self) -> NodeId:
        return node_id(self.public)

    @property
    def store(self) -> StoreId:
        return StoreId(bytes([self.number]) * StoreId.SIZE)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{20_000 + self.number}"

    def signer(self) -> Signer:
        return Signer("node", b"", self.id, self.key, self.cluster)

    def join(self, token: bytes, **changed: Any) -> node_messages.Join:
        values: dict[str, Any] = {
            "token": token,
            "key": self.public,
            "url": self.url,
            "zone": self.zone,
            "capacity_bytes": 10**9,
            "store": self.store,
        }
        return node_messages.Join(**{**values, **changed})

    def heartbeat(self, **changed: Any) -> node_messages.Heartbeat:
        values: dict[str, Any] = {
            "url": self.url,
            "zone": self.zone,
            "store": self.store,
            "store_counter": 1,
            "capacity_bytes": 10**9,
            "used_bytes": 0,
            "free_bytes": 10**9,
            "shards": 0,
            "state": "ok",
            "start": bytes([self.number]) * 16,
            "quarantined": 0,
            "scrubbed_ms": 0,
            "trouble": "",
            "order": 0,
            "pulse": 0,
            "file_bytes": 0,
            "compacting": -1,
        }
        return node_messages.Heartbeat(**{**values, **changed})

    def receipt(
        self,
        account: AccountId,
        upload: UploadId,
        lease: Lease,
        stripes: Sequence[CommitChunk],
        term: int = 1,
    ) -> Signed:
        """Its word that it keeps its slot of these stripes."""
        slot = lease.members.index(self.id)
        entries = [
            ReceiptEntry(stripe.chunk, upload, slot, Digest(stripe.digests[32 * slot : 32 * slot + 32]))
            for stripe in stripes
        ]
        payload = encode_receipt(
            Receipt(1, self.id, account, upload, term, lease.group, lease.version, 1, self.store, 1, entries)
        )
        return Signed(payload, sign(self.key, "receipt", self.cluster, payload))


def stripe_of(
    chunk: ChunkId, lease: Lease, *, replaces: bytes = b"", sealed_bytes: int = 1000
) -> CommitChunk:
    """What a client says of a stripe it has sent."""
    digests = b"".join(digest_of(chunk + bytes([slot])) for slot in range(lease.k + lease.m))
    return CommitChunk(chunk, lease.group, lease.version, sealed_bytes, digests, replaces)


@dataclass
class Calls:
    """What people and nodes ask of a coordinator at an address."""

    url: str
    cluster: ClusterId
    coordinator: PublicKey
    source: Source
    transport: Transport

    async def call(
        self, method: str, target: str, message: Any, answer: type[T], by: Signer | None, **rest: Any
    ) -> T:
        return await self.transport.call(
            method, self.url, target, message, answer=answer, signer=by, receiver=self.coordinator, **rest
        )

    def signed(self, by: Signer, method: str, target: str, message: Any, time_ms: int | None = None) -> str:
        """The header that signs one request."""
        body = encode(message) if message is not None else b""
        when = self.source.now_ms() if time_ms is None else time_ms
        nonce = SYSTEM.random_bytes(NONCE_BYTES)
        return by.sign(
            self.coordinator, method, target, body_digest(body), time_ms=when, nonce=nonce
        ).header()

    async def raw(
        self, method: str, target: str, body: bytes, header: str | None = None
    ) -> tuple[int, Refusal | bytes]:
        """A request as bytes, as often as one likes; gives status and answer."""
        headers = {AUTH_HEADER: header} if header is not None else {}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + target, data=body or None, headers=headers) as response,
        ):
            content = await response.read()
            return response.status, decode(content, Refusal) if response.status >= 300 else content

    # Accounts

    async def register(self, person: Person, invite: bytes) -> account_messages.Registered:
        message = account_messages.Register(invite=invite, device_list=person.listed)
        return await self.call("POST", "/v1/accounts", message, account_messages.Registered, person.signer())

    async def post_list(self, person: Person, listed: Signed, by: DeviceKeys | None = None) -> None:
        message = account_messages.NewDeviceList(device_list=listed)
        await self.call("POST", "/v1/devices", message, account_messages.AccountState, person.signer(by))
        person.listed = listed

    async def account_state(
        self, person: Person, by: DeviceKeys | None = None
    ) -> account_messages.AccountState:
        return await self.call("GET", "/v1/account", None, account_messages.AccountState, person.signer(by))

    async def status(self, person: Person) -> account_messages.AccountStatus:
        return await self.call(
            "GET", "/v1/account/status", None, account_messages.AccountStatus, person.signer()
        )

    # Nodes

    async def join(self, node: KeyNode, token: bytes, **changed: Any) -> node_messages.Joined:
        message = node.join(token, **changed)
        return await self.call("POST", "/v1/nodes/join", message, node_messages.Joined, node.signer())

    async def beat(self, *nodes: KeyNode, **changed: Any) -> None:
        for node in nodes:
            message = node.heartbeat(**changed)
            await self.call(
                "POST", "/v1/nodes/heartbeat", message, node_messages.HeartbeatAnswer, node.signer()
            )

    # Chunks

    async def open(
        self, person: Person, upload: UploadId, *, expected: int = 0, exclude: Sequence[NodeId] = ()
    ) -> upload_messages.UploadOpened:
        message = upload_messages.OpenUpload(upload=upload, expected_bytes=expected, exclude=list(exclude))
        return await self.call("POST", "/v1/uploads", message, upload_messages.UploadOpened, person.signer())

    async def claim(
        self, person: Person, upload: UploadId, chunks: Sequence[ChunkId]
    ) -> upload_messages.Claimed:
        message = upload_messages.Claim(chunks=list(chunks))
        target = f"/v1/uploads/{upload}/claim"
        return await self.call("POST", target, message, upload_messages.Claimed, person.signer())

    async def commit(
        self, person: Person, upload: UploadId, chunks: Sequence[CommitChunk], receipts: Sequence[Signed]
    ) -> upload_messages.Committed:
        message = upload_messages.Commit(chunks=list(chunks), receipts=list(receipts))
        target = f"/v1/uploads/{upload}/commit"
        return await self.call("POST", target, message, upload_messages.Committed, person.signer())

    async def end(self, person: Person, upload: UploadId) -> None:
        message, target = upload_messages.EndUpload(), f"/v1/uploads/{upload}/end"
        await self.call("POST", target, message, upload_messages.Done, person.signer())

    async def locate(self, person: Person, chunks: Sequence[ChunkId]) -> upload_messages.Located:
        message = upload_messages.Locate(chunks=list(chunks))
        return await self.call("POST", "/v1/locate", message, upload_messages.Located, person.signer())

    async def store(
        self, person: Person, upload: UploadId, lease: Lease, chunks: Sequence[ChunkId], nodes: list[KeyNode]
    ) -> upload_messages.Committed:
        """Commit chunks with a receipt of each of these nodes."""
        stripes = [stripe_of(chunk, lease) for chunk in chunks]
        receipts = [node.receipt(person.account, upload, lease, stripes) for node in nodes]
        return await self.commit(person, upload, stripes, receipts)

    # Heads

    async def heads(self, person: Person, since: int = 0) -> head_messages.HeadState:
        target = f"/v1/heads?since={since}"
        return await self.call("GET", target, None, head_messages.HeadState, person.signer())

    async def post_head(
        self, person: Person, message: head_messages.PostHead, by: DeviceKeys | None = None
    ) -> head_messages.HeadState:
        return await self.call("POST", "/v1/heads", message, head_messages.HeadState, person.signer(by))

    async def records(self, person: Person, wanted: Sequence[SnapshotId]) -> list[bytes | None]:
        message = head_messages.FetchRecords(snapshots=list(wanted))
        target = "/v1/records"
        return (await self.call("POST", target, message, head_messages.Records, person.signer())).records

    def head(
        self,
        person: Person,
        upload: UploadId,
        snapshots: Sequence[SnapshotId],
        records: Sequence[bytes] = (),
        *,
        seq: int = 1,
        previous: Signed | None = None,
        by: DeviceKeys | None = None,
        devices: Signed | None = None,
    ) -> head_messages.PostHead:
        """Head number ``seq``, signed, with its list and new records."""
        exact = encode(SnapshotList(1, list(snapshots)))
        keys, rests_on = by or person.device, devices or person.listed
        head = Head(
            1,
            person.account,
            keys.id,
            seq,
            signed_digest(previous) if previous is not None else NO_DIGEST,
            open_device_list(rests_on, self.cluster).seq,
            signed_digest(rests_on),
            [],
            1,
            list_digest(exact),
        )
        payload = encode(head)
        signed = Signed(payload, sign(keys.sign_key, "head", self.cluster, payload))
        return head_messages.PostHead(head=signed, snapshot_list=exact, records=list(records), upload=upload)


def snapshot(number: int, size: int = 200) -> tuple[SnapshotId, bytes]:
    """A snapshot's id and its sealed record, which is just bytes to a coordinator."""
    sealed = (b"record %d " % number).ljust(size, b".")
    return SnapshotId(digest_of(sealed)), sealed


@dataclass
class Office(Calls):
    """A coordinator in this process, its clock, and its operator."""

    desk: Desk
    clock: HandClock
    operator: Signer

    def token(self, kind: TokenKind, *, lifetime_s: int = 3600, quota_bytes: int = 0) -> bytes:
        """The secret of a new token."""
        secret = SYSTEM.random_bytes(16)
        until = self.clock.now_ms() + 1000 * lifetime_s
        self.desk.catalogue.write_now(lambda c: add_token(c, digest_of(secret), kind, until, quota_bytes))
        return secret

    async def person(self, name: str, quota_bytes: int = 0) -> Person:
        """Somebody with an account."""
        made = Person(name, self.cluster)
        await self.register(made, self.token("invite", quota_bytes=quota_bytes))
        return made

    async def nodes(self, count: int, *, zones: int = 1) -> list[KeyNode]:
        """So many nodes, joined and up."""
        made = [KeyNode(number, self.cluster, f"zone-{number % zones}") for number in range(1, count + 1)]
        for node in made:
            await self.join(node, self.token("node"))
        await self.beat(*made)
        return made


@asynccontextmanager
async def office(
    folder: Path, clock: HandClock | None = None, *, health: HealthSettings | None = None
) -> AsyncIterator[Office]:
    """Serve from a folder; entered again on the same folder it is a restart."""
    clock = clock or HandClock()
    folder.mkdir(exist_ok=True)
    identity, _ = load_or_make(folder, clock)
    catalogue = Catalogue(sqlite_url(folder / "catalogue.sqlite"))
    live = Live(clock, health or HealthSettings(), None, clock.monotonic())
    await live.refresh(catalogue)
    await catalogue.write(lambda c: hear_again(c, live.steady_ms()))
    async with Transport(source=clock) as transport:
        desk = Desk(identity, catalogue, live, clock, "test", transport)
        server = Server(make_routes(desk), ListenAddress("127.0.0.1", 0))
        bound = await server.start()
        try:
            url = f"http://{bound}"
            hand_over_operator_key(folder, Address(url, identity.cluster))
            _, operator = read_operator_key(folder / "operator.key")
            yield Office(url, identity.cluster, identity.public, clock, transport, desk, clock, operator)
        finally:
            await server.stop()
            catalogue.close()
