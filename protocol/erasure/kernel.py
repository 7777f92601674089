"""Which kernel runs: the fastest that proves itself against reedsolo.

Chosen once per process, on first use. A kernel that gives other bytes than
reedsolo on a random stripe is not used, and a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.erasure.isal import find_isal
from holdfast.protocol.erasure.matrix import generator_rows
from holdfast.protocol.erasure.portable import PortableKernel
from holdfast.protocol.profiles import Profile

__all__ = ["Kernel", "choose", "kernel", "kernel_name", "proves_itself"]

_PROOF = Profile(7, 4)
_PROOF_COLUMNS = 67  # no multiple of any vector width: the tail is proven too


class Kernel(Protocol):
    """A GF(2^8) matrix product over shards."""

    name: str

    def multiply(
        self, rows: Sequence[bytes], sources: Sequence[bytes | memoryview], targets: Sequence[memoryview]
    ) -> None:
        """targets[r] = sum over i of rows[r][i] * sources[i]; all buffers of one length >= 1."""
        ...


def proves_itself(candidate: Kernel, source: Source = SYSTEM) -> bool:
    """Does it give what reedsolo gives, on one random stripe?"""
    from reedsolo import RSCodec

    k, m = _PROOF.k, _PROOF.m
    shards = [source.random_bytes(_PROOF_COLUMNS) for _ in range(k)]
    made = [bytearray(_PROOF_COLUMNS) for _ in range(m)]
    candidate.multiply(generator_rows(_PROOF)[k:], shards, [memoryview(parity) for parity in made])
    codec = RSCodec(m, nsize=k + m)
    for column in range(_PROOF_COLUMNS):
        codeword = codec.encode(bytes(shard[column] for shard in shards))
        if bytes(parity[column] for parity in made) != bytes(codeword[k:]):
            return False
    return True


def choose(find_fast: Callable[[], Kernel | None] = find_isal, source: Source = SYSTEM) -> Kernel:
    """The kernel to use; warns and falls back when the fast one differs from reedsolo."""
    fast = find_fast()
    if fast is not None:
        if proves_itself(fast, source):
            return fast
        warnings.warn(
            f"the erasure kernel {fast.name} does not agree with reedsolo and is not used; "
            "coding runs on the slower portable kernel",
            RuntimeWarning,
            stacklevel=2,
        )
    return PortableKernel()


@lru_cache(maxsize=1)
def kernel() -> Kernel:
    """This process's kernel."""
    return choose()


def kernel_name() -> str:
    """Its name, for ``holdfast version``."""
    return kernel().name
