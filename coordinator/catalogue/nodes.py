"""Nodes, groups, tokens and the epoch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, delete, insert, select, update

from holdfast.coordinator.catalogue.schema import group_slots, groups, meta, nodes, tokens
from holdfast.coordinator.limits import GROUP_IDS_SKIPPED
from holdfast.coordinator.placement import Group
from holdfast.protocol.errors import Conflict, Refused
from holdfast.protocol.ids import Digest, NodeId, PublicKey, StoreId
from holdfast.protocol.profiles import Profile

__all__ = [
    "NodeRow",
    "NodeStanding",
    "TokenKind",
    "accept_store",
    "add_groups",
    "add_token",
    "all_groups",
    "all_nodes",
    "epoch",
    "join_node",
    "map_made_of",
    "pass_over_epoch",
    "raise_epoch",
    "remove_node",
    "removed_among",
    "save_counters",
    "set_map_made_of",
    "set_standing",
    "update_node",
    "use_token",
]

_MADE_OF = ("made of the map of term", "made of the map of epoch")
TokenKind = Literal["invite", "node"]
NodeStanding = Literal["joined", "draining", "lost", "distrusted", "removed"]
"""What the cluster intends with a node; whether it is up is another matter (coordinator.health)."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as the catalogue knows it. ``store_counter``: the highest that was made durable here."""

    id: NodeId
    key: PublicKey
    url: str
    zone: str
    capacity_bytes: int
    store: StoreId
    store_counter: int = 0
    state: NodeStanding = "joined"


def epoch(connection: Connection) -> int:
    """The version of nodes and groups."""
    return int(connection.execute(select(meta.c.number).where(meta.c.name == "epoch")).scalar() or 0)


def raise_epoch(connection: Connection) -> None:
    """Nodes or groups changed: the next map has a higher number."""
    _set_epoch(connection, epoch(connection) + 1)


def pass_over_epoch(connection: Connection, number: int) -> None:
    """A newer copy of this catalogue has given this number: the next map has a higher one."""
    if epoch(connection) <= number:
        _set_epoch(connection, number + 1)


def map_made_of(connection: Connection) -> tuple[int, int]:
    """(term, epoch) of the map that this catalogue was rebuilt from; (0, 0) where it never was."""
    query = select(meta.c.name, meta.c.number).where(meta.c.name.in_(_MADE_OF))
    found = {name: int(number) for name, number in connection.execute(query)}
    return found.get(_MADE_OF[0], 0), found.get(_MADE_OF[1], 0)


def set_map_made_of(connection: Connection, term: int, number: int) -> None:
    """Note the map that this catalogue is rebuilt from."""
    for name, value in zip(_MADE_OF, (term, number), strict=True):
        _set_number(connection, name, value)


def _set_epoch(connection: Connection, number: int) -> None:
    _set_number(connection, "epoch", number)


def _set_number(connection: Connection, name: str, number: int) -> None:
    connection.execute(delete(meta).where(meta.c.name == name))
    connection.execute(insert(meta).values(name=name, number=number))


def add_token(
    connection: Connection, digest: Digest, kind: TokenKind, expires_ms: int, quota_bytes: int
) -> None:
    """Remember a token by the hash of its secret."""
    connection.execute(
        insert(tokens).values(digest=bytes(digest), kind=kind, expires_ms=expires_ms, quota_bytes=quota_bytes)
    )


def use_token(connection: Connection, digest: Digest, kind: TokenKind, user: bytes, now_ms: int) -> int:
    """Use a one-time token; gives the quota that came with it. The same user may use it again.

    Raises:
        Refused: unknown, expired, or used by somebody else. All sound the same.
    """
    row = connection.execute(
        select(tokens.c.expires_ms, tokens.c.quota_bytes, tokens.c.used_by).where(
            tokens.c.digest == bytes(digest), tokens.c.kind == kind
        )
    ).one_or_none()
    known = row is not None and (row.used_by == user or (row.used_by is None and now_ms < row.expires_ms))
    if row is None or not known:
        raise Refused(
            "this token is not known, was used, or has expired",
            do="Ask the operator for a new one: "
            f"'holdfast admin {'invite' if kind == 'invite' else 'node add-token'}'.",
        )
    connection.execute(update(tokens).where(tokens.c.digest == bytes(digest)).values(used_by=user))
    return int(row.quota_bytes)


def all_nodes(connection: Connection) -> dict[NodeId, NodeRow]:
    """Every node that joined and was not removed."""
    rows = connection.execute(select(nodes).where(nodes.c.state != "removed")).all()
    return {
        NodeId(row.id): NodeRow(
            NodeId(row.id),
            PublicKey(row.public_key),
            row.url,
            row.zone,
            row.capacity_bytes,
            StoreId(row.store),
            row.store_counter,
            row.state,
        )
        for row in rows
    }


