"""The matrices of the code, taken from reedsolo and inverted over GF(2^8).

A coefficient row is ``bytes`` of length k: shard = sum of row[i] * source[i].
The full generator has n rows of k: the identity above the parity matrix.
"""

from __future__ import annotations

from functools import lru_cache

from holdfast.protocol.erasure.limits import MATRICES_CACHED_ENTRIES
from holdfast.protocol.profiles import Profile

__all__ = ["generator_rows", "multiplication_table", "rows_from"]

_POLYNOMIAL = 0x11D


@lru_cache(maxsize=1)
def _logarithms() -> tuple[list[int], list[int]]:
    exp, log = [0] * 512, [0] * 256
    value = 1
    for power in range(255):
        exp[power] = exp[power + 255] = value
        log[value] = power
        value <<= 1
        if value & 0x100:
            value ^= _POLYNOMIAL
    return exp, log


def _multiply(a: int, b: int) -> int:
    if not a or not b:
        return 0
    exp, log = _logarithms()
    return exp[log[a] + log[b]]


def _inverse(a: int) -> int:
    exp, log = _logarithms()
    return exp[255 - log[a]]


@lru_cache(maxsize=256)
def multiplication_table(factor: int) -> bytes:
    """256 bytes: the product of ``factor`` with every byte."""
    return bytes(_multiply(factor, value) for value in range(256))


@lru_cache(maxsize=MATRICES_CACHED_ENTRIES)
def generator_rows(profile: Profile) -> tuple[bytes, ...]:
    """n coefficient rows over the k data shards: what reedsolo makes of the k unit vectors."""
    from reedsolo import RSCodec

    codec = RSCodec(profile.m, nsize=profile.n)
    columns = []
    for position in range(profile.k):
        unit = bytearray(profile.k)
        unit[position] = 1
        columns.append(bytes(codec.encode(unit)))
    return tuple(bytes(column[row] for column in columns) for row in range(profile.n))


def _add_scaled(row: bytes, other: bytes, factor: int) -> bytes:
    """row + factor * other: addition in GF(2^8) is XOR."""
    scaled = other.translate(multiplication_table(factor))
    return (int.from_bytes(row, "big") ^ int.from_bytes(scaled, "big")).to_bytes(len(row), "big")


def _invert(rows: list[bytes]) -> list[bytes]:
    """Gauss-Jordan over GF(2^8). The k x k matrices here are never singular (the code is MDS)."""
    size = len(rows)
    work = [row + bytes(1 if i == j else 0 for j in range(size)) for i, row in enumerate(rows)]
    for column in range(size):
        pivot = next(row for row in range(column, size) if work[row][column])
        work[column], work[pivot] = work[pivot], work[column]
        work[column] = work[column].translate(multiplication_table(_inverse(work[column][column])))
        for row in range(size):
            if row != column and (factor := work[row][column]):
                work[row] = _add_scaled(work[row], work[column], factor)
    return [row[size:] for row in work]


@lru_cache(maxsize=MATRICES_CACHED_ENTRIES)
def rows_from(profile: Profile, survivors: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[bytes, ...]:
    """Coefficient rows over k surviving slots (ascending) that give the wanted slots' shards."""
    generator = generator_rows(profile)
    inverted = _invert([generator[slot] for slot in survivors])
    made = []
    for slot in wanted:
        total = bytes(profile.k)
        for factor, row in zip(generator[slot], inverted, strict=True):
            if factor:
                total = _add_scaled(total, row, factor)
        made.append(total)
    return tuple(made)
