"""Rows from inventories: which stripes lie whole on nodes, though no row of the catalogue names them. Pure.

Two use it. A coordinator whose catalogue was restored from an old copy compares itself
with its nodes and takes up what was stored since (coordinator/reconciling.py). A
coordinator that is rebuilt begins with a catalogue of nodes and accounts alone: then
*everything* that lies on the nodes is found this way, group by group and row by row.
It either streams the shard headers of all nodes, sorted by (account, chunk), through
:func:`fullest`, and their places through :func:`plan_groups`; or it leaves the catalogue
marked as unreconciled, and the comparison that follows does the same.

What is found is believed as far as it proves itself: a record header carries its own
checksum, k shards must agree on the whole stripe header, and whoever reads the chunk
proves it by its id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.coordinator.placement import Group
from holdfast.protocol.ids import AccountId, ChunkId, Digest, NodeId, UploadId
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import ShardRecord

__all__ = ["FoundGroup", "FoundShard", "FoundStripe", "SlotCount", "fullest", "plan_groups", "plan_holders"]


@dataclass(frozen=True, slots=True)
class FoundShard:
    """A shard that lies on a node, as its record header says."""

    node: NodeId
    account: AccountId
    chunk: ChunkId
    generation: UploadId
    group: int
    slot: int
    profile: Profile
    sealed_bytes: int
    stripe: Digest

    @classmethod
    def of(cls, node: NodeId, record: ShardRecord) -> FoundShard:
        """From the record of a header that holds."""
        stripe = record.stripe
        return cls(
            node,
            record.account,
            record.chunk,
            record.generation,
            record.group,
            record.slot,
            stripe.profile,
            stripe.sealed_bytes,
            stripe.stripe_digest,
        )


@dataclass(frozen=True, slots=True)
class FoundStripe:
    """A stripe of which at least k slots were found; ``nodes``: who has which slot."""

    account: AccountId
    chunk: ChunkId
    generation: UploadId
    group: int
    profile: Profile
    sealed_bytes: int
    stripe: Digest
    nodes: Mapping[int, frozenset[NodeId]]

    def lacking(self, members: Sequence[NodeId]) -> list[int]:
        """Slots whose holder does not have its shard."""
        return [slot for slot, node in enumerate(members) if node not in self.nodes.get(slot, ())]

    @property
    def vouched(self) -> int:
        """For how many slots different nodes vouch. Fewer than k: one that lies may have made it up."""
        return _vouched(self.nodes)


def fullest(shards: Iterable[FoundShard]) -> FoundStripe | None:
    """Of the stripes of ONE chunk, the one that most nodes vouch for; None when none has k slots.

    Shards belong to one stripe when generation, group, profile, size and stripe digest agree. First counts
    for how many slots different nodes vouch: a node that lies may tell every slot of a stripe that never was,
    and must not hide the true one. Then the number of slots counts; of two equally full ones the smaller
    (generation, group) wins, so that everybody who looks finds the same.
    """
    stripes: dict[tuple[UploadId, int, Profile, int, Digest], dict[int, set[NodeId]]] = {}
    account: AccountId | None = None
    chunk: ChunkId | None = None
    for shard in shards:
        account, chunk = shard.account, shard.chunk
        if not 0 <= shard.slot < shard.profile.n:
            continue
        key = (shard.generation, shard.group, shard.profile, shard.sealed_bytes, shard.stripe)
        stripes.setdefault(key, defaultdict(set))[shard.slot].add(shard.node)
    readable = [(key, slots) for key, slots in stripes.items() if len(slots) >= key[2].k]
    if not readable or account is None or chunk is None:
        return None
    (generation, group, profile, sealed_bytes, stripe), slots = min(
        readable,
        key=lambda found: (-_vouched(found[1]), -len(found[1]), found[0][0], found[0][1], found[0][4]),
    )
    nodes = {slot: frozenset(holders) for slot, holders in slots.items()}
    return FoundStripe(account, chunk, generation, group, profile, sealed_bytes, stripe, nodes)


def _vouched(slots: Mapping[int, Collection[NodeId]]) -> int:
    """How many slots can each be given a node of its own that has it: a maximum matching (Kuhn, 1955)."""
    place: dict[NodeId, int] = {}

    def give(slot: int, tried: set[NodeId]) -> bool:
        for node in slots[slot]:
            if node not in tried:
                tried.add(node)
                if node not in place or give(place[node], tried):
                    place[node] = slot
                    return True
        return False

    return sum(give(slot, set()) for slot in slots)


def plan_holders(
    groups: Iterable[Group],
    moving: Collection[tuple[int, int]],
    counts: Mapping[NodeId, Mapping[tuple[int, int], int]],
) -> list[tuple[int, int, NodeId]]:
    """Slots that an old catalogue gives to one node while another has more of their shards.

    Such a slot has moved since the copy was made, and goes to the node that has most: (group, slot, node).
    The holder that the catalogue names stays a source until the new one was proven shard by shard; were
    it the right one after all, nothing is lost but time. At most one slot of a group goes to a node.

    Args:
        moving: (group, slot) that are being filled anyway.
        counts: shards by node and (group, slot).
    """
    found: list[tuple[int, int, NodeId]] = []
    for group in groups:
        taken = set(group.members)
        for slot, holder in enumerate(group.members):
            here = (group.id, slot)
            if here in moving:
                continue
            others = {node: count.get(here, 0) for node, count in counts.items() if node not in taken}
            best = max(others, key=lambda node: (others[node], node), default=None)
            if best is not None and others[best] > counts.get(holder, {}).get(here, 0):
                found.append((group.id, slot, best))
                taken.add(best)
    return found


@dataclass(frozen=True, slots=True)
class SlotCount:
    """So many shards of a group's slot lie on a node, under this profile."""

    group: int
    slot: int
    profile: Profile
    node: NodeId
    shards: int


