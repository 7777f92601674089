"""Which shards of a stripe are wrong, told from columns of them alone: no digest, no chunk id is needed.

Every column of the n shards is a codeword (docs/FORMAT.md, "Erasure code"), so with s of them at hand up
to floor((s - k) / 2) wrong ones have names: reedsolo's error location (Berlekamp-Massey, Chien search and
Forney; Blahut, "Theory and Practice of Error Control Codes", 1983, ch. 7), run over the columns that are
no codewords. A shard that is not at hand is an erasure and costs one spare shard.

What that is worth. Up to that many wrong shards are named exactly, whatever is in them. Of more, nothing
is promised by the code: shards that are wrong by chance are told apart from it ("cannot tell") as soon as
a few columns differ, because each column then points somewhere else; liars who agree with each other can
make every column point at the same honest slot. So nobody may be blamed for a column alone: what is named
here is who has to show its whole shard next (coordinator/audit_judging.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from holdfast.protocol.erasure.code import Buffer, rebuild
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.profiles import Profile

__all__ = ["locate_errors"]


def locate_errors(profile: Profile, columns: Mapping[int, Buffer]) -> frozenset[int] | None:
    """The slots whose bytes are wrong.

    Args:
        columns: by slot, that shard's bytes at the sampled columns: the same columns of each, in one order,
            at least one. Slots that are not in it count as erased.

    Returns:
        Empty: all columns are codewords. None: cannot tell, because more are wrong than can be located, or
        because k shards or fewer are at hand, which fit any codeword.

    Raises:
        BadRequest: a slot that the stripe does not have, or lengths that differ.
    """
    slots = sorted(columns)
    if slots and not 0 <= slots[0] <= slots[-1] < profile.n:
        raise BadRequest(f"a {profile} stripe has slots 0 to {profile.n - 1}")
    sampled = {slot: bytes(columns[slot]) for slot in slots}
    lengths = {len(column) for column in sampled.values()}
    if sampled and (len(lengths) != 1 or 0 in lengths):
        raise BadRequest("the same columns are needed of every shard, and at least one")
    if len(slots) <= profile.k:
        return None
    reach = (len(slots) - profile.k) // 2
    wrong: set[int] = set()
    # Each round explains one more column; a set within reach that explains all of them is the only one.
    while (column := _odd_column(profile, sampled, wrong)) is not None:
        found = _located(profile, {slot: sampled[slot][column] for slot in slots})
        if found is None or not found - wrong or len(wrong | found) > reach:
            return None
        wrong |= found
    return frozenset(wrong)


def _odd_column(profile: Profile, sampled: Mapping[int, bytes], without: Collection[int]) -> int | None:
    """The first column in which the shards (but for some) are no part of a codeword; None when all are."""
    here = {slot: column for slot, column in sampled.items() if slot not in without}
    basis = dict(list(here.items())[: profile.k])
    others = [slot for slot in here if slot not in basis]
    made = rebuild(profile, basis, others)
    for column in range(len(next(iter(here.values())))):
        if any(made[slot][column] != here[slot][column] for slot in others):
            return column
    return None


def _located(profile: Profile, column: Mapping[int, int]) -> set[int] | None:
    """Wrong slots of one column, as reedsolo finds them; None when it finds none or gives up."""
    from reedsolo import ReedSolomonError, RSCodec

    word = bytearray(column.get(slot, 0) for slot in range(profile.n))
    erased = [slot for slot in range(profile.n) if slot not in column]
    try:
        _, right, _ = RSCodec(profile.m, nsize=profile.n).decode(word, erase_pos=erased or None)
    except (ReedSolomonError, ZeroDivisionError):  # the second is how it gives up on some words
        return None
    found = {slot for slot, value in column.items() if right[slot] != value}
    return found if 0 < len(found) <= (len(column) - profile.k) // 2 else None
