"""Which key was being read when the process died: noted in a mapped file, which outlives it.

A bad sector, or a length that a flipped bit made huge, kills whoever touches the
page (SIGBUS, SIGSEGV). Each thread notes the key in a place of its own before it
touches anything; faulthandler names the thread that died. Both files lie in the
store's folder; the process that supervises reads them.

    place = u64 BE thread ident (0: free) || u8 length || key, PLACE_BYTES long
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import re
import struct
import threading
from pathlib import Path
from typing import Final

from holdfast.node.limits import READING_THREADS_MAX

__all__ = ["ReadingNote", "take_keys_at_death"]

_PLACE_BYTES: Final = 128
_HEAD: Final = struct.Struct(">QB")
_DIED_IN: Final = re.compile(rb"Current thread 0x([0-9a-f]+)")


class ReadingNote:
    """Notes what is read now. Call it with a packed key, or b"" for none.

    Args:
        store: the store's folder; made when it is not there.
    """

    def __init__(self, store: Path) -> None:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        size = READING_THREADS_MAX * _PLACE_BYTES
        fd = os.open(store / "reading", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._crash = (store / "crash").open("wb", buffering=0)
        faulthandler.enable(self._crash)
        self._places: dict[int, int] = {}
        self._lock = threading.Lock()

    def __call__(self, key: bytes) -> None:
        ident = threading.get_ident()
        at = self._places.get(ident)
        if at is None:
            at = self._new_place(ident)
            if at is None:
                return
        self._map[at : at + _HEAD.size + len(key)] = _HEAD.pack(ident, len(key)) + key

    def _new_place(self, ident: int) -> int | None:
        """A place for one more thread; with too many of them the rest goes unnoted."""
        with self._lock:
            if len(self._places) >= READING_THREADS_MAX:
                return None
            self._places[ident] = at = len(self._places) * _PLACE_BYTES
            return at

    def close(self) -> None:
        """Stop noting: the process ends in order."""
        faulthandler.disable()
        self._crash.close()
        self._map.close()


def take_keys_at_death(store: Path) -> list[bytes]:
    """The key that the thread which died was reading; every noted one when it cannot be told which.

    The notes are gone after it: they are not taken for the next death's.
    """
    try:
        noted = (store / "reading").read_bytes()
        crash = (store / "crash").read_bytes()
        (store / "reading").unlink()
        (store / "crash").unlink()
    except OSError:
        return []
    keys: dict[int, bytes] = {}
    for at in range(0, len(noted) - _PLACE_BYTES + 1, _PLACE_BYTES):
        ident, length = _HEAD.unpack_from(noted, at)
        if ident and length:
            keys[ident] = noted[at + _HEAD.size : at + _HEAD.size + length]
    died = _DIED_IN.search(crash)
    if died is None:
        return list(keys.values())
    key = keys.get(int(died[1], 16))
    return [key] if key is not None else []
