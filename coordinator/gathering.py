"""What nodes tell somebody who rebuilds a coordinator: who they are, what they keep, what lies on them.

Nodes are believed as far as each thing proves itself: charters by the cluster's root, maps and facts by
the coordinator that such a charter names, device lists by the account's root, heads by listed devices,
records and chunks by their ids. A node that lies can only leave something out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import structlog

from holdfast.coordinator.adopting import FoundShard, FoundStripe, SlotCount, fullest
from holdfast.coordinator.catalogue.nodes import NodeRow
from holdfast.coordinator.limits import COMPARE_SLOTS_MAX, GATHER_CALL_TIMEOUT_S, GROUP_MAX
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.protocol.accounts import DeviceList
from holdfast.protocol.address import parse_url
from holdfast.protocol.charter import Charter, open_charter
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, HoldfastError, Refused
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, NodeId, PublicKey
from holdfast.protocol.inventories import position
from holdfast.protocol.limits import STRIPE_SHARDS_MAX
from holdfast.protocol.messages.cluster import ClusterMap, open_map
from holdfast.protocol.messages.inventory import HeadersRead, ReadHeaders, ReadSums, SumsRead
from holdfast.protocol.messages.nodes import NodeInfo
from holdfast.protocol.messages.witness import (
    AccountFacts,
    AccountsKept,
    KeptMap,
    ReadAccounts,
    Reigned,
)
from holdfast.protocol.profiles import Profile
from holdfast.protocol.signing import Signed, node_id
from holdfast.protocol.stripes import ShardRecord
from holdfast.protocol.transport import Transport
from holdfast.protocol.witnessing import open_facts

__all__ = ["Kept", "find_node", "highest_reign", "open_kept_map", "read_kept", "read_stripes", "read_sums"]

T = TypeVar("T")
_log = structlog.get_logger()


async def find_node(transport: Transport, url: str, cluster: ClusterId) -> NodeRow:
    """Who answers at a URL.

    Raises:
        Refused: a node of another cluster, or one that says another id than its key's.
        Unreachable: nobody.
    """
    url = parse_url(url)
    info = await transport.call(
        "GET", url, "/v1/node", answer=NodeInfo, reads=True, timeout_s=GATHER_CALL_TIMEOUT_S
    )
    if info.cluster != cluster:
        raise Refused(
            f"the node at {url} is of another cluster than the kit",
            why=f"it belongs to cluster {info.cluster.short}, and the kit is of {cluster.short}",
            do="Give the kit of that cluster, or URLs of this one's nodes.",
        )
    if node_id(info.key) != info.node:
        raise Refused(f"the node at {url} says another id than its key's")
    return NodeRow(info.node, info.key, url, "", 0, info.store)


async def highest_reign(
    transport: Transport, urls: Iterable[str], root: PublicKey, cluster: ClusterId
) -> int:
    """The highest term that nodes have met, by charters that the root signed; 0: none. Never raises."""

    async def one(url: str) -> int:
        try:
            told = await transport.call(
                "GET", url, "/v1/reign", answer=Reigned, reads=True, timeout_s=GATHER_CALL_TIMEOUT_S
            )
            return open_charter(root, told.charter, cluster).term if told.charter is not None else 0
        except HoldfastError as error:
            _log.info("a node does not say who reigns", url=url, why=str(error))
            return 0

    return max(await asyncio.gather(*map(one, urls)), default=0)


@dataclass(slots=True)
class Kept:
    """What nodes keep, proven: of each account the newest facts and who keeps it; the newest map."""

    facts: dict[AccountId, AccountFacts] = field(default_factory=dict)
    keepers: dict[AccountId, list[NodeRow]] = field(default_factory=dict)
    map: ClusterMap | None = None

    def take_facts(self, facts: AccountFacts, node: NodeRow) -> None:
        """One node's facts of an account; of each thing the newer counts."""
        known = self.facts.get(facts.account)
        self.facts[facts.account] = _merged(known, facts) if known is not None else facts
        self.keepers.setdefault(facts.account, []).append(node)

    def take_map(self, opened: ClusterMap) -> None:
        """One node's map; the newer counts."""
        if self.map is None or (opened.term, opened.epoch) > (self.map.term, self.map.epoch):
            self.map = opened


def _merged(one: AccountFacts, other: AccountFacts) -> AccountFacts:
    """What a coordinator decides counts by its term; the device list is its owner's, and by its number.

    A coordinator that was restored from before a list's change has a higher term, and knows an older list.
    """
    decided = max(one, other, key=lambda facts: (facts.term, facts.sweep_generation))
    listed = max(one, other, key=lambda facts: decode(facts.device_list.payload, DeviceList).seq)
    return AccountFacts(
        1,
        decided.term,
        decided.account,
        listed.device_list,
        decided.quota_bytes,
        max(one.sweep_generation, other.sweep_generation),
    )


async def read_kept(calls: NodeCalls, node: NodeRow, root: PublicKey, cluster: ClusterId, kept: Kept) -> None:
    """Read one node's accounts and map; what does not prove itself is left out.

    Raises:
        HoldfastError: the node does not tell.
    """
    after = b""
    while True:
        page = await calls.ask(
            node,
            "POST",
            "/v1/kept/accounts",
            ReadAccounts(after=after),
            AccountsKept,
            timeout_s=GATHER_CALL_TIMEOUT_S,
        )
        if page.map is not None:
            opened = _proven(lambda m=page.map: open_kept_map(m, root, cluster))  # type: ignore[misc]
            if opened is not None:
                kept.take_map(opened)
        if not page.accounts:
            return
        for each in page.accounts:
            facts = _proven(
                lambda e=each: open_facts(e.facts, cluster, _charter(e.charter, root, cluster))  # type: ignore[misc]
            )
            if facts is not None:
                kept.take_facts(facts, node)
        following = bytes(decode(page.accounts[-1].facts.payload, AccountFacts).account)
        if following <= after:
            raise BadRequest(f"node {node.id.short} goes round in circles")
        after = following


