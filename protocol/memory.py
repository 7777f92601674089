"""Keeping freed memory: glibc gives every freed 1 MiB buffer back to the kernel.

Each such buffer is then faulted in again page by page, which costs more than
the work done on it (halved decoding in a measurement). Raising two malloc
thresholds keeps buffers up to 8 MiB on the heap. Called by entry points only.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
MMAP_THRESHOLD_BYTES: Final = 8 * 1024 * 1024
TRIM_THRESHOLD_BYTES: Final = 48 * 1024 * 1024
ARENAS: Final = 2
"""A heap for each of a dozen threads would each keep its own freed memory."""
assert TRIM_THRESHOLD_BYTES > 2 * MMAP_THRESHOLD_BYTES


def keep_freed_memory(trim_bytes: int = TRIM_THRESHOLD_BYTES) -> bool:
    """Set both thresholds (mallopt(3)); False where the C library has no mallopt."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    mallopt(_M_ARENA_MAX, ARENAS)
    return bool(mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES) and mallopt(_M_TRIM_THRESHOLD, trim_bytes))
