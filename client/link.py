"""The verified connection to one cluster's coordinator: every path as a typed method.

First contact proves the cluster: the fetched root key must hash to the cluster's
id and the charter must be signed by it. Answers that got lost are asked for
again for a while; every command of the coordinator may be repeated. Where a
coordinator of a higher term answers by now (it was rebuilt or restored meanwhile),
the connection goes on with that one; with one whose term is over, never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from holdfast.client.limits import COURTESY_TIMEOUT_S, PATIENCE_S
from holdfast.protocol.address import Address
from holdfast.protocol.charter import Charter, cluster_id, open_charter
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.errors import (
    BadRequest,
    HoldfastError,
    OutcomeUnknown,
    Refused,
    Rollback,
    Unreachable,
)
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, Digest, NodeId, SnapshotId, UploadId
from holdfast.protocol.limits import RECORDS_FETCH_MAX
from holdfast.protocol.messages import accounts as account_messages
from holdfast.protocol.messages import backups as backup_messages
from holdfast.protocol.messages import heads as head_messages
from holdfast.protocol.messages import sweep as sweep_messages
from holdfast.protocol.messages import uploads as upload_messages
from holdfast.protocol.messages import witness as witness_messages
from holdfast.protocol.messages.cluster import ClusterInfo, MapNode, open_map
from holdfast.protocol.requests import Signer
from holdfast.protocol.signing import Signed
from holdfast.protocol.transport import Transport

__all__ = ["Link"]

T = TypeVar("T")


class Link:
    """One cluster, proven to be the one asked for.

    Args (of :meth:`connect`):
        address: the cluster's address; without an id the cluster that answers is taken, and the
            caller must have it confirmed (``recover`` does).
        patience_s: how long calls go on trying while there is no answer.
    """

    def __init__(
        self, address: Address, charter: Charter, transport: Transport, source: Source, patience_s: float
    ) -> None:
        assert address.cluster is not None
        self.address = address
        self.cluster: ClusterId = address.cluster
        self.charter = charter
        self.transport = transport
        self.source = source
        self._patience_s = patience_s
        self._signer: Signer | None = None
        self._nodes: dict[NodeId, MapNode] = {}
        self._epoch = -1
        self.reigned: Callable[[Charter], None] = lambda charter: None
        """Told of the coordinator that has come to answer in place of the one before."""

    @classmethod
    async def connect(
        cls,
        address: Address,
        *,
        transport: Transport,
        source: Source = SYSTEM,
        patience_s: float = PATIENCE_S,
    ) -> Self:
        """Prove the cluster and connect.

        Raises:
            Unreachable: the coordinator does not answer.
            Refused: another cluster answers at this address.
        """
        try:
            info = await transport.call("GET", address.url, "/v1/cluster", answer=ClusterInfo, reads=True)
        except Unreachable as error:
            raise Unreachable(
                f"the coordinator at {address.url} does not answer",
                why=error.why,
                do="Start it (a local cluster: 'holdfast cluster start coordinator'), or check the address.",
            ) from error
        expected = address.cluster or cluster_id(info.root_key)
        charter = open_charter(info.root_key, info.charter, expected)
        return cls(Address(address.url, expected), charter, transport, source, patience_s)

    def signed_by(self, signer: Signer) -> None:
        """All following calls are signed by this device."""
        self._signer = signer

    @property
    def signer(self) -> Signer:
        """The device that signs."""
        if self._signer is None:
            raise Refused("no device is set up to sign requests")
        return self._signer

    async def _call(
        self,
        method: str,
        target: str,
        message: Any,
        answer: type[T],
        *,
        signed: bool = True,
        reads: bool = False,
    ) -> T:
        until = self.source.monotonic() + self._patience_s
        pause = 0.1
        unknown: OutcomeUnknown | None = None
        while True:
            charter = self.charter
            try:
                return await self.transport.call(
                    method,
                    self.address.url,
                    target,
                    message,
                    answer=answer,
                    signer=self.signer if signed else None,
                    receiver=charter.coordinator,
                    reads=reads or method == "GET",
                )
            except (Unreachable, OutcomeUnknown) as error:
                unknown = error if isinstance(error, OutcomeUnknown) else unknown
                if self.source.monotonic() + pause > until:
                    # That the last try reached nobody says nothing of the one whose answer was lost.
                    if unknown is not None and unknown is not error:
                        raise unknown from error
                    raise
            except Refused as error:
                # Perhaps it was signed for another coordinator than the one that answers by now.
                refusal: HoldfastError = error
                try:
                    if signed and await self._met_successor(charter):
                        continue
                except (Refused, Rollback) as other:
                    refusal = other
                except HoldfastError:
                    pass  # who answers could not be found out: what was refused is what is known
                if unknown is not None:
                    # It says nothing of the try whose answer was lost.
                    raise unknown from refusal
                raise refusal from None
            except HoldfastError as error:
                # Whoever asked decides what that says of a try whose answer was lost.
                if unknown is not None:
                    raise error from unknown
                raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def _met_successor(self, before: Charter) -> bool:
        """Go on with the coordinator that answers, where its term is higher; False: it is the one before.

        Raises:
            Rollback: its term is over. Refused: it is of another cluster. Unreachable: nobody answers.
        """
        if self.charter != before:
            return True  # another call that was under way has met it
        url = self.address.url
        info = await self.transport.call("GET", url, "/v1/cluster", answer=ClusterInfo, reads=True)
        charter = open_charter(info.root_key, info.charter, self.cluster)
        self.require_term(charter, self.charter.term)
        if charter.term == self.charter.term:
            return self.charter != before
        self.charter = charter
        self._nodes, self._epoch = {}, -1
        self.reigned(charter)
        return True

    def require_term(self, charter: Charter, met: int) -> None:
        """A coordinator must not be of a lower term than one that was met; raises Rollback."""
        if charter.term < met:
            raise Rollback(
                f"the coordinator at {self.address.url} is of term {charter.term}, which is over",
                why=f"this device has met the one of term {met}, which was restored or rebuilt since",
                do="Ask its operator for the address, and set HOLDFAST_COORDINATOR to it.",
            )

    # Accounts

    async def register(self, message: account_messages.Register) -> account_messages.Registered:
        """A new account."""
        return await self._call("POST", "/v1/accounts", message, account_messages.Registered)

    async def enrolment_nonce(self, account: AccountId) -> bytes:
        """A nonce to prove the root key with."""
        message = account_messages.EnrolmentBegin(account=account)
        answer = await self._call(
            "POST", "/v1/enrolments", message, account_messages.EnrolmentNonce, signed=False
        )
        return answer.nonce

    async def enrolment_open(self, enrolment: Signed) -> account_messages.AccountState:
        """The account's device list, against proof of the root key. Not repeated: the nonce is used up."""
        message = account_messages.EnrolmentOpen(enrolment=enrolment)
        return await self.transport.call(
            "POST", self.address.url, "/v1/enrolments/open", message, answer=account_messages.AccountState
        )

    async def new_device_list(self, device_list: Signed) -> account_messages.AccountState:
        """The next device list, signed by a device listed in it."""
        message = account_messages.NewDeviceList(device_list=device_list)
        return await self._call("POST", "/v1/devices", message, account_messages.AccountState)

    async def account_state(self) -> account_messages.AccountState:
        """The current device list."""
        return await self._call("GET", "/v1/account", None, account_messages.AccountState)

    async def account_status(self) -> account_messages.AccountStatus:
        """Numbers and verdict for the owner."""
        return await self._call("GET", "/v1/account/status", None, account_messages.AccountStatus)

    # Uploads

    async def open_upload(
        self, upload: UploadId, expected_bytes: int, exclude: Sequence[NodeId] = ()
    ) -> upload_messages.UploadOpened:
        """Open an upload."""
        message = upload_messages.OpenUpload(
            upload=upload, expected_bytes=expected_bytes, exclude=list(exclude)
        )
        return await self._call("POST", "/v1/uploads", message, upload_messages.UploadOpened)

    async def begin_backup(
        self, upload: UploadId, expected_bytes: int, since: int
    ) -> backup_messages.BackupBegun:
        """Open an upload, and learn what the account's newest head is in that moment."""
        message = backup_messages.BeginBackup(
            upload=upload, expected_bytes=expected_bytes, exclude=[], since=since
        )
        return await self._call("POST", "/v1/backups", message, backup_messages.BackupBegun)

    async def renew_upload(self, upload: UploadId, exclude: Sequence[NodeId]) -> upload_messages.UploadOpened:
        """Keep it alive; fresh leases."""
        message = upload_messages.RenewUpload(exclude=list(exclude))
        return await self._call("POST", f"/v1/uploads/{upload}/renew", message, upload_messages.UploadOpened)

    async def claim(self, upload: UploadId, chunks: Sequence[ChunkId]) -> upload_messages.Claimed:
        """What is stored already."""
        message = upload_messages.Claim(chunks=list(chunks))
        answer = await self._call("POST", f"/v1/uploads/{upload}/claim", message, upload_messages.Claimed)
        if len(answer.stored) != len(chunks) or len(answer.send) != len(chunks):
            raise BadRequest("the coordinator's answer to a claim does not cover what was asked")
        return answer

    async def commit(self, upload: UploadId, message: upload_messages.Commit) -> upload_messages.Committed:
        """Stripes with their receipts."""
        answer = await self._call("POST", f"/v1/uploads/{upload}/commit", message, upload_messages.Committed)
        if len(answer.chunks) != len(message.chunks):
            raise BadRequest("the coordinator's answer to a commit does not cover what was sent")
        return answer

    async def end_upload(self, upload: UploadId) -> None:
        """It is over."""
        message = upload_messages.EndUpload()
        await self.transport.call(
            "POST",
            self.address.url,
            f"/v1/uploads/{upload}/end",
            message,
            answer=upload_messages.Done,
            signer=self.signer,
            receiver=self.charter.coordinator,
            timeout_s=COURTESY_TIMEOUT_S,
        )

    async def locate(self, chunks: Sequence[ChunkId]) -> upload_messages.Located:
        """Where chunks lie."""
        message = upload_messages.Locate(chunks=list(chunks))
        answer = await self._call("POST", "/v1/locate", message, upload_messages.Located, reads=True)
        if len(answer.chunks) != len(chunks):
            raise BadRequest("the coordinator's answer to a locate does not cover what was asked")
        return answer

    async def report(self, entries: Sequence[upload_messages.ReportEntry]) -> None:
        """Wrong or absent shards met while reading: once, whoever reads does not wait for long."""
        await self.transport.call(
            "POST",
            self.address.url,
            "/v1/reports",
            upload_messages.Report(entries=list(entries)),
            answer=upload_messages.Done,
            signer=self.signer,
            receiver=self.charter.coordinator,
            timeout_s=COURTESY_TIMEOUT_S,
        )

    # Heads

    async def post_head(self, message: head_messages.PostHead) -> head_messages.HeadState:
        """The next head."""
        return await self._call("POST", "/v1/heads", message, head_messages.HeadState)

    async def post_snapshot(self, message: backup_messages.PostSnapshot) -> head_messages.HeadState:
        """The next head, together with the chunks that it needs and that are not committed yet."""
        return await self._call("POST", "/v1/snapshots", message, head_messages.HeadState)

    async def heads(self, since: int) -> head_messages.HeadState:
        """The newest head, and the links after one that is known."""
        return await self._call("GET", f"/v1/heads?since={since}", None, head_messages.HeadState)

    async def records(self, wanted: Sequence[SnapshotId]) -> list[bytes | None]:
        """Sealed snapshot records, one per id."""
        found: list[bytes | None] = []
        while len(found) < len(wanted):
            portion = list(wanted[len(found) : len(found) + RECORDS_FETCH_MAX])
            message = head_messages.FetchRecords(snapshots=portion)
            answer = await self._call("POST", "/v1/records", message, head_messages.Records, reads=True)
            if not answer.records or len(answer.records) > len(portion):
                raise BadRequest(
                    "the coordinator's answer about snapshot records does not cover what was asked"
                )
            found.extend(answer.records)
        return found

    # Sweeping

    async def begin_sweep(self, head_seq: int, head: Digest) -> sweep_messages.SweepBegun:
        """The lease on sweeping by this head."""
        message = sweep_messages.BeginSweep(head_seq=head_seq, head=head)
        return await self._call("POST", "/v1/sweeps", message, sweep_messages.SweepBegun)

    async def mark_live(self, sweep: int, chunks: Sequence[ChunkId]) -> int:
        """Mark chunks as reached, and renew the lease; gives how many are marked."""
        message = sweep_messages.MarkLive(chunks=list(chunks))
        answer = await self._call("POST", f"/v1/sweeps/{sweep}/mark", message, sweep_messages.Marked)
        return answer.marked

    async def count_sweep(self, sweep: int) -> sweep_messages.SweepCounted:
        """What a seal would move to the trash."""
        message = sweep_messages.CountSweep()
        return await self._call("POST", f"/v1/sweeps/{sweep}/count", message, sweep_messages.SweepCounted)

    async def seal_sweep(self, sweep: int, live: Signed) -> sweep_messages.SweepSealed:
        """The sweep counts; sealed again, how far it is."""
        message = sweep_messages.SealSweep(live=live)
        return await self._call("POST", f"/v1/sweeps/{sweep}/seal", message, sweep_messages.SweepSealed)

    async def end_sweep(self, sweep: int) -> None:
        """Give the lease up."""
        message = sweep_messages.EndSweep()
        await self._call("POST", f"/v1/sweeps/{sweep}/end", message, upload_messages.Done)

    async def forgotten(self) -> sweep_messages.Forgotten:
        """Snapshots that may come back, and the trash."""
        return await self._call("GET", "/v1/forgotten", None, sweep_messages.Forgotten)

    # Nodes

    async def nodes(self, wanted: Sequence[NodeId], epoch: int) -> dict[NodeId, MapNode]:
        """The wanted nodes' addresses and keys, from the signed cluster map (cached by epoch)."""
        if epoch > self._epoch or any(node not in self._nodes for node in wanted):
            signed = await self._call("GET", "/v1/map", None, Signed, signed=False)
            opened = open_map(signed, self.cluster, self.charter.coordinator)
            self._nodes = {node.id: node for node in opened.nodes}
            self._epoch = opened.epoch
        return {node: self._nodes[node] for node in wanted if node in self._nodes}

    async def all_nodes(self) -> dict[NodeId, MapNode]:
        """Every node of the cluster map as it is now."""
        await self.nodes([], self._epoch + 1)
        return dict(self._nodes)

    async def ask_witness(
        self, node: MapNode, message: witness_messages.AskWitness, timeout_s: float
    ) -> witness_messages.Witnessed:
        """What a node says of the account's heads, not yet verified."""
        return await self.transport.call(
            "POST",
            node.url,
            "/v1/witness",
            message,
            answer=witness_messages.Witnessed,
            signer=self.signer,
            receiver=node.id,
            reads=True,
            timeout_s=timeout_s,
        )
