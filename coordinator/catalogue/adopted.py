"""What nodes kept, taken over into a catalogue that does not have it: nodes, accounts, heads, records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, insert, select, update

from holdfast.coordinator.catalogue.accounts import AccountRow, find_account
from holdfast.coordinator.catalogue.erasures import set_unreconciled
from holdfast.coordinator.catalogue.heads import (
    drop_pending,
    insert_head,
    insert_records,
    known_records,
    pending_head,
)
from holdfast.coordinator.catalogue.nodes import map_made_of, pass_over_epoch, raise_epoch
from holdfast.coordinator.catalogue.schema import accounts, nodes
from holdfast.protocol.accounts import DeviceList, Head
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.ids import SnapshotId, StoreId
from holdfast.protocol.messages.cluster import ClusterMap, MapNode
from holdfast.protocol.messages.witness import AccountFacts, KeptHead

__all__ = ["NO_STORE", "adopt_account", "adopt_heads", "adopt_map", "adopt_newer", "adopt_nodes"]

NO_STORE = StoreId(bytes(16))
"""The store of a node that did not answer: whatever it comes with is proven then."""


def adopt_nodes(connection: Connection, told: Sequence[MapNode], now_ms: int) -> int:
    """Let in nodes of a map that this catalogue has never heard of; gives how many.

    One that it let go stays out.
    """
    known = set(connection.execute(select(nodes.c.id)).scalars())
    fresh = [node for node in told if bytes(node.id) not in known]
    for node in fresh:
        connection.execute(
            insert(nodes).values(
                id=bytes(node.id),
                public_key=bytes(node.key),
                url=node.url,
                zone=node.zone,
                capacity_bytes=0,
                store=bytes(NO_STORE),
                store_counter=0,
                state="joined",
                joined_ms=now_ms,
            )
        )
    if fresh:
        raise_epoch(connection)
    return len(fresh)


def adopt_map(connection: Connection, told: ClusterMap, now_ms: int) -> int:
    """:func:`adopt_nodes` of a map; its number, and those before it, are not given again.

    Where it names nodes that were not known, this catalogue is older than it: nothing is swept until all has
    been compared. A rebuilt catalogue does not know whom the lost one let go, but it was made of a map: one
    that is no newer is passed over. (One of an earlier term with a higher number is of another history: in
    one they only grow.)
    """
    term, epoch = map_made_of(connection)
    if told.term <= term and told.epoch <= epoch:
        return 0
    pass_over_epoch(connection, told.epoch)
    joined = adopt_nodes(connection, told.nodes, now_ms)
    if joined:
        set_unreconciled(connection, True)
    return joined


def adopt_newer(connection: Connection, facts: AccountFacts) -> AccountRow | None:
    """:func:`adopt_account`, where the facts say more than the catalogue knows; None where they do not."""
    known = find_account(connection, facts.account)
    seq = decode(facts.device_list.payload, DeviceList).seq
    if (
        known is not None
        and seq <= known.device_list_seq
        and facts.sweep_generation <= known.sweep_generation
    ):
        return None
    return adopt_account(connection, facts)


def adopt_account(connection: Connection, facts: AccountFacts) -> AccountRow:
    """Make an account as nodes knew it, or bring a known one up to date: the newer device list counts."""
    listed = decode(facts.device_list.payload, DeviceList)
    known = find_account(connection, facts.account)
    if known is None:
        connection.execute(
            insert(accounts).values(
                id=bytes(facts.account),
                device_list=encode(facts.device_list),
                device_list_seq=listed.seq,
                quota_bytes=facts.quota_bytes,
                used_bytes=0,
                sweep_generation=facts.sweep_generation,
                head_seq=0,
            )
        )
    else:
        newer = listed.seq > known.device_list_seq
        connection.execute(
            update(accounts)
            .where(accounts.c.number == known.number)
            .values(
                device_list=encode(facts.device_list if newer else known.device_list),
                device_list_seq=max(listed.seq, known.device_list_seq),
                sweep_generation=max(facts.sweep_generation, known.sweep_generation),
            )
        )
    found = find_account(connection, facts.account)
    assert found is not None
    return found


def adopt_heads(
    connection: Connection,
    account: AccountRow,
    chain: Sequence[KeptHead],
    records: Mapping[SnapshotId, bytes],
) -> int:
    """Add verified heads that follow the account's newest one; gives the newest number then.

    The catalogue then knows less than the nodes hold, and nothing is swept until it has been compared.
    A head that waited for its witnesses under one of these numbers is dropped, or is one of them.
    """
    newest = account.head_seq
    known = known_records(connection, account, list(records))
    fresh = {snapshot: sealed for snapshot, sealed in records.items() if snapshot not in known}
    insert_records(connection, account, fresh)
    for kept in chain:
        head = decode(kept.head.payload, Head)
        if head.seq != newest + 1:
            continue  # somebody else took it over meanwhile
        insert_head(connection, account, kept.head, kept.snapshot_list, head.time_ns // 1_000_000)
        newest = head.seq
    waiting = pending_head(connection, account)
    if waiting is not None and waiting.seq <= newest:
        drop_pending(connection, account, waiting.digest)
    connection.execute(
        update(accounts)
        .where(accounts.c.number == account.number)
        .values(used_bytes=accounts.c.used_bytes + sum(map(len, fresh.values())))
    )
    set_unreconciled(connection, True)
    return newest
