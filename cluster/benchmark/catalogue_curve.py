"""How long claim, commit and status take when the catalogue already has 10^4, 10^5, ... rows of chunks.

The rows are made up and put straight into a catalogue's file, in id order, as many as
wanted: a coordinator that served for years, made in a minute. What is then timed are the
coordinator's own commands, each one durable transaction, as an upload sends them; and what
an operator's status and each turn of repair look up while a slot is being filled.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from blake3 import blake3

from holdfast.client.identity import DeviceKeys, RootKeys, first_device_list
from holdfast.cluster.benchmark.samples import Figure
from holdfast.coordinator.catalogue.accounts import account_row, register
from holdfast.coordinator.catalogue.chunks import claim, commit
from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.coordinator.catalogue.moves import Move, all_moves, assign_slot
from holdfast.coordinator.catalogue.nodes import NodeRow, add_groups, add_token, all_groups, join_node
from holdfast.coordinator.catalogue.safety import group_counts
from holdfast.coordinator.catalogue.sums import group_totals, slots_missing
from holdfast.coordinator.catalogue.uploads import open_upload, require_open
from holdfast.coordinator.placement import Group
from holdfast.coordinator.quorum import DurableStripe
from holdfast.protocol.accounts import open_device_list
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.ids import (
    AccountId,
    ChunkId,
    ClusterId,
    Digest,
    NodeId,
    PublicKey,
    StoreId,
    UploadId,
)
from holdfast.protocol.limits import MIB
from holdfast.protocol.profiles import Profile

__all__ = ["fill_rows", "measure_catalogue"]

_CLUSTER = ClusterId(bytes(32))
_PROFILE = Profile(4, 2)
_UPLOAD = UploadId(b"u" * 16)
_CLAIMED_TOGETHER = 256
_COMMITTED_TOGETHER = 16
_TIMES = 100
_FOREVER_MS = 1 << 52


def _digest(label: str) -> bytes:
    return blake3(label.encode()).digest()


def _prepared(path: Path) -> tuple[Catalogue, AccountId, Group]:
    """A catalogue with six nodes, a group, an account and an open upload."""
    catalogue = Catalogue(sqlite_url(path))
    root, device = RootKeys.of(_digest("root")), DeviceKeys.from_bytes(_digest("device") * 2)
    signed = first_device_list(root, device, "benchmark", _CLUSTER, bytes(32))
    nodes = [NodeId(bytes([number]) * 16) for number in range(1, _PROFILE.n + 1)]

    def prepare(connection: Any) -> None:
        for node in nodes:
            add_token(connection, Digest(_digest(node.hex())), "node", _FOREVER_MS, 0)
            row = NodeRow(node, PublicKey(node * 2), "http://127.0.0.1:1", "zone", 1 << 50, StoreId(node))
            join_node(connection, Digest(_digest(node.hex())), row, 1)
        add_groups(connection, _PROFILE, "usual", [tuple(nodes)])
        add_token(connection, Digest(_digest("invite")), "invite", _FOREVER_MS, 0)
        register(connection, Digest(_digest("invite")), signed, open_device_list(signed, _CLUSTER), 1)
        account = account_row(connection, root.account)
        open_upload(connection, account, _UPLOAD, device.id, 0, 1)

    catalogue.write_now(prepare)
    (group,) = catalogue.read_now(all_groups).values()
    return catalogue, root.account, group


def fill_rows(path: Path, rows: int) -> None:
    """Add made-up chunk rows to a catalogue that nobody has open, until there are ``rows``."""

    def made(first: int) -> Iterator[tuple[int, bytes, bytes, int, int, int, bytes, int, str]]:
        # In id order, as a B-tree likes it; 16 bits of order, the rest unlike any other id.
        step = (1 << 64) // max(1, rows)
        for number in range(first, rows):
            head = (number * step).to_bytes(8, "big")
            yield (
                1,
                head + _digest(f"row {number}")[8:],
                _UPLOAD,
                1,
                1,
                MIB,
                _digest(f"stripe {number}"),
                0,
                "live",
            )

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous=OFF")
        # Each row would raise the sums by one: that takes longer than to count once.
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f'DROP TRIGGER "{name}"')
        there = connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
        connection.executemany(
            "INSERT OR IGNORE INTO chunks (account, id, generation, group_id, group_version, sealed_bytes, "
            "stripe, pin, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            made(there),
        )
        connection.execute("DELETE FROM chunk_sums")
        connection.execute(
            "INSERT INTO chunk_sums SELECT account, group_id, count(*), sum(sealed_bytes) FROM chunks "
            "GROUP BY account, group_id"
        )
        for _, text in triggers:
            connection.execute(text)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def measure_catalogue(folder: Path, rows: int) -> tuple[Figure, Figure, Figure]:
    """(claim, commit, status) in milliseconds: of 256 new ids, of 16 stripes, and how all stripes stand,
    in a catalogue of so many rows.
    """
    path = folder / f"catalogue-{rows}.sqlite"
    catalogue, owner, group = _prepared(path)
    catalogue.close()
    fill_rows(path, rows)
    catalogue = Catalogue(sqlite_url(path))
    groups = {group.id: group}
    claims, commits, looks = [], [], []
    try:
        for number in range(_TIMES):
            ids = [ChunkId(_digest(f"asked {rows} {number} {i}")) for i in range(_CLAIMED_TOGETHER)]
            stripes = [
                DurableStripe(chunk, group, MIB, Digest(chunk), frozenset(range(_PROFILE.n)), b"")
                for chunk in ids[:_COMMITTED_TOGETHER]
            ]
            started = SYSTEM.monotonic()
            catalogue.write_now(
                lambda c, ids=ids: claim(  # type: ignore[misc]
                    c, (a := account_row(c, owner)), require_open(c, a, _UPLOAD), ids, groups
                )
            )
            between = SYSTEM.monotonic()
            catalogue.write_now(
                lambda c, stripes=stripes: commit(  # type: ignore[misc]
                    c, (a := account_row(c, owner)), require_open(c, a, _UPLOAD), stripes
                )
            )
            claims.append((between - started) * 1000)
            commits.append((SYSTEM.monotonic() - between) * 1000)
        catalogue.write_now(lambda c: assign_slot(c, group, 0, group.members[0], "refill", 1))
        (move,) = catalogue.read_now(all_moves).values()
        for _ in range(_TIMES):
            started = SYSTEM.monotonic()
            catalogue.read_now(lambda c: _look(c, move))
            looks.append((SYSTEM.monotonic() - started) * 1000)
    finally:
        catalogue.close()
        for beside in folder.glob(path.name + "*"):
            beside.unlink()
    return _quarters(claims), _quarters(commits), _quarters(looks)


def _look(connection: Any, move: Move) -> None:
    """What a status asks the catalogue, and what repair does before each turn."""
    group_counts(connection, None, [move])
    group_totals(connection)
    slots_missing(connection)
    all_moves(connection)


def _quarters(values: list[float]) -> Figure:
    """The median, and the tenth and ninetieth percentile: single fsyncs of a busy disk say nothing."""
    ordered = sorted(values)
    return Figure(Figure.of(values).middle, ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10])
