"""Which slots get a new holder, and which shards are brought back first. Pure.

A plan never puts two slots of a group on one node, not even while one of them is still
read from its former holder; keeps the zone rule wherever some node allows it; and gives a
slot away only to a node that is up, has room and is to stay. What finds no taker waits,
and says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from holdfast.coordinator.placement import Group, zone_share
from holdfast.protocol.ids import NodeId

__all__ = ["Assignment", "Member", "MovePlan", "plan_moves", "plan_rebalance"]


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the planner sees it.

    Attributes:
        standing: "joined", "draining", "lost" or "distrusted".
        takes: up, with room and a working store: it may be given slots (if it is to stay).
        used_bytes, capacity_bytes: how full it is.
    """

    id: NodeId
    zone: str
    standing: str
    takes: bool
    used_bytes: int
    capacity_bytes: int

    def leaving(self, standing: str) -> Member:
        """The same node, were its standing another."""
        return replace(self, standing=standing)

    @property
    def is_leaving(self) -> bool:
        """Are its slots to go elsewhere?"""
        return self.standing != "joined"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Slot ``slot`` of a group, at the version it was planned for, goes to ``new``."""

    group: Group
    slot: int
    new: NodeId
    why: str


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What to assign now; and slots that nobody can take, with the reason."""

    assign: tuple[Assignment, ...] = ()
    waiting: tuple[tuple[int, int, str], ...] = ()


class _Load:
    """Slots held per node, counted along with the plan, weighed by capacity."""

    def __init__(self, groups: Iterable[Group], members: Mapping[NodeId, Member]) -> None:
        self._slots = Counter(node for group in groups for node in group.members)
        self._members = members

    def give(self, node: NodeId) -> None:
        self._slots[node] += 1

    def of(self, node: NodeId) -> float:
        """Slots for each byte of capacity: the smaller, the sooner it is given one."""
        return (self._slots[node] + 1) / max(1, self._members[node].capacity_bytes)


def plan_moves(
    groups: Mapping[int, Group],
    moving: Mapping[tuple[int, int], NodeId | None],
    members: Mapping[NodeId, Member],
) -> MovePlan:
    """New holders for every slot whose holder is lost, distrusted or to be emptied; then for zones.

    Args:
        groups: all groups.
        moving: (group, slot) that is being filled -> its former holder. It is given away again only when
            its new holder is gone, or is to be emptied and cannot take it: what has begun is ended first.
        members: every node of the cluster.
    """
    load = _Load(groups.values(), members)
    assign: list[Assignment] = []
    waiting: list[tuple[int, int, str]] = []
    order = sorted(groups.values(), key=lambda group: (-_leaving(group, members), group.id))
    for group in order:
        current = list(group.members)
        assigned = False
        for slot in _leaving_slots(group, members):
            member = members.get(group.members[slot])
            why = member.standing if member is not None else "lost"
            if assigned:
                continue  # each assignment raises the group's version: the next turn goes on
            if why == "draining" and member is not None and member.takes and (group.id, slot) in moving:
                continue
            taker = _taker(group, current, slot, members, load, moving)
            if taker is None:
                waiting.append((group.id, slot, why))
                continue
            load.give(taker)
            current[slot] = taker
            assigned = True
            assign.append(Assignment(group, slot, taker, "drain" if why == "draining" else why))
    if not assign and not waiting and not moving:
        assign.extend(_for_zones(groups, members, load))
    return MovePlan(tuple(assign), tuple(waiting))


def _leaving_slots(group: Group, members: Mapping[NodeId, Member]) -> list[int]:
    """Slots that are to go elsewhere; first those whose holder is gone, then those to be emptied."""
    found = {
        slot: members[node].standing == "draining" if node in members else False
        for slot, node in enumerate(group.members)
        if node not in members or members[node].is_leaving
    }
    return sorted(found, key=lambda slot: (found[slot], slot))


def _leaving(group: Group, members: Mapping[NodeId, Member]) -> int:
    """Slots whose shards are gone or not to be relied on: the more, the sooner."""
    gone = ("lost", "distrusted")
    return sum(node not in members or members[node].standing in gone for node in group.members)


def _zone_counts(current: Sequence[NodeId], slot: int, members: Mapping[NodeId, Member]) -> Counter[str]:
    """Slots by zone without one of them."""
    return Counter(members[node].zone for at, node in enumerate(current) if at != slot and node in members)


