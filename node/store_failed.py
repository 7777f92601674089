"""A store that did not open, under its id: so that its node can say so instead of vanishing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from holdfast.node.store import (
    Compaction,
    Put,
    Quarantined,
    ReadOutcome,
    ShardKey,
    StoreRoom,
    StoreStats,
)
from holdfast.protocol.errors import HoldfastError, StoreFailed
from holdfast.protocol.ids import StoreId

__all__ = ["FailedStore"]


class FailedStore:
    """Every question for shards raises StoreFailed.

    Args:
        id: of the store that should be there.
        why: what opening it met, for people.
    """

    capacity_bytes = 0
    running_ms = 0

    def __init__(self, id_: StoreId, why: str) -> None:
        self.id = id_
        self.why = why

    def _refuse(self) -> NoReturn:
        raise StoreFailed(
            "this node's store could not be opened",
            why=self.why,
            do="Its operator starts the node with --replace-damaged-store, and it is filled by its peers.",
        )

    def put(self, batches: Sequence[Sequence[Put]]) -> list[HoldfastError | None]:
        """Refused."""
        self._refuse()

    def read(self, keys: Sequence[ShardKey]) -> list[ReadOutcome]:
        """Refused."""
        self._refuse()

    def scan(self, after: bytes, until: bytes, most: int) -> list[ShardKey]:
        """Refused."""
        self._refuse()

    def unmarked(self, after: bytes, until: bytes, most: int) -> tuple[list[bytes], bytes]:
        """Refused."""
        self._refuse()

    def headers(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Refused."""
        self._refuse()

    def mark(self, number: int, keys: Sequence[ShardKey], due_ms: int) -> tuple[int, int]:
        """Refused."""
        self._refuse()

    def keep(self, keys: Sequence[ShardKey]) -> list[bool]:
        """Refused."""
        self._refuse()

    def erase_due(self, now_ms: int, most: int) -> int:
        """Refused."""
        self._refuse()

    def quarantine(self, keys: Sequence[ShardKey]) -> int:
        """Refused."""
        self._refuse()

    def quarantined(self, after: int, most: int) -> list[Quarantined]:
        """Refused."""
        self._refuse()

    def findings(self, most: int) -> list[ShardKey]:
        """There are none that could be told."""
        return []

    def findings_told(self, keys: Sequence[ShardKey]) -> None:
        """Refused."""
        self._refuse()

    def scrub_state(self) -> bytes:
        """Nothing is known."""
        return b""

    def save_scrub_state(self, state: bytes) -> None:
        """Refused."""
        self._refuse()

    def declare_damaged(self, why: str) -> NoReturn:
        """It is."""
        self._refuse()

    def save_running(self, running_ms: int) -> None:
        """Refused."""
        self._refuse()

    def term(self) -> int:
        """Not known."""
        return 0

    def raise_term(self, term: int) -> None:
        """Refused."""
        self._refuse()

    def pulse(self) -> int:
        """Not known."""
        return 0

    def raise_pulse(self, pulse: int) -> None:
        """Refused."""
        self._refuse()

    def stats(self) -> StoreStats:
        """Nothing that is in it counts."""
        return StoreStats(0, 0, 0, 0, 0)

    def room(self) -> StoreRoom:
        """Nothing can be given back."""
        return StoreRoom(0, 0)

    def compact(self) -> Compaction:
        """Refused."""
        self._refuse()

    def close(self) -> None:
        """There is nothing to let go of."""
