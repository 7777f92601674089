"""Encoding, decoding and rebuilding whole stripes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.protocol.erasure.kernel import Kernel, kernel
from holdfast.protocol.erasure.matrix import generator_rows, rows_from
from holdfast.protocol.errors import BadRequest, TooFewShards
from holdfast.protocol.profiles import Profile

__all__ = ["Buffer", "decode", "encode", "encode_many", "rebuild"]

Buffer = bytes | bytearray | memoryview

_TOGETHER_BYTES = 4096
"""Shards below this are coded many chunks at a time: a call costs more than its work."""


def _data_shards(profile: Profile, sealed: Buffer, length: int) -> list[bytes | memoryview]:
    view = memoryview(sealed)
    shards: list[bytes | memoryview] = []
    for start in range(0, profile.k * length, length):
        shard = view[start : start + length]
        shards.append(shard if len(shard) == length else bytes(shard).ljust(length, b"\0"))
    return shards


def _parity(profile: Profile, shards: Sequence[bytes | memoryview], use: Kernel) -> list[memoryview]:
    length = len(shards[0])
    room = memoryview(bytearray(profile.m * length))
    parity = [room[i * length : (i + 1) * length] for i in range(profile.m)]
    use.multiply(generator_rows(profile)[profile.k :], shards, parity)
    return [part.toreadonly() for part in parity]


def encode(profile: Profile, sealed: Buffer, *, use: Kernel | None = None) -> list[bytes | memoryview]:
    """The n shards of one sealed chunk, each ``profile.shard_bytes(len(sealed))`` long.

    Data shards are views into ``sealed`` where they can be; keep it unchanged.

    Raises:
        BadRequest: the chunk is empty.
    """
    if not len(sealed):
        raise BadRequest("an empty chunk has no shards")
    shards = _data_shards(profile, sealed, profile.shard_bytes(len(sealed)))
    return [*shards, *_parity(profile, shards, use or kernel())]


def encode_many(
    profile: Profile, chunks: Sequence[Buffer], *, use: Kernel | None = None
) -> list[list[bytes | memoryview]]:
    """Like :func:`encode` for each chunk; small ones share one kernel call.

    Columns are independent, so shards laid end to end are coded as one stripe.
    """
    use = use or kernel()
    made: list[list[bytes | memoryview]] = [[] for _ in chunks]
    together: list[int] = []
    for number, sealed in enumerate(chunks):
        if len(sealed) and profile.shard_bytes(len(sealed)) < _TOGETHER_BYTES:
            together.append(number)
        else:
            made[number] = encode(profile, sealed, use=use)
    if not together:
        return made
    lengths = [profile.shard_bytes(len(chunks[number])) for number in together]
    for number, length in zip(together, lengths, strict=True):
        made[number] = _data_shards(profile, chunks[number], length)
    joined = [b"".join(made[number][slot] for number in together) for slot in range(profile.k)]
    parity = _parity(profile, joined, use)
    start = 0
    for number, length in zip(together, lengths, strict=True):
        made[number].extend(row[start : start + length] for row in parity)
        start += length
    return made


def _check(profile: Profile, shards: Mapping[int, Buffer], length: int | None) -> tuple[int, ...]:
    """The k slots to use (data slots first, ascending), after checking shapes."""
    usable = sorted(shards)
    if usable and not 0 <= usable[0] <= usable[-1] < profile.n:
        raise BadRequest(f"a {profile} stripe has slots 0 to {profile.n - 1}")
    if len(usable) < profile.k:
        raise TooFewShards(
            f"a {profile} stripe needs {profile.k} shards and {len(usable)} are here", do="", have=len(usable)
        )
    wanted = length if length is not None else len(shards[usable[0]])
    if not wanted or any(len(shards[slot]) != wanted for slot in usable):
        raise BadRequest("the shards of a stripe must all have the stripe's shard length")
    return tuple(usable[: profile.k])


def decode(
    profile: Profile, shards: Mapping[int, Buffer], sealed_bytes: int, *, use: Kernel | None = None
) -> bytes | bytearray:
    """The sealed chunk from any k of its shards, by slot.

    Wrong bytes in give wrong bytes out: the caller checks shard digests before and the
    chunk id after.

    Raises:
        TooFewShards: fewer than k given.
        BadRequest: a slot or a length that does not fit.
    """
    if sealed_bytes < 1:
        raise BadRequest("a sealed chunk has at least one byte")
    k, length = profile.k, profile.shard_bytes(sealed_bytes)
    survivors = _check(profile, shards, length)
    lost = [slot for slot in range(k) if slot not in survivors]
    if not lost:
        parts = [memoryview(shards[slot])[: max(0, sealed_bytes - slot * length)] for slot in range(k)]
        return b"".join(parts)
    room = bytearray(k * length)
    view = memoryview(room)
    for slot in survivors:
        if slot < k:
            view[slot * length : (slot + 1) * length] = shards[slot]
    rows = rows_from(profile, survivors, tuple(lost))
    targets = [view[slot * length : (slot + 1) * length] for slot in lost]
    (use or kernel()).multiply(rows, [memoryview(shards[slot]) for slot in survivors], targets)
    for target in targets:
        target.release()
    view.release()
    del room[sealed_bytes:]
    return room


def rebuild(
    profile: Profile, shards: Mapping[int, Buffer], slots: Sequence[int], *, use: Kernel | None = None
) -> dict[int, bytes]:
    """The shards of the wanted slots from any k others.

    Raises:
        TooFewShards: fewer than k given.
        BadRequest: a slot or a length that does not fit.
    """
    if any(not 0 <= slot < profile.n for slot in slots):
        raise BadRequest(f"a {profile} stripe has slots 0 to {profile.n - 1}")
    survivors = _check(profile, shards, None)
    if not slots:
        return {}
    length = len(shards[survivors[0]])
    rooms = [bytearray(length) for _ in slots]
    rows = rows_from(profile, survivors, tuple(slots))
    (use or kernel()).multiply(
        rows, [memoryview(shards[slot]) for slot in survivors], [memoryview(room) for room in rooms]
    )
    return {slot: bytes(room) for slot, room in zip(slots, rooms, strict=True)}
