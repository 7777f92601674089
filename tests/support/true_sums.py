"""Are the sums that a catalogue's database keeps what one gets by counting?"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import Connection, select, text

from holdfast.coordinator.catalogue.engine import Catalogue
from holdfast.coordinator.catalogue.schema import chunk_sums, chunks, gap_sums, missing, moves

__all__ = ["check_at_every_close", "require_true_sums"]


def require_true_sums(connection: Connection) -> None:
    """Count every row, and compare."""
    rows = {(row.account, row.id): row for row in connection.execute(select(chunks))}
    by_group: Counter[tuple[int, int]] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for row in rows.values():
        by_group[row.account, row.group_id] += 1
        sizes[row.account, row.group_id] += row.sealed_bytes
    kept = {(row.account, row.group_id): row[2:] for row in connection.execute(select(chunk_sums))}
    assert kept == {key: (count, sizes[key]) for key, count in by_group.items()}

    slots: dict[tuple[int, bytes, int], set[int]] = defaultdict(set)
    for row in connection.execute(select(missing)):
        slots[row.account, row.chunk, row.group_id].add(row.slot)
    gaps: dict[tuple[int, int, frozenset[int]], list[int]] = defaultdict(lambda: [0, 0])
    for (account, chunk, group), gone in slots.items():
        assert (account, chunk) in rows, "something is missing of a chunk that is not there"
        noted = gaps[account, group, frozenset(gone)]
        noted[0] += 1
        noted[1] += rows[account, chunk].sealed_bytes
    counted = {
        (row.account, row.group_id, frozenset(map(int, row.slots.split(",")))): [row.chunks, row.sealed_bytes]
        for row in connection.execute(select(gap_sums))
    }
    assert counted == dict(gaps)

    for move in connection.execute(select(moves)):
        left = [
            row.sealed_bytes
            for key, row in rows.items()
            if row.group_id == move.group_id
            and row.group_version < move.version
            and key > (move.cursor_account, move.cursor_chunk)
        ]
        assert (move.left_chunks, move.left_bytes) == (len(left), sum(left)), move


def check_at_every_close() -> None:
    """From now on every catalogue that is closed in this process is counted through first."""
    close = Catalogue.close

    def checked(self: Catalogue) -> None:
        if not getattr(self, "_was_counted", False):
            self._was_counted = True  # type: ignore[attr-defined]
            try:
                self.read_now(_require_if_migrated)
            finally:
                close(self)
        else:
            close(self)

    Catalogue.close = checked  # type: ignore[method-assign]


def _require_if_migrated(connection: Any) -> None:
    version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if version >= "0009":
        require_true_sums(connection)
