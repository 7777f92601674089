"""ISA-L's ``ec_encode_data`` through ctypes, with reedsolo's matrices.

The library is looked for in this order: the path in HOLDFAST_ISAL, the
system's libisal.so.2, the copy inside the pyeclib wheel. ctypes lets go of the
GIL during the call, so several threads may code at once; tables are only read.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path

__all__ = ["IsalKernel", "find_isal"]

_CACHED_TABLES = 1024


class _PyBuffer(ctypes.Structure):
    """CPython's Py_buffer (stable ABI since 3.11), to take the address of read-only memory."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_get_buffer.restype = ctypes.c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_PyBuffer),)
_release_buffer.restype = None


def _candidates(setting: str | None) -> list[tuple[str, str]]:
    """(path or soname, where it comes from), best first."""
    found = []
    if setting:
        found.append((setting, "HOLDFAST_ISAL"))
    found.append(("libisal.so.2", "system"))
    try:
        wheel = metadata.distribution("pyeclib")
    except metadata.PackageNotFoundError:
        return found
    for file in wheel.files or ():
        if file.name.startswith("libisal") and ".so" in file.name:
            found.append((str(Path(str(wheel.locate_file(file)))), "pyeclib wheel"))
    return found


def find_isal(setting: str | None = None) -> IsalKernel | None:
    """The first ISA-L that loads, or None. ``setting`` defaults to HOLDFAST_ISAL."""
    for path, origin in _candidates(setting if setting is not None else os.environ.get("HOLDFAST_ISAL")):
        try:
            library = ctypes.CDLL(path)
            return IsalKernel(library, origin)
        except (OSError, AttributeError):
            continue
    return None


class IsalKernel:
    """One loaded ISA-L."""

    def __init__(self, library: ctypes.CDLL, origin: str) -> None:
        self.name = f"ISA-L ({origin})"
        self._init_tables = library.ec_init_tables
        self._init_tables.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self._init_tables.restype = None
        self._encode = library.ec_encode_data
        self._encode.argtypes = (
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
        )
        self._encode.restype = None
        self._tables = lru_cache(maxsize=_CACHED_TABLES)(self._make_tables)

    def _make_tables(self, rows: tuple[bytes, ...]) -> ctypes.Array[ctypes.c_char]:
        """ISA-L's expanded form: 32 bytes for each coefficient."""
        k = len(rows[0])
        tables = ctypes.create_string_buffer(32 * k * len(rows))
        self._init_tables(k, len(rows), b"".join(rows), tables)
        return tables

    def multiply(
        self, rows: Sequence[bytes], sources: Sequence[bytes | memoryview], targets: Sequence[memoryview]
    ) -> None:
        """targets[r] = sum over i of rows[r][i] * sources[i], column by column."""
        length, k, count = len(targets[0]), len(sources), len(targets)
        views = (_PyBuffer * (k + count))()
        held = 0
        try:
            for buffer in (*sources, *targets):
                _get_buffer(buffer, ctypes.byref(views[held]), 0)
                held += 1
                assert views[held - 1].len == length
            inputs = (ctypes.c_void_p * k)(*(views[i].buf for i in range(k)))
            outputs = (ctypes.c_void_p * count)(*(views[k + i].buf for i in range(count)))
            self._encode(length, k, count, self._tables(tuple(rows)), inputs, outputs)
        finally:
            for i in range(held):
                _release_buffer(ctypes.byref(views[i]))
