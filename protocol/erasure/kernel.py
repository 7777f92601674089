"""Which kernel runs: the fastest that proves itself against reedsolo.

Chosen once per process, on first use. A kernel that gives other bytes than
reedsolo on a random stripe is not used, and a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from threading import Lock
from typing import Protocol

from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.erasure.matrix import generator_rows
from holdfast.protocol.profiles import Profile

__all__ = ["Kernel", "choose", "kernel", "kernel_name", "proves_itself"]

_PROOF = Profile(7, 6)
"""ISA-L has a routine of its own for each number of rows from one to six."""
_PROOF_COLUMNS = 131
"""Twice the widest vector and three: the tail is proven too."""


class Kernel(Protocol):
    """A GF(2^8) matrix product over shards."""

    name: str

    def multiply(
        self, rows: Sequence[bytes], sources: Sequence[bytes | memoryview], targets: Sequence[memoryview]
    ) -> None:
        """targets[r] = sum over i of rows[r][i] * sources[i]; all buffers of one length >= 1."""
        ...


def proves_itself(candidate: Kernel, source: Source = SYSTEM) -> bool:
    """Does it give what reedsolo gives, on one random stripe, by one to m rows at a time?"""
    from reedsolo import RSCodec

    k, m = _PROOF.k, _PROOF.m
    shards = [source.random_bytes(_PROOF_COLUMNS) for _ in range(k)]
    codec = RSCodec(m, nsize=k + m)
    codewords = [bytes(codec.encode(bytes(column))) for column in zip(*shards, strict=True)]
    right = [bytes(codeword[slot] for codeword in codewords) for slot in range(k, k + m)]
    rows = generator_rows(_PROOF)[k:]
    for count in range(1, m + 1):
        made = [bytearray(_PROOF_COLUMNS) for _ in range(count)]
        candidate.multiply(rows[:count], shards, [memoryview(parity) for parity in made])
        if made != right[:count]:
            return False
    return True


def choose(candidates: Callable[[], Iterable[Kernel]] | None = None, source: Source = SYSTEM) -> Kernel:
    """The first candidate that agrees with reedsolo, else the portable kernel.

    Each candidate that differs is named in a RuntimeWarning. Kernels are loaded here: a restore of healthy
    stripes needs none.

    Args:
        candidates: ISA-L's copies, unless told otherwise.
    """
    from holdfast.protocol.erasure.isal import isal_kernels

    for candidate in (candidates or isal_kernels)():
        if proves_itself(candidate, source):
            return candidate
        warnings.warn(
            f"the erasure kernel {candidate.name} does not agree with reedsolo and is not used",
            RuntimeWarning,
            stacklevel=2,
        )
    from holdfast.protocol.erasure.portable import PortableKernel

    return PortableKernel()


_choosing = Lock()


@lru_cache(maxsize=1)
def _chosen() -> Kernel:
    return choose()


def kernel() -> Kernel:
    """This process's kernel; chosen by the first caller while others wait."""
    with _choosing:
        return _chosen()


def kernel_name() -> str:
    """Its name, for ``holdfast version``: "ISA-L (system)", "ISA-L (pyeclib wheel)", "portable"."""
    return kernel().name
