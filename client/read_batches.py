"""Chunks that were located, cut into batches that are read together."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.client.limits import FETCH_SEALED_BYTES
from holdfast.protocol.errors import Unreachable
from holdfast.protocol.ids import ChunkId
from holdfast.protocol.limits import SHARD_BATCH_ENTRIES_MAX
from holdfast.protocol.messages.uploads import Located, LocatedChunk
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripe_reading import Reading

__all__ = ["read_batches"]


def read_batches(ids: Sequence[ChunkId], located: Located) -> list[list[Reading]]:
    """Chunks of one group together, up to FETCH_SEALED_BYTES, in the order asked.

    Raises:
        Unreachable: the coordinator does not say who holds a chunk's group.
    """
    groups = {group.group: group for group in located.groups}
    open_: dict[int, list[Reading]] = {}
    sizes: dict[int, int] = {}
    made: list[list[Reading]] = []
    for chunk, row in zip(ids, located.chunks, strict=True):
        if row is None:
            continue
        if row.group not in groups:
            raise Unreachable(f"the coordinator does not say who holds group {row.group}")
        if row.group in open_ and (
            sizes[row.group] + row.sealed_bytes > FETCH_SEALED_BYTES
            or len(open_[row.group]) >= SHARD_BATCH_ENTRIES_MAX
        ):
            made.append(open_.pop(row.group))
        open_.setdefault(row.group, []).append(_reading(chunk, row, groups[row.group].profile))
        sizes[row.group] = sum(reading.sealed_bytes for reading in open_[row.group])
    made.extend(open_.values())
    return made


def _reading(chunk: ChunkId, row: LocatedChunk, profile: Profile) -> Reading:
    return Reading(
        chunk, row.group, row.generation, row.sealed_bytes, row.stripe, profile, frozenset(row.missing)
    )