@dataclass(frozen=True, slots=True)
class FoundGroup:
    """A group as it must have been: who held most of each slot; a free node where nobody was found."""

    id: int
    profile: Profile
    members: tuple[NodeId, ...]


def plan_groups(counts: Iterable[SlotCount], nodes: Collection[NodeId]) -> list[FoundGroup]:
    """Groups for shards whose group the catalogue does not know, by id.

    A slot goes to the node with the most of its shards, the surest first; a node holds one slot of a
    group. Slots of which nothing was found go to nodes that hold none, in order of their ids: their
    shards are missing there, and are brought back. A group that cannot be filled with n different
    nodes is left out. The profile that most nodes name, then most shards, is the group's: one
    node that lies must not make the others' shards fit nowhere.
    """
    found: dict[int, list[SlotCount]] = defaultdict(list)
    for count in counts:
        found[count.group].append(count)
    made: list[FoundGroup] = []
    for group, here in sorted(found.items()):
        by_profile: dict[Profile, int] = defaultdict(int)
        telling: dict[Profile, set[NodeId]] = defaultdict(set)
        for count in here:
            by_profile[count.profile] += count.shards
            telling[count.profile].add(count.node)
        profile = max(by_profile, key=lambda one: (len(telling[one]), by_profile[one], -one.n))
        holders: dict[int, NodeId] = {}
        for count in sorted(here, key=lambda one: (-one.shards, one.slot, one.node)):
            fits = count.profile == profile and count.node in nodes and count.slot < profile.n
            if fits and count.slot not in holders and count.node not in holders.values():
                holders[count.slot] = count.node
        free = iter(sorted(set(nodes) - set(holders.values())))
        members = [holders[slot] if slot in holders else next(free, None) for slot in range(profile.n)]
        whole = tuple(node for node in members if node is not None)
        if len(whole) == profile.n:
            made.append(FoundGroup(group, profile, whole))
    return made
