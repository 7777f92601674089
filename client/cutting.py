"""Content-defined cutting: FastCDC with the account's own seed.

Cuts depend on the bytes alone, not on how they were fed: feeding a stream in
any portions gives the same chunks as cutting it at once (a property test).
The seed keeps chunk lengths from naming well-known files to somebody who sees
only sizes; it is obfuscation, not secrecy. Xia et al., "FastCDC", USENIX ATC
2016; the gear table is pyfastcdc's, XORed with the seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from pyfastcdc import FastCDC

from holdfast.client.limits import CUT_BYTES_AVERAGE, CUT_BYTES_MAX, CUT_BYTES_MIN

__all__ = ["StreamCutter", "cut_seed"]


def cut_seed(cut_key: bytes) -> int:
    """1 + K_cut[:8] (big-endian) mod (2^63 - 1)."""
    return 1 + int.from_bytes(cut_key[:8], "big") % (2**63 - 1)


@lru_cache(maxsize=8)
def _cutter(seed: int) -> FastCDC:
    return FastCDC(CUT_BYTES_AVERAGE, min_size=CUT_BYTES_MIN, max_size=CUT_BYTES_MAX, seed=seed)


class StreamCutter:
    """Cuts one stream fed in portions. Holds less than CUT_BYTES_MAX between calls."""

    def __init__(self, seed: int) -> None:
        self._cutter = _cutter(seed)
        self._rest = b""

    def feed(self, portion: bytes | bytearray | memoryview) -> Iterator[memoryview]:
        """Take bytes; give the chunks whose ends are certain by now.

        A cut is certain once CUT_BYTES_MAX bytes from its start are there: nothing
        that comes later can move it. Chunks are views; use them before the next call.
        """
        view = memoryview(b"".join((self._rest, portion)) if self._rest else bytes(portion))
        start = 0
        if len(view) >= CUT_BYTES_MAX:
            for chunk in self._cutter.cut_buf(view):
                if len(view) - chunk.offset < CUT_BYTES_MAX:
                    break
                start = chunk.offset + chunk.length
                yield view[chunk.offset : start]
        self._rest = bytes(view[start:])

    def finish(self) -> Iterator[memoryview]:
        """The remaining chunks; the cutter is then ready for a new stream."""
        view, self._rest = memoryview(self._rest), b""
        if len(view):
            for chunk in self._cutter.cut_buf(view):
                yield view[chunk.offset : chunk.offset + chunk.length]

    @property
    def held_bytes(self) -> int:
        """Bytes fed and not yet cut."""
        return len(self._rest)
