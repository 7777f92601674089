"""A catalogue that is older than what witnesses keep takes over their heads.

It happens after a restore from a backup, and while a coordinator is rebuilt. Nothing is believed: a head
is signed by a device that the account's root lists, a list is named by its head, a record by its list.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from blake3 import blake3

from holdfast.coordinator.catalogue.accounts import account_row
from holdfast.coordinator.catalogue.adopted import adopt_heads
from holdfast.coordinator.catalogue.heads import head_state, known_records
from holdfast.coordinator.catalogue.nodes import NodeRow
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.reconciling import begin_round
from holdfast.protocol.accounts import (
    NO_DIGEST,
    DeviceList,
    Head,
    SnapshotList,
    open_device_list,
    open_head,
    open_snapshot_list,
    signed_digest,
)
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import AccountId, ClusterId, Digest, NodeId, SnapshotId
from holdfast.protocol.messages.witness import HeadsKept, KeptHead, ReadHeads, ReadRecords, RecordsKept
from holdfast.protocol.signing import Signed

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = ["Devices", "catch_up", "choose_heads", "read_heads", "read_records"]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Devices:
    """An account's device list, opened, and its signed digest."""

    listed: DeviceList
    digest: Digest

    @classmethod
    def of(cls, signed: Signed, cluster: ClusterId) -> Devices:
        """Opened; raises what open_device_list raises."""
        return cls(open_device_list(signed, cluster), signed_digest(signed))


def choose_heads(
    found: Mapping[NodeId, Sequence[KeptHead]],
    devices: Devices,
    cluster: ClusterId,
    after: tuple[int, Digest] = (0, NO_DIGEST),
) -> list[KeptHead]:
    """The chain of heads that leads furthest, oldest first, behind a known one. Pure.

    Of all valid heads the one with the highest number counts, of equal ones that which more nodes keep;
    but only if all links to the known one are there. What leads nowhere is left out.

    Args:
        found: what each node keeps.
        after: number and digest of the head that is known; (0, zeros): none.
    """
    valid: dict[Digest, tuple[Head, KeptHead]] = {}
    holders: dict[Digest, int] = {}
    for kept_heads in found.values():
        for kept in kept_heads:
            digest = signed_digest(kept.head)
            holders[digest] = holders.get(digest, 0) + 1
            if digest in valid:
                continue
            try:
                head = open_head(kept.head, cluster, devices.listed, devices.digest)
                open_snapshot_list(kept.snapshot_list, head)
            except HoldfastError:
                continue
            valid[digest] = (head, kept)
    best = sorted(valid, key=lambda digest: (valid[digest][0].seq, holders[digest], digest), reverse=True)
    for digest in best:
        chain: list[KeptHead] = []
        at = digest
        seq = valid[digest][0].seq
        while at in valid and valid[at][0].seq == seq and seq > after[0]:
            chain.append(valid[at][1])
            at, seq = valid[at][0].previous, seq - 1
        if (seq, at) == after:
            return chain[::-1]
    return []


async def read_heads(calls: NodeCalls, node: NodeRow, account: AccountId, after: int) -> list[KeptHead]:
    """All heads of an account that a node keeps behind a number. Raises HoldfastError."""
    found: list[KeptHead] = []
    while True:
        message = ReadHeads(account=account, after=after)
        page = (await calls.ask(node, "POST", "/v1/kept/heads", message, HeadsKept)).heads
        if not page:
            return found
        found.extend(page)
        following = decode(page[-1].head.payload, Head).seq
        if following <= after:
            return found  # it goes round in circles
        after = following


async def read_records(
    calls: NodeCalls, node: NodeRow, account: AccountId, wanted: set[SnapshotId]
) -> dict[SnapshotId, bytes]:
    """Those of the wanted records that a node keeps. Raises HoldfastError."""
    found: dict[SnapshotId, bytes] = {}
    after = b""
    while len(found) < len(wanted):
        message = ReadRecords(account=account, after=after)
        page = (await calls.ask(node, "POST", "/v1/kept/records", message, RecordsKept)).records
        if not page:
            break
        for sealed in page:
            snapshot = SnapshotId(blake3(sealed).digest())
            if snapshot in wanted:
                found[snapshot] = sealed
        following = bytes(blake3(page[-1]).digest())
        if following <= after:
            break
        after = following
    return found


async def catch_up(desk: Desk, account: AccountId, nodes: Collection[NodeId]) -> int:
    """Take over what these nodes keep behind the account's newest head; gives its number then."""
    row, state = await desk.catalogue.read(
        lambda c: ((found := account_row(c, account)), head_state(c, found, found.head_seq))
    )
    digest = signed_digest(state.head) if state.head is not None else NO_DIGEST
    found: dict[NodeId, list[KeptHead]] = {}
    for node in nodes:
        known = desk.live.nodes.get(node)
        if known is None:
            continue
        try:
            found[node] = await read_heads(desk.calls, known, account, row.head_seq)
        except HoldfastError as error:
            _log.info("a witness could not be read", node=node.short, why=str(error))
    cluster = desk.identity.cluster
    chain = choose_heads(found, Devices.of(row.device_list, cluster), cluster, (row.head_seq, digest))
    if not chain:
        return row.head_seq
    wanted = {snapshot for kept in chain for snapshot in decode(kept.snapshot_list, SnapshotList).snapshots}
    wanted -= await desk.catalogue.read(lambda c: known_records(c, row, sorted(wanted)))
    records: dict[SnapshotId, bytes] = {}
    for node in found:
        row_now = desk.live.nodes.get(node)
        if row_now is not None and wanted - records.keys():
            try:
                records |= await read_records(desk.calls, row_now, account, wanted - records.keys())
            except HoldfastError as error:
                _log.info("a witness could not be read", node=node.short, why=str(error))
    seq = await desk.catalogue.write(lambda c: adopt_heads(c, account_row(c, account), chain, records))
    begin_round(desk, is_old=True)
    _log.warning(
        "the catalogue was older than its witnesses and took over their heads; it is to be reconciled",
        heads=len(chain),
        seq=seq,
    )
    return seq
