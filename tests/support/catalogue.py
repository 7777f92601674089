"""A catalogue with an account, a group and uploads, without a service around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import Connection

from holdfast.client.identity import DeviceKeys, RootKeys, first_device_list
from holdfast.coordinator.catalogue.accounts import account_row, register
from holdfast.coordinator.catalogue.chunks import claim, commit, locate, note_reports
from holdfast.coordinator.catalogue.engine import Catalogue
from holdfast.coordinator.catalogue.nodes import (
    NodeRow,
    add_groups,
    add_token,
    all_groups,
    join_node,
)
from holdfast.coordinator.catalogue.uploads import end_upload, expire_uploads, open_upload, require_open
from holdfast.coordinator.placement import Group
from holdfast.coordinator.quorum import DurableStripe
from holdfast.protocol.accounts import open_device_list
from holdfast.protocol.ids import (
    AccountId,
    ChunkId,
    ClusterId,
    DeviceId,
    Digest,
    NodeId,
    PublicKey,
    StoreId,
    UploadId,
)
from holdfast.protocol.messages.uploads import (
    CommittedChunk,
    LocatedChunk,
    ReportEntry,
    SendChunk,
    StoredChunk,
)
from holdfast.protocol.profiles import Profile
from holdfast.protocol.signing import Signed
from holdfast.protocol.stripes import digest_of

CLUSTER = ClusterId(b"c" * 32)
PROFILE = Profile(4, 2)
NODES = [NodeId(bytes([i]) * 16) for i in range(1, 7)]


def chunk_id(number: int) -> ChunkId:
    return ChunkId(digest_of(b"chunk %d" % number))


def upload_id(number: int) -> UploadId:
    return UploadId(number.to_bytes(16, "big"))


def _join_all(connection: Connection) -> None:
    for node in NODES:
        token = digest_of(node)
        add_token(connection, token, "node", 10**15, 0)
        key, store = PublicKey(node * 2), StoreId(node)
        row = NodeRow(node, key, f"http://127.0.0.1:{node[0]}", "zone", 10**9, store)
        join_node(connection, token, row, 1)


@cache
def first_list(name: bytes) -> tuple[AccountId, DeviceId, Signed]:
    """Somebody's account, device and first device list: the same each time."""
    root, device = RootKeys.of(digest_of(name)), DeviceKeys.from_bytes(digest_of(name) * 2)
    return root.account, device.id, first_device_list(root, device, "laptop", CLUSTER, bytes(32))


def let_in(connection: Connection, name: bytes, invite: bytes) -> None:
    """Register somebody with an invite."""
    _, _, signed = first_list(name)
    register(connection, digest_of(invite), signed, open_device_list(signed, CLUSTER), 1)


@dataclass
class Book:
    """One catalogue, and shorter words for its commands."""

    catalogue: Catalogue

    @classmethod
    def open(cls, folder: Path) -> Book:
        """A catalogue in a folder, with one group."""
        made = cls(Catalogue(f"sqlite:///{folder / 'catalogue.sqlite'}"))
        if not made.groups():
            made.catalogue.write_now(_join_all)
            made.catalogue.write_now(lambda c: add_groups(c, PROFILE, "usual", [tuple(NODES)]))
        return made

    def groups(self) -> dict[int, Group]:
        return self.catalogue.read_now(all_groups)

    def account(self, name: bytes, quota_bytes: int = 0) -> tuple[AccountId, DeviceId]:
        """A registered account with one device."""
        account, device, _ = first_list(name)
        token = digest_of(b"invite of " + name)
        self.catalogue.write_now(lambda c: add_token(c, token, "invite", 10**15, quota_bytes))
        self.catalogue.write_now(lambda c: let_in(c, name, b"invite of " + name))
        return account, device

    def begin(self, who: tuple[AccountId, DeviceId], number: int, now_ms: int = 0, expected: int = 0) -> None:
        self.catalogue.write_now(
            lambda c: open_upload(c, account_row(c, who[0]), upload_id(number), who[1], expected, now_ms)
        )

    def end(self, who: tuple[AccountId, DeviceId], number: int) -> None:
        self.catalogue.write_now(lambda c: end_upload(c, account_row(c, who[0]), upload_id(number)))

    def expire(self, now_ms: int) -> int:
        return self.catalogue.write_now(lambda c: expire_uploads(c, now_ms))

    def claim(
        self, who: tuple[AccountId, DeviceId], number: int, chunks: list[ChunkId]
    ) -> tuple[list[StoredChunk | None], list[SendChunk | None]]:
        groups = self.groups()

        def command(c: Connection) -> tuple[list[StoredChunk | None], list[SendChunk | None]]:
            account = account_row(c, who[0])
            return claim(c, account, require_open(c, account, upload_id(number)), chunks, groups)

        return self.catalogue.write_now(command)

    def commit(
        self, who: tuple[AccountId, DeviceId], number: int, stripes: list[DurableStripe]
    ) -> list[CommittedChunk]:
        def command(c: Connection) -> list[CommittedChunk]:
            account = account_row(c, who[0])
            return commit(c, account, require_open(c, account, upload_id(number)), stripes)

        return self.catalogue.write_now(command)

    def stripe(
        self, chunk: ChunkId, durable: set[int], *, replaces: bytes = b"", variant: int = 0, size: int = 1000
    ) -> DurableStripe:
        (group,) = self.groups().values()
        digest = Digest(digest_of(chunk + bytes([variant])))
        return DurableStripe(chunk, group, size, digest, frozenset(durable), replaces)

    def locate(self, who: tuple[AccountId, DeviceId], chunks: list[ChunkId]) -> list[LocatedChunk | None]:
        return self.catalogue.read_now(lambda c: locate(c, account_row(c, who[0]), chunks))

    def report(self, who: tuple[AccountId, DeviceId], entries: list[ReportEntry]) -> int:
        groups = self.groups()
        return self.catalogue.write_now(lambda c: note_reports(c, account_row(c, who[0]), entries, groups))