def _charter(signed: Signed, root: PublicKey, cluster: ClusterId) -> Charter:
    return open_charter(root, signed, cluster)


def open_kept_map(kept: KeptMap, root: PublicKey, cluster: ClusterId) -> ClusterMap:
    """A map that a node keeps, proven by the coordinator of its term. Raises Refused, BadRequest."""
    charter = open_charter(root, kept.charter, cluster)
    opened = open_map(kept.map, cluster, charter.coordinator)
    if opened.term != charter.term:
        raise Refused("a cluster map is of another term than its charter")
    return opened


def _proven(work: Callable[[], T]) -> T | None:
    try:
        return work()
    except HoldfastError as error:
        _log.warning("a node keeps something that does not prove itself", why=str(error))
        return None


async def read_sums(calls: NodeCalls, node: NodeRow) -> dict[tuple[int, int], int]:
    """How many shards of which (group, slot) lie on a node. Raises HoldfastError."""
    found: dict[tuple[int, int], int] = {}
    after = b""
    while True:
        page = await calls.ask(
            node,
            "POST",
            "/v1/inventory/sums",
            ReadSums(after=after),
            SumsRead,
            timeout_s=GATHER_CALL_TIMEOUT_S,
        )
        for slot in page.slots:
            in_bounds = 0 <= slot.group <= GROUP_MAX and 0 <= slot.slot < STRIPE_SHARDS_MAX
            if not in_bounds or len(found) > COMPARE_SLOTS_MAX:
                raise BadRequest("a node tells of a slot that no group can have, or of too many")
            found[(slot.group, slot.slot)] = found.get((slot.group, slot.slot), 0) + slot.shards
        if not page.next or page.next <= after:
            return found
        after = page.next


async def read_profile(calls: NodeCalls, node: NodeRow, group: int, slot: int) -> Profile | None:
    """The profile of the first shard of a slot; None where none holds. Raises HoldfastError."""
    records, _ = await _page(calls, node, group, slot, b"")
    return records[0].stripe.profile if records else None


async def slot_counts(
    calls: NodeCalls, sums: Mapping[NodeId, Mapping[tuple[int, int], int]], rows: Mapping[NodeId, NodeRow]
) -> list[SlotCount]:
    """What lies where, with the profiles of what lies there, as far as nodes tell."""
    counts = []
    for node, slots in sums.items():
        try:
            for (group, slot), shards in slots.items():
                profile = await read_profile(calls, rows[node], group, slot)
                if profile is not None:
                    counts.append(SlotCount(group, slot, profile, node, shards))
        except HoldfastError as error:
            _log.warning("a node does not tell what lies on it", node=node.short, why=str(error))
    return counts


async def _page(
    calls: NodeCalls, node: NodeRow, group: int, slot: int, after: bytes
) -> tuple[list[ShardRecord], bool]:
    """(records behind a position, are there more). Records that do not hold are left out."""
    while True:
        message = ReadHeaders(group=group, slot=slot, after=after, until=b"")
        told = await calls.ask(
            node, "POST", "/v1/inventory/headers", message, HeadersRead, timeout_s=GATHER_CALL_TIMEOUT_S
        )
        records = []
        for header in told.headers:
            record = _proven(lambda h=header: ShardRecord.unpack_header(h))  # type: ignore[misc]
            if record is not None and (record.group, record.slot) == (group, slot):
                records.append(record)
        positions = [after, *map(_position, records)]
        if any(later <= sooner for sooner, later in pairwise(positions)) or (
            told.next and told.next <= after
        ):
            raise BadRequest(f"node {node.id.short} goes round in circles")
        if records or not told.next:
            return records, bool(told.next)
        after = told.next  # a whole page that does not hold: go on behind it


async def read_stripes(
    calls: NodeCalls, group: int, holders: Iterable[tuple[NodeRow, int]]
) -> AsyncIterator[list[FoundStripe]]:
    """The stripes of a group that are found on these (node, slot), in portions.

    All are read in step, position by position, so that memory holds one page of each. A node that stops
    telling is left out from there on: what lies on it is found when it is compared.
    """
    sources = list(holders)
    after = b""
    while True:
        pages: list[tuple[list[ShardRecord], bool]] = []
        asked = [_page(calls, node, group, slot, after) for node, slot in sources]
        for source, page in zip(
            list(sources), await asyncio.gather(*asked, return_exceptions=True), strict=True
        ):
            if isinstance(page, HoldfastError):
                _log.warning("a node stopped telling", node=source[0].id.short, group=group, why=str(page))
                sources.remove(source)
            elif isinstance(page, BaseException):
                raise page
            else:
                pages.append(page)
        ends = [_position(records[-1]) for records, more in pages if more and records]
        until = min(ends, default=b"")
        by_chunk: dict[tuple[AccountId, ChunkId], list[FoundShard]] = {}
        for (node, _), (records, _more) in zip(sources, pages, strict=True):
            for record in records:
                if not until or _position(record) <= until:
                    shard = FoundShard.of(node.id, record)
                    by_chunk.setdefault((shard.account, shard.chunk), []).append(shard)
        yield [stripe for shards in by_chunk.values() if (stripe := fullest(shards)) is not None]
        if not until:
            return
        after = until


def _position(record: ShardRecord) -> bytes:
    return position(record.account, record.chunk, record.generation)