def _share(group: Group, members: Mapping[NodeId, Member]) -> int:
    zones = Counter(member.zone for member in members.values() if not member.is_leaving)
    return zone_share(zones, group.profile)


def _taker(
    group: Group,
    current: Sequence[NodeId],
    slot: int,
    members: Mapping[NodeId, Member],
    load: _Load,
    moving: Mapping[tuple[int, int], NodeId | None],
) -> NodeId | None:
    """Who takes a slot: within its zone's share if anybody can; who has held it; then the least loaded."""
    counts, share = _zone_counts(current, slot, members), _share(group, members)
    taken = {*current, *(moving.get((group.id, at)) for at in range(group.profile.n) if at != slot)}
    former = moving.get((group.id, slot))
    able = [
        member
        for member in members.values()
        if member.takes and not member.is_leaving and member.id not in taken
    ]
    if not able:
        return None

    def rank(member: Member) -> tuple[int, bool, float, bytes]:
        excess = max(0, counts[member.zone] + 1 - share)
        return (excess, member.id != former, load.of(member.id), bytes(member.id))

    return min(able, key=rank).id


def _for_zones(
    groups: Mapping[int, Group], members: Mapping[NodeId, Member], load: _Load
) -> Iterable[Assignment]:
    """Groups with more slots in one zone than its share give one to another zone, where one can take it."""
    for group in groups.values():
        share = _share(group, members)
        counts = Counter(members[node].zone for node in group.members)
        crowded = [zone for zone, count in counts.items() if count > share]
        if not crowded:
            continue
        slot = next(at for at, node in enumerate(group.members) if members[node].zone == crowded[0])
        taker = _taker(group, group.members, slot, members, load, {})
        if taker is not None and counts[members[taker].zone] < share:
            load.give(taker)
            yield Assignment(group, slot, taker, "zone")


def plan_rebalance(
    groups: Mapping[int, Group],
    moving: Collection[tuple[int, int]],
    members: Mapping[NodeId, Member],
    group_bytes: Mapping[int, int],
    *,
    most: int,
    spread: float,
    least_bytes: int = 0,
) -> list[Assignment]:
    """Slots to move from the fullest to the emptiest nodes until none differs by more than ``spread``.

    How full a node is, is reckoned from the slots it holds, not from what it reports: what it gave away
    lies on it until the hold is over, and counting that it would be made to give more and more.

    Args:
        moving: (group, slot) that is being filled; its group is left alone.
        group_bytes: shard bytes of one slot, by group.
        most: assignments at most; movement is bounded, the next plan goes on.
        spread: tolerated difference of fill, as a part of how full the cluster is on average.
        least_bytes: slots with less are not worth moving.
    """
    staying = {m.id: m for m in members.values() if m.takes and not m.is_leaving and m.capacity_bytes > 0}
    held = Counter[NodeId]()
    for group in groups.values():
        held.update(dict.fromkeys(group.members, group_bytes.get(group.id, 0)))
    planned: list[Assignment] = []
    touched: set[int] = {group for group, _ in moving}
    room = {node: member.capacity_bytes - member.used_bytes for node, member in staying.items()}
    total = sum(member.capacity_bytes for member in staying.values())
    tolerated = spread * sum(held[node] for node in staying) / total if total else 0.0

    def fill(node: NodeId, more: int = 0) -> float:
        return (held[node] + more) / staying[node].capacity_bytes

    while len(planned) < most:
        found = None
        for full in sorted(staying, key=lambda node: (-fill(node), node)):
            for group in groups.values():
                size = group_bytes.get(group.id, 0)
                if group.id in touched or full not in group.members or size <= max(0, least_bytes - 1):
                    continue
                slot = group.members.index(full)
                counts, share = _zone_counts(group.members, slot, members), _share(group, members)
                better = [
                    node
                    for node in staying
                    if node not in group.members
                    and size <= room[node]
                    and counts[staying[node].zone] < share
                    and fill(full) - fill(node, size) > tolerated
                ]
                if better:
                    found = (group, slot, full, min(better, key=lambda node: (fill(node), node)), size)
                    break
            if found:
                break
        if found is None:
            break
        group, slot, full, taker, size = found
        planned.append(Assignment(group, slot, taker, "rebalance"))
        touched.add(group.id)
        held[full] -= size
        held[taker] += size
        room[taker] -= size
    return planned
