"""Encoding, decoding and rebuilding whole stripes.

Pure: shards in, shards out. Wrong bytes in give wrong bytes out: callers check
shard digests before decoding and the chunk id after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from holdfast.protocol.erasure.kernel import Kernel, kernel
from holdfast.protocol.erasure.limits import TOGETHER_COLUMNS_MAX, TOGETHER_SHARD_BYTES
from holdfast.protocol.erasure.matrix import generator_rows, rows_from
from holdfast.protocol.errors import BadRequest, TooFewShards
from holdfast.protocol.profiles import Profile

__all__ = ["Buffer", "decode", "encode", "encode_many", "rebuild"]

Buffer = bytes | bytearray | memoryview


def _flat(buffer: Buffer) -> memoryview:
    """The bytes of a buffer, read-only; BadRequest for a view that is not a run of bytes."""
    view = memoryview(buffer)
    if view.itemsize != 1 or view.ndim != 1 or not view.c_contiguous:
        raise BadRequest("shards and chunks are contiguous runs of bytes")
    return view if view.readonly else view.toreadonly()


def _data_shards(profile: Profile, sealed: Buffer) -> list[bytes | memoryview]:
    """The k data shards: views into the chunk, but for the padded end."""
    view = _flat(sealed)
    if not len(view):
        raise BadRequest("an empty chunk has no shards")
    length = profile.shard_bytes(len(view))
    shards: list[bytes | memoryview] = []
    for start in range(0, profile.k * length, length):
        shard = view[start : start + length]
        shards.append(shard if len(shard) == length else bytes(shard).ljust(length, b"\0"))
    return shards


def _product(
    rows: Sequence[bytes], sources: Sequence[bytes | memoryview], use: Kernel | None
) -> list[memoryview]:
    """One new shard for each row, all in one allocation; read-only."""
    length = len(sources[0])
    room = memoryview(bytearray(len(rows) * length))
    made = [room[i * length : (i + 1) * length] for i in range(len(rows))]
    (use or kernel()).multiply(rows, sources, made)
    return [shard.toreadonly() for shard in made]


def encode(profile: Profile, sealed: Buffer, *, use: Kernel | None = None) -> list[bytes | memoryview]:
    """The n shards of one sealed chunk, each ``profile.shard_bytes(len(sealed))`` long.

    Data shards are views into ``sealed`` (only padded ones are copies): keep it unchanged.

    Raises:
        BadRequest: the chunk is empty.
    """
    shards = _data_shards(profile, sealed)
    return [*shards, *_product(generator_rows(profile)[profile.k :], shards, use)]


def encode_many(
    profile: Profile, chunks: Sequence[Buffer], *, use: Kernel | None = None
) -> list[list[bytes | memoryview]]:
    """Like :func:`encode` for each chunk; small ones share kernel calls.

    Columns are independent, so shards laid end to end are coded as one stripe.

    Raises:
        BadRequest: a chunk is empty.
    """
    use = use or kernel()
    stripes = [_data_shards(profile, sealed) for sealed in chunks]
    rows = generator_rows(profile)[profile.k :]
    for run in _runs(stripes):
        if len(run) == 1:
            run[0].extend(_product(rows, run[0], use))
            continue
        joined = [b"".join(stripe[slot] for stripe in run) for slot in range(profile.k)]
        parity = _product(rows, joined, use)
        start = 0
        for stripe in run:
            end = start + len(stripe[0])
            stripe.extend([row[start:end] for row in parity])
            start = end
    return stripes


def _runs(stripes: Sequence[list[bytes | memoryview]]) -> Iterator[list[list[bytes | memoryview]]]:
    """Stripes to code in one call: small ones together up to a bound, large ones alone."""
    run: list[list[bytes | memoryview]] = []
    columns = 0
    for stripe in stripes:
        length = len(stripe[0])
        if length >= TOGETHER_SHARD_BYTES:
            yield [stripe]
            continue
        if columns + length > TOGETHER_COLUMNS_MAX:
            yield run
            run, columns = [], 0
        run.append(stripe)
        columns += length
    if run:
        yield run


def _survivors(profile: Profile, shards: Mapping[int, Buffer], length: int | None) -> dict[int, memoryview]:
    """The k shards to use, ascending and so data slots first, after checking every shape.

    ``length`` is what each shard must measure; None takes the first one's.
    """
    slots = sorted(shards)
    if slots and not 0 <= slots[0] <= slots[-1] < profile.n:
        raise BadRequest(f"a {profile} stripe has slots 0 to {profile.n - 1}")
    if len(slots) < profile.k:
        raise TooFewShards(
            f"a {profile} stripe needs {profile.k} shards and {len(slots)} are here",
            have=len(slots),
            need=profile.k,
        )
    views = {slot: _flat(shards[slot]) for slot in slots}
    wanted = len(views[slots[0]]) if length is None else length
    if not wanted or any(len(view) != wanted for view in views.values()):
        raise BadRequest("the shards of a stripe must all have the stripe's shard length")
    return {slot: views[slot] for slot in slots[: profile.k]}


def decode(
    profile: Profile, shards: Mapping[int, Buffer], sealed_bytes: int, *, use: Kernel | None = None
) -> bytes:
    """The sealed chunk of ``sealed_bytes`` bytes from any k of its shards, by slot.

    Data shards are used as they are; only lost ones are computed.

    Raises:
        TooFewShards: fewer than k given.
        BadRequest: a slot or a length that does not fit.
    """
    if sealed_bytes < 1:
        raise BadRequest("a sealed chunk has at least one byte")
    length = profile.shard_bytes(sealed_bytes)
    here = _survivors(profile, shards, length)
    # Slots that hold padding alone are known without computing: a chunk shorter than k ends before them.
    filled = -(-sealed_bytes // length)
    lost = tuple(slot for slot in range(filled) if slot not in here)
    parts = here
    if lost:
        made = _product(rows_from(profile, tuple(here), lost), list(here.values()), use)
        parts = {**here, **dict(zip(lost, made, strict=True))}
    return b"".join([parts[slot][: sealed_bytes - slot * length] for slot in range(filled)])


def rebuild(
    profile: Profile, shards: Mapping[int, Buffer], slots: Sequence[int], *, use: Kernel | None = None
) -> dict[int, bytes]:
    """The shards of the wanted slots, by slot, from any k others.

    Raises:
        TooFewShards: fewer than k given.
        BadRequest: a slot or a length that does not fit.
    """
    wanted = tuple(sorted(set(slots)))
    if wanted and not 0 <= wanted[0] <= wanted[-1] < profile.n:
        raise BadRequest(f"a {profile} stripe has slots 0 to {profile.n - 1}")
    here = _survivors(profile, shards, None)
    if not wanted:
        return {}
    made = _product(rows_from(profile, tuple(here), wanted), list(here.values()), use)
    return {slot: bytes(shard) for slot, shard in zip(wanted, made, strict=True)}
