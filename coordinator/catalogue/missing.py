"""Shards that are not where they should be: one numbered row each, worked off by repair.

A repair deletes only the number it was given. So whoever learns anew that a shard
is gone gives its row a new number: a repair that was under way before does not
take the new knowledge with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from holdfast.coordinator.catalogue.schema import chunks, missing
from holdfast.protocol.ids import ChunkId, UploadId

__all__ = ["Gone", "note_gone"]


@dataclass(frozen=True, slots=True)
class Gone:
    """A shard that was found to be absent, damaged or wrong in its slot."""

    account_number: int
    chunk: ChunkId
    generation: UploadId
    group: int
    slot: int


def note_gone(connection: Connection, gone: Sequence[Gone], why: str, *, renew: bool = True) -> int:
    """Note shards as missing, where the catalogue still has that very stripe; gives how many.

    Args:
        why: who found it, for people: "scrub", "read", "repair", "inventory", ...
        renew: give a row that is there already a new number. Not for what a repair itself finds,
            which would then never be done with it.
    """
    noted = 0
    for shard in gone:
        here = (chunks.c.account == shard.account_number, chunks.c.id == bytes(shard.chunk))
        row = connection.execute(select(chunks.c.generation, chunks.c.group_id).where(*here)).one_or_none()
        if row is None or (row.generation, row.group_id) != (bytes(shard.generation), shard.group):
            continue
        slot = (
            missing.c.account == shard.account_number,
            missing.c.chunk == bytes(shard.chunk),
            missing.c.slot == shard.slot,
        )
        if renew:
            connection.execute(delete(missing).where(*slot))
        elif connection.execute(select(missing.c.number).where(*slot)).scalar() is not None:
            continue
        connection.execute(
            insert(missing).values(
                account=shard.account_number,
                chunk=bytes(shard.chunk),
                group_id=shard.group,
                slot=shard.slot,
                why=why,
            )
        )
        noted += 1
    return noted
