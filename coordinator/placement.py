"""Which nodes form groups, and which groups an upload may write to. Pure.

Groups are windows on a ring of nodes in which zones alternate: the group that
starts at node i takes the next nodes that keep every zone within its share.
Each node then stands in every slot about equally often, so data shards (which
reads ask for first) spread over all nodes, and a node shares groups with few
others (bounded scatter: Cidon et al., "Copysets", USENIX ATC 2013).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from holdfast.protocol.ids import NodeId
from holdfast.protocol.profiles import Profile, fallback_profile

__all__ = ["Candidate", "Group", "LeasePlan", "form_groups", "plan_lease", "zone_share"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may take shards; ``is_staying``: and new slots, because it is not to be emptied."""

    id: NodeId
    zone: str
    free_bytes: int = 0
    is_staying: bool = True


@dataclass(frozen=True, slots=True)
class Group:
    """A placement group: the node of every slot, in slot order."""

    id: int
    version: int
    profile: Profile
    kind: Literal["usual", "fallback"]
    members: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class LeasePlan:
    """Groups to lease (best first), or member lists of groups to make first."""

    lease: tuple[Group, ...] = ()
    make: tuple[tuple[NodeId, ...], ...] = ()
    profile: Profile | None = None
    kind: Literal["usual", "fallback"] = "usual"


def zone_share(zones: Mapping[str, int], profile: Profile) -> int:
    """The most slots one zone may take: m where zones suffice, else the least that fills n slots."""
    for share in range(profile.m, profile.n + 1):
        if sum(min(count, share) for count in zones.values()) >= profile.n:
            return share
    return profile.n


def _ring(nodes: Iterable[Candidate]) -> list[Candidate]:
    """Nodes in an order in which zones alternate as evenly as their sizes allow; deterministic."""
    by_zone: dict[str, list[Candidate]] = defaultdict(list)
    for node in sorted(nodes, key=lambda node: node.id):
        by_zone[node.zone].append(node)
    placed = [
        ((position + 0.5) / len(members), zone, node)
        for zone, members in by_zone.items()
        for position, node in enumerate(members)
    ]
    return [node for _, _, node in sorted(placed, key=lambda entry: (entry[0], entry[1]))]


def form_groups(nodes: Collection[Candidate], profile: Profile) -> list[tuple[NodeId, ...]]:
    """One group for each node on the ring; empty when there are fewer than n nodes.

    Every group has n distinct nodes and at most :func:`zone_share` slots in a zone.
    """
    ring = _ring(nodes)
    if len(ring) < profile.n:
        return []
    share = zone_share(Counter(node.zone for node in ring), profile)
    formed: list[tuple[NodeId, ...]] = []
    for start in range(len(ring)):
        taken: list[NodeId] = []
        used: Counter[str] = Counter()
        for node in ring[start:] + ring[:start]:
            if used[node.zone] < share:
                used[node.zone] += 1
                taken.append(node.id)
                if len(taken) == profile.n:
                    break
        members = tuple(taken)
        if members not in formed:
            formed.append(members)
    return formed


def plan_lease(
    groups: Sequence[Group],
    writable: Collection[Candidate],
    usual: Profile,
    *,
    most: int,
    may_make: bool = True,
) -> LeasePlan:
    """What an upload may write to now.

    Args:
        groups: all groups that exist.
        writable: nodes that are up, have room, and are not excluded by this client.
        usual: the profile the cluster should have.
        most: how many groups to lease at most.
        may_make: whether new groups may be made for this.

    The order of preference: whole groups of the usual profile; new ones, where enough nodes are
    up to form them; groups with a write quorum up; a fallback group over those that are up.
    An empty plan means that nothing can be stored safely.
    """
    able = {node.id: node for node in writable}
    staying = [node for node in writable if node.is_staying]
    fitting = [group for group in groups if group.profile == usual and group.kind == "usual"]
    whole = [group for group in fitting if all(node in able for node in group.members)]
    in_whole = {node for group in whole for node in group.members}
    if may_make and len(staying) >= usual.n and not {node.id for node in staying} <= in_whole:
        known = {group.members for group in groups}
        made = tuple(members for members in form_groups(staying, usual) if members not in known)
        if made:
            return LeasePlan(make=made, profile=usual)
    if whole:
        return LeasePlan(lease=_best(whole, able, most))
    quorate = [g for g in fitting if sum(node in able for node in g.members) >= g.profile.write_quorum]
    if quorate:
        return LeasePlan(lease=_best(quorate, able, most))
    return _plan_fallback(groups, writable, able, usual, most, may_make)


def _plan_fallback(
    groups: Sequence[Group],
    writable: Collection[Candidate],
    able: Mapping[NodeId, Candidate],
    usual: Profile,
    most: int,
    may_make: bool,
) -> LeasePlan:
    profile = fallback_profile(usual, len(able))
    if profile is None:
        return LeasePlan()
    ready = [
        group for group in groups if group.profile == profile and all(node in able for node in group.members)
    ]
    covered = {node for group in ready for node in group.members}
    if ready and (set(able) <= covered or len(able) > profile.n):
        return LeasePlan(lease=_best(ready, able, most))
    known = {group.members for group in groups}
    staying = [node for node in writable if node.is_staying]
    made = tuple(members for members in form_groups(staying, profile) if members not in known)
    if made and may_make:
        return LeasePlan(make=made, profile=profile, kind="fallback")
    return LeasePlan(lease=_best(ready, able, most))


def _best(groups: Iterable[Group], able: Mapping[NodeId, Candidate], most: int) -> tuple[Group, ...]:
    """Most members up first, then those whose fullest member has the most room."""

    def rank(group: Group) -> tuple[int, int, int]:
        up = [able[node] for node in group.members if node in able]
        return (len(group.members) - len(up), -min(node.free_bytes for node in up), group.id)

    return tuple(sorted(groups, key=rank)[:most])
