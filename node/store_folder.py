"""What lies beside a store's data file: the keys it died of, and the word that it is damaged.

    store/data.mdb, lock.mdb    LMDB's own
    store/reading               which keys are being read now, by thread (node/watching.py)
    store/crash                 where the process was when it died (faulthandler)
    store/suspects              keys that a process died of, not yet taken over by the store
    store/damaged.json          why this store is not opened any more

All of it goes with the store when it is put aside.
"""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.node.limits import STORES_ASIDE_MAX
from holdfast.node.store import ShardKey
from holdfast.protocol.directory import read_json, remove_file, write_file, write_json
from holdfast.protocol.errors import HoldfastError, WrongDirectory

__all__ = ["add_suspects", "damage_of", "declare_damaged", "forget_suspects", "put_aside", "suspects_of"]


def damage_of(store: Path) -> str | None:
    """Why the store was declared damaged; None when it was not."""
    try:
        told = read_json(store / "damaged.json", 1)
    except WrongDirectory as error:
        return error.what
    return None if told is None else str(told.get("why", "nobody wrote down why"))


def declare_damaged(store: Path, why: str) -> None:
    """From now on this store is not opened any more. The first reason stays."""
    if damage_of(store) is None:
        write_json(store / "damaged.json", {"version": 1, "why": why})


def suspects_of(store: Path) -> list[ShardKey]:
    """Keys that a process died of and that the store has not taken over yet."""
    try:
        lines = (store / "suspects").read_text().split()
    except (OSError, ValueError):
        return []
    found = []
    for line in lines:
        try:
            found.append(ShardKey.unpack(bytes.fromhex(line)))
        except Exception:  # a line that was cut off names nothing
            continue
    return found


def add_suspects(store: Path, packed: list[bytes]) -> None:
    """Hand keys over to the next process that opens the store."""
    known = [key.pack() for key in suspects_of(store)]
    lines = dict.fromkeys([*known, *packed])
    write_file(store / "suspects", "".join(f"{key.hex()}\n" for key in lines).encode())


def forget_suspects(store: Path) -> None:
    """The store has them now."""
    if (store / "suspects").exists():
        remove_file(store / "suspects")


def put_aside(store: Path) -> Path:
    """Rename a damaged store out of the way, keeping it whole; gives where it is now.

    Raises:
        HoldfastError: there are too many of them.
    """
    for number in range(1, STORES_ASIDE_MAX + 1):
        aside = store.with_name(f"{store.name}.quarantined-{number}")
        if not aside.exists():
            os.rename(store, aside)
            return aside
    raise HoldfastError(
        f"{store.parent} keeps {STORES_ASIDE_MAX} damaged stores already",
        do="Delete those that nobody needs any more, or take this disk out of use.",
    )
