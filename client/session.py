"""One opened account on one cluster: signed link, keys, verified heads, manifest pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from msgspec.structs import replace

from holdfast.client.heads import HeadView, having_seen, read_head
from holdfast.client.home import Home, KnownAccount
from holdfast.client.identity import AccountKeys, open_account_keys
from holdfast.client.link import Link
from holdfast.client.manifest import open_page
from holdfast.client.recent_chunks import RecentChunks
from holdfast.client.sealing import SealingKeys
from holdfast.client.snapshot_record import ChunkRef, SnapshotRecord, open_record
from holdfast.protocol.accounts import DeviceList
from holdfast.protocol.address import Address
from holdfast.protocol.charter import Charter
from holdfast.protocol.clock import Source
from holdfast.protocol.errors import (
    HoldfastError,
    IntegrityFailure,
    NotFound,
    Refused,
    TooFewShards,
)
from holdfast.protocol.ids import ChunkId, SnapshotId
from holdfast.protocol.messages.backups import BackupBegun
from holdfast.protocol.requests import Signer
from holdfast.protocol.transport import Transport

if TYPE_CHECKING:
    from holdfast.client.download import Downloader

__all__ = ["Session"]


class Session:
    """Made by :meth:`open`; everything that needs the account goes through it."""

    def __init__(self, home: Home, known: KnownAccount, link: Link, source: Source) -> None:
        self.home = home
        self.known = known
        self.link = link
        self.source = source
        self.device = home.device()
        self.keys: list[AccountKeys] = home.account_keys()
        self._keys_proven = False
        self.cache = home.cache()
        self.recent = RecentChunks()

    @classmethod
    async def open(
        cls, home: Home, *, transport: Transport, source: Source, coordinator: Address | None = None
    ) -> Session:
        """Open the account of a folder.

        Args:
            coordinator: where the coordinator is now, if elsewhere than remembered; its cluster
                must be the account's.

        Raises:
            NoAccount, WrongDirectory: the folder. Unreachable: the coordinator.
            Refused: another cluster is meant, or answers.
            Rollback: a coordinator answers whose term is over.
        """
        known = home.account()
        address = known.address
        if coordinator is not None:
            if coordinator.cluster not in (None, address.cluster):
                raise Refused(
                    f"the account in {home.folder} is on another cluster than HOLDFAST_COORDINATOR names",
                    why=f"it is on {address}",
                    do="Set HOLDFAST_HOME to that cluster's account, or unset HOLDFAST_COORDINATOR.",
                )
            address = Address(coordinator.url, address.cluster)
        link = await Link.connect(address, transport=transport, source=source)
        link.require_term(link.charter, known.term)
        device = home.device()
        link.signed_by(Signer("device", known.account, device.id, device.sign_key, link.cluster))
        opened = cls(home, known, link, source)
        link.reigned = opened._reigned
        if link.charter.term > known.term:
            opened._reigned(link.charter)
        return opened

    @cached_property
    def downloader(self) -> Downloader:
        """What fetches chunks; it, and the erasure code, are loaded when the first one is wanted."""
        from holdfast.client.download import Downloader

        return Downloader(self.link, source=self.source)

    def _reigned(self, charter: Charter) -> None:
        self._remember(replace(self.known, term=charter.term))

    @property
    def current_keys(self) -> AccountKeys:
        """The newest epoch's keys: what new chunks are sealed with."""
        return self.keys[-1]

    @property
    def sealing_keys(self) -> Mapping[int, SealingKeys]:
        """Sealing keys by epoch."""
        return {keys.epoch: keys.sealing for keys in self.keys}

    def _remember(self, known: KnownAccount) -> None:
        """Never forget a newer head: another process may have seen one meanwhile."""
        with self.home.lock(wait=True):
            stored = self.home.account()
            if stored.head_seq > known.head_seq:
                known = replace(known, head_seq=stored.head_seq, head_digest=stored.head_digest)
            if stored.device_list_seq > known.device_list_seq:
                known = replace(
                    known,
                    device_list_seq=stored.device_list_seq,
                    device_list_digest=stored.device_list_digest,
                )
            known = replace(known, term=max(known.term, stored.term))
            self.home.save_account(known)
        self.known = known

    async def head(self) -> HeadView:
        """The newest head, verified against everything this device has seen.

        Raises:
            WrongKey: the device's key does not open what the device list holds for it. Else as read_head.
        """
        self.known = self.home.account()
        return self._proven(await read_head(self.link, self.known, self._remember))

    async def head_begun(self, known: KnownAccount, begun: BackupBegun) -> HeadView:
        """The newest head as it was when a backup's upload opened, verified as by :meth:`head`.

        Args:
            known: what this device had seen when it asked.
        """
        return self._proven(await read_head(self.link, known, self._remember, (begun.account, begun.heads)))

    def _proven(self, view: HeadView) -> HeadView:
        if not self._keys_proven or view.devices.epoch > self.current_keys.epoch:
            self._prove_keys(view.devices)
        return view

    def saw(self, view: HeadView) -> None:
        """A head that this device posted, and that is witnessed: never accept an older one again."""
        self._remember(having_seen(self.known, view))

    def _prove_keys(self, listed: DeviceList) -> None:
        """What seals new chunks must be what the root-signed list holds for this device: under any other
        key a backup would succeed, and no other device could ever read it. A wrong file is put right."""
        keys = open_account_keys(listed, self.link.cluster, self.device.box_key, self.device.id)
        if [(key.epoch, key.secret) for key in keys] != [(key.epoch, key.secret) for key in self.keys]:
            self.keys = keys
            self.home.save_keys(keys)
        self._keys_proven = True

    async def records(self, wanted: Sequence[SnapshotId]) -> list[SnapshotRecord]:
        """Snapshot records, opened.

        Raises:
            IntegrityFailure: one is gone or does not open.
        """
        return list(await self.records_backwards(wanted))[::-1]

    async def records_backwards(self, wanted: Sequence[SnapshotId]) -> Iterator[SnapshotRecord]:
        """The same, the last first: all are fetched, and each is opened when it is asked for.

        Raises:
            IntegrityFailure: by the iterator, when it comes to one that is gone or does not open.
        """
        return self._opened_backwards(wanted, await self.link.records(wanted))

    def _opened_backwards(
        self, wanted: Sequence[SnapshotId], records: Sequence[bytes | None]
    ) -> Iterator[SnapshotRecord]:
        for snapshot, sealed in zip(reversed(wanted), reversed(records), strict=True):
            if sealed is None:
                raise IntegrityFailure(
                    f"the coordinator does not have the record of snapshot {snapshot.short}"
                )
            yield open_record(self.keys, self.link.cluster, self.known.account, snapshot, sealed)

    async def pages(self, refs: Sequence[ChunkRef]) -> list[bytes | HoldfastError]:
        """Plaintexts of manifest pages, from the cache or the nodes (a PageLoader)."""
        keys = self.sealing_keys
        found: dict[ChunkRef, bytes | HoldfastError] = {}
        for ref in refs:
            sealed = self.cache.get(ref.chunk)
            if sealed is not None:
                try:
                    found[ref] = open_page(keys, ref, sealed)
                except IntegrityFailure:
                    self.cache.drop(ref.chunk)
        lacking: dict[ChunkId, list[ChunkRef]] = {}
        for ref in refs:
            if ref not in found:
                lacking.setdefault(ref.chunk, []).append(ref)
        if lacking:
            await self._fetch_pages(lacking, found)
        return [found[ref] for ref in refs]

    async def _fetch_pages(
        self, lacking: Mapping[ChunkId, Sequence[ChunkRef]], found: dict[ChunkRef, bytes | HoldfastError]
    ) -> None:
        keys = self.sealing_keys
        async for chunk, got in self.downloader.fetch(list(lacking)):
            for ref in lacking[chunk]:
                if isinstance(got, HoldfastError):
                    found[ref] = got
                    continue
                try:
                    found[ref] = open_page(keys, ref, got)
                    self.cache.put(chunk, got)
                except IntegrityFailure as error:
                    found[ref] = error.bare()

    async def find_missing(self, chunks: Sequence[ChunkId]) -> dict[ChunkId, HoldfastError]:
        """Chunks that cannot be had now, by the catalogue and the nodes believed up (a FindMissing)."""
        located = await self.link.locate(chunks)
        groups = {group.group: group for group in located.groups}
        down = set(located.down)
        wrong: dict[ChunkId, HoldfastError] = {}
        for chunk, row in zip(chunks, located.chunks, strict=True):
            if row is None:
                wrong[chunk] = NotFound(f"chunk {chunk.short} is not stored", chunk=chunk.hex())
                continue
            group = groups[row.group]
            up = [
                slot
                for slot, holders in enumerate(group.holders)
                if slot not in row.missing and any(node not in down for node in holders)
            ]
            if len(up) < group.profile.k:
                away = sorted({node.short for holders in group.holders for node in holders if node in down})
                wrong[chunk] = TooFewShards(
                    f"chunk {chunk.short} has {len(up)} shards within reach and needs {group.profile.k}",
                    why=f"nodes {', '.join(away)} are down" if away else "its other shards are gone",
                    chunk=chunk.hex(),
                )
        return wrong
