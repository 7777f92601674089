"""The catalogue joined with what really lies on the nodes. Pure.

The catalogue believes; the stores know. Where they differ, either shards are lost that nobody
noted, or shards lie about that nobody needs. Both are found here, and which stripe has the
fewest shards left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from holdfast.coordinator.catalogue.looking import CatalogueLook, ChunkLook
from holdfast.coordinator.placement import Group, zone_share
from holdfast.node.store import ShardKey
from holdfast.node.store_lmdb_looking import StoreLook
from holdfast.protocol.ids import NodeId

__all__ = ["UNNAMED", "Joined", "Shard", "Stripe", "join"]

UNNAMED = "nothing names it"
"""Why a shard is an orphan: no row is of its stripe, in whatever group."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard where it is, or should be."""

    node: NodeId
    key: ShardKey
    why: str = ""


@dataclass(frozen=True, slots=True)
class Stripe:
    """A live chunk's stripe.

    Attributes:
        good: slots of which a holder that is not away has the shard, undamaged.
    """

    row: ChunkLook
    group: Group
    good: frozenset[int]

    @property
    def spare(self) -> int:
        """Shards it could still lose; negative when it cannot be read."""
        return len(self.good) - self.group.profile.k

    @property
    def is_whole(self) -> bool:
        """Has it got all its shards?"""
        return len(self.good) == self.group.profile.n


@dataclass(slots=True)
class Joined:
    """What came of joining.

    Attributes:
        stripes: of live chunks, in the catalogue's order.
        unnoted: shards that the catalogue counts on and that are not there, or not good.
        returned: slots noted as missing whose shard is there: no harm, not cleared yet.
        orphans: shards that no row, no order and no open upload names, and those whose slot another node has
            filled since, or whose stripe was encoded anew, once the group it is in now is whole.
        crowded: groups with two slots on one node, or more in a zone than its share; in words.
        strange_stripes: shards whose record tells another stripe than the catalogue.
    """

    stripes: list[Stripe] = field(default_factory=list)
    unnoted: list[Shard] = field(default_factory=list)
    returned: list[Shard] = field(default_factory=list)
    orphans: list[Shard] = field(default_factory=list)
    crowded: list[str] = field(default_factory=list)
    strange_stripes: list[Shard] = field(default_factory=list)

    @property
    def fewest(self) -> Stripe | None:
        """The stripe with the fewest spare shards; None when there is none."""
        return min(self.stripes, key=lambda stripe: stripe.spare, default=None)

    @property
    def short(self) -> list[Stripe]:
        """Stripes without all their shards."""
        return [stripe for stripe in self.stripes if not stripe.is_whole]

    @property
    def unreadable(self) -> list[Stripe]:
        """Stripes with fewer than k shards."""
        return [stripe for stripe in self.stripes if stripe.spare < 0]


def join(
    catalogue: CatalogueLook, stores: Mapping[NodeId, StoreLook], *, away: Collection[NodeId] = ()
) -> Joined:
    """Join a catalogue with the stores that could be looked at.

    Args:
        away: nodes whose shards do not count as good now, though they were looked at.
    """
    found = Joined(crowded=list(_crowded(catalogue)))
    for row in catalogue.chunks:
        group = catalogue.groups.get(row.group)
        if group is not None and row.state == "live":
            found.stripes.append(_stripe(found, catalogue, stores, away, row, group))
    found.orphans = list(_orphans(catalogue, stores))
    return found


def _stripe(
    found: Joined,
    catalogue: CatalogueLook,
    stores: Mapping[NodeId, StoreLook],
    away: Collection[NodeId],
    row: ChunkLook,
    group: Group,
) -> Stripe:
    good = set()
    for slot, holder in enumerate(group.members):
        key = ShardKey(group.id, slot, row.account, row.chunk, row.generation)
        packed = key.pack()
        move = catalogue.moves.get((group.id, slot))
        holders = [holder] if move is None or move.old is None else [move.old, holder]
        here = [node for node in holders if node in stores and packed in stores[node].shards]
        whole = [node for node in here if packed not in stores[node].damaged]
        for node in whole:
            told = stores[node].stripes.get(packed)
            if told is not None and told != row.stripe:
                found.strange_stripes.append(Shard(node, key, "its record tells another stripe"))
        if any(node not in away for node in whole):
            good.add(slot)
        noted = slot in row.missing or move is not None
        if whole and slot in row.missing:
            found.returned.append(Shard(whole[0], key))
        elif not whole and not noted and holder in stores:
            why = stores[holder].damaged.get(packed, "it is not there") if here else "it is not there"
            found.unnoted.append(Shard(holder, key, why))
    return Stripe(row, group, frozenset(good))


def _orphans(catalogue: CatalogueLook, stores: Mapping[NodeId, StoreLook]) -> Iterator[Shard]:
    rows = {(row.account, row.chunk, row.generation): row.group for row in catalogue.chunks}
    unfinished = _unfinished_groups(catalogue)
    ordered = {
        (entry.node, entry.account, entry.chunk, entry.generation, entry.group, entry.slot)
        for entry in catalogue.erasures
    }
    for node, store in stores.items():
        for packed in store.shards - store.marked:
            if packed in store.damaged:
                continue
            key = ShardKey.unpack(packed)
            group = rows.get((key.account, key.chunk, key.generation))
            if group in unfinished or (group == key.group and _is_holder(catalogue, node, key)):
                continue
            if key.generation in catalogue.open_uploads:
                continue
            if (node, key.account, key.chunk, key.generation, key.group, key.slot) in ordered:
                continue
            elsewhere = "its slot is another node's" if group == key.group else "its stripe was encoded anew"
            yield Shard(node, key, UNNAMED if group is None else elsewhere)


def _unfinished_groups(catalogue: CatalogueLook) -> set[int]:
    """Groups not all of whose slots are full: whoever has a shard of them keeps it."""
    found = {group for group, _ in catalogue.moves}
    found |= {row.group for row in catalogue.chunks if row.missing}
    return found | {group.id for group in catalogue.groups.values() if group.kind != "usual"}


def _is_holder(catalogue: CatalogueLook, node: NodeId, key: ShardKey) -> bool:
    group = catalogue.groups.get(key.group)
    return group is None or group.members[key.slot] == node


def _crowded(catalogue: CatalogueLook) -> Iterator[str]:
    per_zone = Counter(node.zone for node in catalogue.nodes.values() if node.state in ("joined", "draining"))
    for group in catalogue.groups.values():
        if len(set(group.members)) != group.profile.n:
            yield f"group {group.id} has two slots on one node"
        zones = Counter(catalogue.nodes[node].zone for node in group.members if node in catalogue.nodes)
        # A group made while few zones were up may be wider there; the usual ones must hold to the share.
        if group.kind == "usual" and len(per_zone) > 1:
            share = zone_share(per_zone, group.profile)
            if max(zones.values(), default=0) > share:
                zone, count = zones.most_common(1)[0]
                yield f"group {group.id} has {count} slots in zone {zone!r}, and its share is {share}"
