"""Filling an empty catalogue with what was found on nodes: nodes, groups, stripes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, delete, func, insert, select, update

from holdfast.coordinator.adopting import FoundStripe
from holdfast.coordinator.catalogue.engine import batched
from holdfast.coordinator.catalogue.erasures import set_unreconciled
from holdfast.coordinator.catalogue.nodes import NodeRow, pass_over_epoch, set_map_made_of
from holdfast.coordinator.catalogue.schema import (
    accounts,
    chunks,
    group_slots,
    groups,
    missing,
    nodes,
    tokens,
    uploads,
)
from holdfast.coordinator.placement import Group
from holdfast.protocol.ids import AccountId, ChunkId, NodeId

__all__ = ["add_stripes", "finish_rebuild", "put_cluster", "restored"]


def put_cluster(
    connection: Connection,
    rows: Iterable[NodeRow],
    made: Iterable[Group],
    made_of: tuple[int, int],
    now_ms: int,
) -> None:
    """Nodes and groups of an empty catalogue, under their own numbers.

    Args:
        made_of: (term, epoch) of the map that names them; (0, 0): no node had one.
    """
    set_unreconciled(connection, True)
    set_map_made_of(connection, *made_of)
    pass_over_epoch(connection, made_of[1])
    for row in rows:
        connection.execute(
            insert(nodes).values(
                id=bytes(row.id),
                public_key=bytes(row.key),
                url=row.url,
                zone=row.zone,
                capacity_bytes=row.capacity_bytes,
                store=bytes(row.store),
                store_counter=row.store_counter,
                state=row.state,
                joined_ms=now_ms,
            )
        )
    for group in made:
        connection.execute(
            insert(groups).values(
                id=group.id,
                version=group.version,
                k=group.profile.k,
                m=group.profile.m,
                kind=group.kind,
            )
        )
        connection.execute(
            insert(group_slots),
            [
                {"group_id": group.id, "slot": slot, "node": bytes(node)}
                for slot, node in enumerate(group.members)
            ],
        )


def add_stripes(
    connection: Connection, stripes: Sequence[FoundStripe], members: Mapping[int, Sequence[NodeId]]
) -> tuple[int, int]:
    """Rows for stripes that were found, and for what is missing of them.

    Fewer than k nodes may have made a stripe up, and its row could never be read: it is left to the
    comparison that follows. Of two stripes of one chunk the fuller counts; whatever was trash is live again,
    since nobody can tell; each row is pinned to its account's sweep generation.

    Returns:
        (chunks that have a row now and had none, stripes whose account is not known).
    """
    numbers = {
        AccountId(row.id): (row.number, row.sweep_generation)
        for row in connection.execute(select(accounts.c.id, accounts.c.number, accounts.c.sweep_generation))
    }
    of_accounts = [stripe for stripe in stripes if stripe.account in numbers]
    known = [stripe for stripe in of_accounts if stripe.vouched >= stripe.profile.k]
    fullness = _fullness(connection, {account: number for account, (number, _) in numbers.items()}, known)
    added = 0
    for stripe in known:
        number, generation = numbers[stripe.account]
        lacking = stripe.lacking(members[stripe.group])
        full = stripe.profile.n - len(lacking)
        before = fullness.get((number, stripe.chunk))
        if before is not None:
            if before >= full:
                continue
            here = (chunks.c.account == number, chunks.c.id == bytes(stripe.chunk))
            connection.execute(delete(chunks).where(*here))
            connection.execute(
                delete(missing).where(missing.c.account == number, missing.c.chunk == bytes(stripe.chunk))
            )
        else:
            added += 1
        fullness[(number, stripe.chunk)] = full
        _add_row(connection, number, generation, stripe, lacking)
    return added, len(stripes) - len(of_accounts)


def _add_row(
    connection: Connection, number: int, generation: int, stripe: FoundStripe, lacking: Sequence[int]
) -> None:
    """A stripe's row, pinned to its account's sweep generation, and one for each slot that it lacks."""
    connection.execute(
        insert(chunks).values(
            account=number,
            id=bytes(stripe.chunk),
            generation=bytes(stripe.generation),
            group_id=stripe.group,
            group_version=1,
            sealed_bytes=stripe.sealed_bytes,
            stripe=bytes(stripe.stripe),
            pin=generation,
            state="live",
        )
    )
    if lacking:
        connection.execute(
            insert(missing),
            [
                {
                    "account": number,
                    "chunk": bytes(stripe.chunk),
                    "group_id": stripe.group,
                    "slot": slot,
                    "why": "inventory",
                }
                for slot in lacking
            ],
        )


def _fullness(
    connection: Connection, numbers: Mapping[AccountId, int], stripes: Sequence[FoundStripe]
) -> dict[tuple[int, ChunkId], int]:
    """Slots that are there, of the rows that there are already."""
    by_account: dict[int, list[bytes]] = defaultdict(list)
    for stripe in stripes:
        by_account[numbers[stripe.account]].append(bytes(stripe.chunk))
    found: dict[tuple[int, ChunkId], int] = {}
    for account, ids in by_account.items():
        for portion in batched(ids):
            lacking = (
                select(missing.c.chunk, func.count())
                .where(missing.c.account == account, missing.c.chunk.in_(portion))
                .group_by(missing.c.chunk)
            )
            gone = {bytes(chunk): int(count) for chunk, count in connection.execute(lacking)}
            query = (
                select(chunks.c.id, groups.c.k, groups.c.m)
                .join(groups, groups.c.id == chunks.c.group_id)
                .where(chunks.c.account == account, chunks.c.id.in_(portion))
            )
            for row in connection.execute(query):
                found[(account, ChunkId(row.id))] = row.k + row.m - gone.get(bytes(row.id), 0)
    return found


def finish_rebuild(connection: Connection) -> None:
    """Count what every account uses by what was found."""
    stored = (
        select(func.coalesce(func.sum(chunks.c.sealed_bytes), 0))
        .where(chunks.c.account == accounts.c.number)
        .scalar_subquery()
    )
    connection.execute(update(accounts).values(used_bytes=accounts.c.used_bytes + stored))


def restored(connection: Connection) -> list[NodeRow]:
    """A catalogue that comes from a backup: what of it can no more be true is taken back. Gives its nodes.

    Tokens may have been used since, uploads are over; nothing is swept before it was compared with the nodes.
    """
    from holdfast.coordinator.catalogue.nodes import all_nodes, raise_epoch

    set_unreconciled(connection, True)
    connection.execute(delete(tokens))
    connection.execute(update(uploads).values(state="ended", reserved_bytes=0))
    raise_epoch(connection)
    return list(all_nodes(connection).values())
