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

from holdfast.client.limits import CUT_BYTES_AVERAGE, CUT_BYTES_MAX, CUT_BYTES_MIN, READ_BYTES

__all__ = ["StreamCutter", "cut_seed"]

_BUFFER_BYTES = CUT_BYTES_MAX + READ_BYTES


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

    def room(self) -> memoryview:
        """Where to put up to READ_BYTES of what comes next; then call :meth:`take`."""
        self._grow_to(_BUFFER_BYTES)
        if len(self._buffer) - self._end < READ_BYTES:
            held = self.held_bytes
            self._buffer[:held] = self._buffer[self._start : self._end]
            self._start, self._end = 0, held
        return self._buffer[self._end : self._end + READ_BYTES]

    def _grow_to(self, wanted: int) -> None:
        """A stream of a few KiB gets a buffer of a few KiB: a whole one takes longer to zero than to seal."""
        if len(self._buffer) < wanted:
            longer = memoryview(bytearray(min(_BUFFER_BYTES, max(wanted, 2 * len(self._buffer)))))
            longer[: self._end] = self._buffer[: self._end]
            self._buffer = longer

    def take(self, count: int) -> Iterator[memoryview]:
        """So many bytes were put into the room; gives the chunks whose ends are certain by now.

        A cut is certain once CUT_BYTES_MAX bytes from its start are there: nothing
        that comes later can move it.
        """
        self._end += count
        first, view = self._start, self._buffer[self._start : self._end]
        if len(view) < CUT_BYTES_MAX:
            return
        chunks = self._cutter.cut_buf(view)
        while self.held_bytes >= CUT_BYTES_MAX:
            chunk = next(chunks)
            self._start = first + chunk.offset + chunk.length
            yield view[chunk.offset : chunk.offset + chunk.length]

    def feed(self, portion: bytes | bytearray | memoryview) -> Iterator[memoryview]:
        """Take bytes that lie elsewhere; gives the chunks whose ends are certain by now."""
        view = memoryview(portion)
        while len(view):
            if self._end + len(view) <= _BUFFER_BYTES:
                self._grow_to(self._end + len(view))
                room = self._buffer[self._end :]
            else:
                room = self.room()
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

    @property
    def held_bytes(self) -> int:
        """Bytes fed and not yet cut."""
        return self._end - self._start