def join_node(connection: Connection, token: Digest, row: NodeRow, now_ms: int) -> None:
    """Let a node in with a token; joining again with the same key and token is the same as once.

    Raises:
        Refused: the token is not good for it.
        Conflict: the node is in the cluster with another store, or was removed from it.
    """
    use_token(connection, token, "node", row.id, now_ms)
    known = connection.execute(
        select(nodes.c.store, nodes.c.state).where(nodes.c.id == bytes(row.id))
    ).one_or_none()
    store = known.store if known is not None else None
    if known is not None and known.state == "removed":
        raise Conflict(
            f"node {row.id.short} was removed from the cluster",
            do="Give it an empty folder: it joins as a new node.",
        )
    if store is not None and any(store) and store != row.store:  # none: it is known by a map alone
        raise Conflict(
            f"node {row.id.short} is in the cluster with another store",
            do="A node with a new, empty store joins under a new identity: give it an empty folder.",
        )
    if store is None:
        connection.execute(
            insert(nodes).values(
                id=bytes(row.id),
                public_key=bytes(row.key),
                url=row.url,
                zone=row.zone,
                capacity_bytes=row.capacity_bytes,
                store=bytes(row.store),
                store_counter=0,
                state="joined",
                joined_ms=now_ms,
            )
        )
        raise_epoch(connection)
    else:
        update_node(connection, row)


def update_node(connection: Connection, row: NodeRow) -> None:
    """Take over what a node says of itself."""
    connection.execute(
        update(nodes)
        .where(nodes.c.id == bytes(row.id))
        .values(url=row.url, zone=row.zone, capacity_bytes=row.capacity_bytes)
    )
    raise_epoch(connection)


def set_standing(connection: Connection, node: NodeId, standing: NodeStanding) -> None:
    """What the cluster intends with a node from now on."""
    connection.execute(update(nodes).where(nodes.c.id == bytes(node)).values(state=standing))
    raise_epoch(connection)


def remove_node(connection: Connection, node: NodeId) -> None:
    """Let a node go.

    Raises:
        Conflict: it holds a slot, which may have been given to it since somebody looked.
    """
    held = select(group_slots.c.group_id).where(group_slots.c.node == bytes(node)).limit(1)
    if connection.execute(held).scalar() is not None:
        raise Conflict(
            f"node {node.short} holds slots",
            why="it was given some just now",
            do=f"Empty it first: 'holdfast admin drain {node.short}'.",
        )
    set_standing(connection, node, "removed")


def removed_among(connection: Connection, members: Collection[NodeId]) -> bool:
    """Was one of them let go, since whoever plans with them looked?"""
    query = select(nodes.c.id).where(
        nodes.c.id.in_([bytes(node) for node in members]), nodes.c.state == "removed"
    )
    return connection.execute(query.limit(1)).scalar() is not None


def accept_store(connection: Connection, node: NodeId, store: StoreId, counter: int) -> None:
    """A known node came with another store, or with its own as it was earlier: what it holds is unproven."""
    connection.execute(
        update(nodes).where(nodes.c.id == bytes(node)).values(store=bytes(store), store_counter=counter)
    )
    raise_epoch(connection)


def save_counters(connection: Connection, counters: Mapping[NodeId, int]) -> None:
    """Keep how far stores have come, so that an older one is noticed after a restart too."""
    for node, counter in counters.items():
        connection.execute(update(nodes).where(nodes.c.id == bytes(node)).values(store_counter=counter))


def all_groups(connection: Connection) -> dict[int, Group]:
    """Every group with its members in slot order."""
    members: dict[int, list[NodeId]] = {}
    slots = select(group_slots.c.group_id, group_slots.c.node).order_by(
        group_slots.c.group_id, group_slots.c.slot
    )
    for slot in connection.execute(slots):
        members.setdefault(slot.group_id, []).append(NodeId(slot.node))
    return {
        row.id: Group(row.id, row.version, Profile(row.k, row.m), row.kind, tuple(members[row.id]))
        for row in connection.execute(select(groups))
    }


def add_groups(
    connection: Connection, profile: Profile, kind: str, made: Sequence[tuple[NodeId, ...]]
) -> None:
    """Make groups that are not there yet (another request may have been first), of nodes that are there."""
    known = {group.members for group in all_groups(connection).values() if group.profile == profile}
    fresh = [members for members in made if members not in known and not removed_among(connection, members)]
    # An old copy of the catalogue does not know which ids were given since it was made.
    is_old = connection.execute(select(meta.c.number).where(meta.c.name == "unreconciled")).scalar()
    highest = max(all_groups(connection), default=0)
    for count, members in enumerate(fresh):
        values = {"version": 1, "k": profile.k, "m": profile.m, "kind": kind}
        if is_old:
            values["id"] = highest + GROUP_IDS_SKIPPED + count
        primary = connection.execute(insert(groups).values(**values)).inserted_primary_key
        assert primary is not None
        connection.execute(
            insert(group_slots),
            [
                {"group_id": primary[0], "slot": slot, "node": bytes(node)}
                for slot, node in enumerate(members)
            ],
        )
    if fresh:
        raise_epoch(connection)
