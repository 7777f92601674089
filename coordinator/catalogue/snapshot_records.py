"""Snapshot records: sealed bytes under their hash. Which of them a head lists is in catalogue.heads."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

from sqlalchemy import Connection, bindparam, func, insert, select

from holdfast.coordinator.catalogue.accounts import AccountRow
from holdfast.coordinator.catalogue.engine import batched
from holdfast.coordinator.catalogue.prepared import Prepared
from holdfast.coordinator.catalogue.schema import snapshot_records
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import SnapshotId
from holdfast.protocol.limits import MESSAGE_BYTES_MAX, RECORDS_FETCH_MAX

__all__ = ["insert_records", "known_records", "records"]

_ADD_RECORDS: Final = Prepared(insert(snapshot_records), columns=("account", "id", "sealed"))
_KNOWN_RECORDS: Final = Prepared(
    select(snapshot_records.c.id).where(
        snapshot_records.c.account == bindparam("account"),
        snapshot_records.c.id.in_(bindparam("ids", expanding=True)),
    )
)


def insert_records(connection: Connection, account: AccountRow, fresh: Mapping[SnapshotId, bytes]) -> None:
    """Insert records that are not here yet."""
    if fresh:
        _ADD_RECORDS.run_each(
            connection,
            [
                {"account": account.number, "id": bytes(snapshot), "sealed": sealed}
                for snapshot, sealed in fresh.items()
            ],
        )


def known_records(
    connection: Connection, account: AccountRow, wanted: Sequence[SnapshotId]
) -> set[SnapshotId]:
    """Those of the records that are here."""
    found: set[SnapshotId] = set()
    for portion in batched(list(wanted)):
        ids = [bytes(snapshot) for snapshot in portion]
        found.update(
            SnapshotId(known) for (known,) in _KNOWN_RECORDS.rows(connection, account=account.number, ids=ids)
        )
    return found


def records(connection: Connection, account: AccountRow, wanted: Sequence[SnapshotId]) -> list[bytes | None]:
    """Sealed records, in order; stops early when the answer grows too long."""
    if len(wanted) > RECORDS_FETCH_MAX:
        raise BadRequest(f"at most {RECORDS_FETCH_MAX} records are fetched at once")
    own = snapshot_records.c.account == account.number
    asked = [bytes(snapshot) for snapshot in wanted]
    sizes: dict[bytes, int] = {}
    for portion in batched(asked):
        lengths = select(snapshot_records.c.id, func.length(snapshot_records.c.sealed))
        rows = connection.execute(lengths.where(own, snapshot_records.c.id.in_(portion)))
        sizes.update((row[0], row[1]) for row in rows)
    ends = list(accumulate(sizes.get(snapshot, 0) for snapshot in asked))
    fitting = asked[: max(1, bisect_right(ends, MESSAGE_BYTES_MAX // 2))]
    found: dict[bytes, bytes] = {}
    for portion in batched(fitting):
        query = select(snapshot_records.c.id, snapshot_records.c.sealed)
        rows = connection.execute(query.where(own, snapshot_records.c.id.in_(portion)))
        found.update((row[0], row[1]) for row in rows)
    return [found.get(snapshot) for snapshot in fitting]
