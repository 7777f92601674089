"""Content-defined cutting: FastCDC with the account's own seed.

Cuts depend on the bytes alone, not on how they were fed: feeding a stream in
any portions gives the same chunks as cutting it at once (a property test).
The seed keeps chunk lengths from naming well-known files to somebody who sees
only sizes; it is obfuscation, not secrecy. Xia et al., "FastCDC", USENIX ATC
2016; the gear table is pyfastcdc's, XORed with the seed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import lru_cache

from pyfastcdc import FastCDC

from holdfast.client.limits import CUT_BYTES_AVERAGE, CUT_BYTES_MAX, CUT_BYTES_MIN, READ_BYTES

__all__ = ["StreamCutter", "cut_seed"]

_BUFFER_BYTES = CUT_BYTES_MAX + READ_BYTES
_LOOK_AGAIN_BYTES = CUT_BYTES_AVERAGE // 2


def cut_seed(cut_key: bytes) -> int:
    """1 + K_cut[:8] (big-endian) mod (2^63 - 1)."""
    return 1 + int.from_bytes(cut_key[:8], "big") % (2**63 - 1)


@lru_cache(maxsize=8)
def _cutter(seed: int) -> FastCDC:
    return FastCDC(CUT_BYTES_AVERAGE, min_size=CUT_BYTES_MIN, max_size=CUT_BYTES_MAX, seed=seed)


class StreamCutter:
    """Cuts one stream after the other. What is read goes straight into its buffer: see :meth:`room`.

    Holds less than CUT_BYTES_MAX between calls. Chunks are views into the buffer: use each before asking
    for the next, and before the next call.
    """

    def __init__(self, seed: int) -> None:
        self._cutter = _cutter(seed)
        self._buffer = memoryview(b"")
        self._start = self._end = 0
        self._look_at = CUT_BYTES_AVERAGE

    def room(self) -> memoryview:
        """Where to put up to READ_BYTES of what comes next; then call :meth:`take`."""
        if not self._buffer:
            # Zeros of the kernel's: a short stream pays for the pages that it fills, no others.
            self._buffer = memoryview(mmap.mmap(-1, _BUFFER_BYTES))
        if len(self._buffer) - self._end < READ_BYTES:
            held = self.held_bytes
            self._buffer[:held] = self._buffer[self._start : self._end]
            self._start, self._end = 0, held
        return self._buffer[self._end : self._end + READ_BYTES]

    def take(self, count: int) -> Iterator[memoryview]:
        """So many bytes were put into the room; gives the chunks whose ends are certain by now.

        A cut that lies before the end of what is there is certain: the gear's hash fell upon it, and
        nothing that comes later can move it. So is one at CUT_BYTES_MAX.
        """
        self._end += count
        if self.held_bytes < self._look_at:
            return
        first, view = self._start, self._buffer[self._start : self._end]
        for chunk in self._cutter.cut_buf(view):
            end = chunk.offset + chunk.length
            if end == len(view) and chunk.length < CUT_BYTES_MAX:
                break
            self._start = first + end
            yield view[chunk.offset : end]
        # What is held was looked at in vain: look again when there is a good deal more.
        self._look_at = min(self.held_bytes + _LOOK_AGAIN_BYTES, CUT_BYTES_MAX)

    def feed(self, portion: bytes | bytearray | memoryview) -> Iterator[memoryview]:
        """Take bytes that lie elsewhere; gives the chunks whose ends are certain by now."""
        view = memoryview(portion)
        while len(view):
            free = self._buffer[self._end :]
            room = free if len(view) <= len(free) else self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            yield from self.take(count)
            view = view[count:]

    def finish(self) -> Iterator[memoryview]:
        """The remaining chunks; the cutter is then ready for a new stream."""
        view = self._buffer[self._start : self._end]
        self.clear()
        if len(view):
            for chunk in self._cutter.cut_buf(view):
                yield view[chunk.offset : chunk.offset + chunk.length]

    def clear(self) -> None:
        """Forget what was put in: a new stream begins."""
        self._start = self._end = 0
        self._look_at = CUT_BYTES_AVERAGE

    @property
    def held_bytes(self) -> int:
        """Bytes fed and not yet cut."""
        return self._end - self._start
