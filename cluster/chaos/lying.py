"""A node that lies: it answers reads with what a file tells it to (see chaos.member_program).

The file that ``HOLDFAST_LIES`` names holds ``wrong|old|other <percent>``; without it the node is
honest. How often it lied is noted beside it (``<file>.told``). Everything else is the real node.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

from holdfast.node.store import Absent, Found, ReadOutcome, ShardKey
from holdfast.node.store_lmdb import LmdbStore

__all__ = ["Liar", "become"]

_REMEMBERED: Final = 512


class Liar:
    """Makes lies of true answers.

    Args:
        file: which lie to tell; may come and go.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._random = Random(0)
        self._first: set[ShardKey] | None = None
        self._seen: list[Found] = []

    def answers(self, keys: Sequence[ShardKey], true: list[ReadOutcome]) -> list[ReadOutcome]:
        """What it says instead."""
        try:
            how, percent = self._file.read_text().split()
        except (OSError, ValueError):
            self._remember(true)
            return true
        told = [
            self._lie(how, key, outcome)
            if isinstance(outcome, Found) and self._random.uniform(0, 100) < float(percent)
            else outcome
            for key, outcome in zip(keys, true, strict=True)
        ]
        self._note(sum(one is not other for one, other in zip(told, true, strict=True)))
        self._remember(true)
        return told

    def _remember(self, outcomes: list[ReadOutcome]) -> None:
        self._seen += [outcome for outcome in outcomes if isinstance(outcome, Found)]
        del self._seen[:-_REMEMBERED]

    def _lie(self, how: str, key: ShardKey, outcome: Found) -> ReadOutcome:
        if how == "old":
            return Absent()  # as if it had never been stored
        others = [seen for seen in self._seen if seen.shard != outcome.shard]
        if how == "other" and others:
            return self._random.choice(others)
        changed = bytearray(outcome.shard)
        changed[self._random.randrange(len(changed))] ^= 1 << self._random.randrange(8)
        return Found(outcome.header, bytes(changed))

    def _note(self, count: int) -> None:
        if count:
            with open(f"{self._file}.told", "ab") as file:
                file.write(b"." * count)


def become(liar: Liar) -> None:
    """From now on this process's stores answer what the liar makes of it."""
    honest = LmdbStore.read

    def read(store: LmdbStore, keys: Sequence[ShardKey]) -> list[ReadOutcome]:
        return liar.answers(keys, honest(store, keys))

    setattr(LmdbStore, "read", read)  # noqa: B010 - a method replaced on purpose
