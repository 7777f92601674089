"""What a node holds against what the catalogue says: which shards are gone, and which nobody needs. Pure.

The rule for a shard that lies on a node, first that fits:

1. *held*: a row names its account, chunk, generation and group, and the node is the slot's holder, or
   the former holder of a slot that is being filled (a verified source).
2. *kept*: its upload is open; or the catalogue does not know its upload and could not yet be sure that
   none of that upload's tickets is still good.
3. *kept*: a row names the very stripe (account, chunk, generation), here with another holder or in another
   group, and that group is not whole.
4. *free*: nobody needs it; by order it is marked, held for a while, and erased.

A group is whole when every slot is filled and proven: no missing rows, no moves, each holder within reach
with a working store; a fallback group never is, since its stripes are still to be encoded anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from holdfast.protocol.ids import NodeId, UploadId
from holdfast.protocol.messages.nodes import DeletionEntry

__all__ = ["Facts", "Standing", "UploadState", "compare", "is_stray", "judge"]

Standing = Literal["held", "kept", "free"]
UploadState = Literal["open", "ended", "unknown"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the catalogue says around one shard.

    Attributes:
        generation, group: the chunk's row; None when there is no row.
        holder, old: of the shard's own (group, slot): who holds it, and who held it while it is filled.
        is_whole: is the group that the row names whole?
        upload: of the shard's generation.
    """

    generation: UploadId | None
    group: int | None
    holder: NodeId | None
    old: NodeId | None
    is_whole: bool
    upload: UploadState


def judge(node: NodeId, shard: DeletionEntry, facts: Facts, *, is_settled: bool) -> Standing:
    """May a shard that lies on a node go? See the module's rule.

    Args:
        is_settled: tickets of uploads that the catalogue does not know have all expired.
    """
    is_named = facts.generation == shard.generation
    if is_named and facts.group == shard.group and node in (facts.holder, facts.old):
        return "held"
    if facts.upload == "open" or (facts.upload == "unknown" and not is_settled):
        return "kept"
    if is_named and not facts.is_whole:
        return "kept"
    return "free"


def is_stray(shard: DeletionEntry, facts: Facts, *, is_unreconciled: bool) -> bool:
    """Is it of a stripe that this catalogue should perhaps know, and does not?

    No upload is ever forgotten. So a shard of one that is not known here was stored under a catalogue
    that is newer than this one. And when this one is known to be old, whatever no row names may
    have had a row, or the stripe has been encoded anew for another group since. It takes the shards of
    all nodes together to tell what becomes of them.
    """
    if is_unreconciled:
        return (facts.generation, facts.group) != (shard.generation, shard.group)
    return facts.generation != shard.generation and facts.upload == "unknown"


def compare(must: Sequence[bytes], held: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
    """(gone, over): packed keys that must be there and are not, and that are there beside them.

    Both sides cover the same range of keys.
    """
    there = set(held)
    wanted = set(must)
    return [key for key in must if key not in there], sorted(there - wanted)
