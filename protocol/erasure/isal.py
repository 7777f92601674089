"""ISA-L's ``ec_encode_data`` through ctypes, with reedsolo's matrices.

The library is looked for in this order: an explicit path (argument, or the
environment's HOLDFAST_ISAL), the system's libisal.so.2, the copy inside the
pyeclib wheel, which is found without importing pyeclib. ctypes lets go of the
GIL during the call, so several threads may code at once; tables are only read.

Native code does not check what it is given: every length, shape and right to
write is checked here before the call.

Source: Intel ISA-L, include/erasure_code.h.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from holdfast.protocol.erasure.limits import (
    COLUMNS_MAX,
    MATRICES_CACHED_ENTRIES,
    TABLE_BYTES_PER_COEFFICIENT,
    TABLES_CACHED_BYTES,
)
from holdfast.protocol.errors import BadRequest

__all__ = ["IsalKernel", "isal_kernels"]

_SETTING = "HOLDFAST_ISAL"
_SYSTEM_LIBRARY = "libisal.so.2"
_SIMPLE = 0
_WRITABLE = 1
"""CPython's PyBUF_SIMPLE (contiguous bytes) and PyBUF_WRITABLE."""


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

_Tables = ctypes.Array[ctypes.c_char]


def _wheel_copies() -> list[Path]:
    """ISA-L as auditwheel puts it beside the package: pyeclib.libs/libisal*.so*.

    Looked for where packages are. Asking importlib.metadata took 10 ms of each command that encodes: it
    loads parsers of mail and zip files.
    """
    for place in sys.path:
        if found := sorted(Path(place, "pyeclib.libs").glob("libisal*.so*")):
            return found
    return []


def _places(setting: str) -> Iterator[tuple[str, str]]:
    """(path or soname, where it comes from), best first, looked up only as far as needed."""
    if setting:
        yield setting, _SETTING
    yield _SYSTEM_LIBRARY, "system"
    for path in _wheel_copies():
        yield str(path), "pyeclib wheel"


def isal_kernels(setting: str | None = None) -> Iterator[IsalKernel]:
    """Every ISA-L that loads, best first. ``setting`` is a path and defaults to HOLDFAST_ISAL.

    A setting that cannot be followed is warned about: whoever set it expects to run on it.
    """
    wish = os.environ.get(_SETTING, "") if setting is None else setting
    for path, origin in _places(wish):
        try:
            yield IsalKernel(ctypes.CDLL(path), origin)
        except (OSError, AttributeError) as error:  # not there, not loadable, or not ISA-L
            if origin == _SETTING:
                warnings.warn(
                    f"{_SETTING} names {path}, which is not an ISA-L library ({error}); looking elsewhere",
                    RuntimeWarning,
                    stacklevel=2,
                )


class IsalKernel:
    """One loaded ISA-L; AttributeError if the library lacks its functions."""

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
        self._kept_tables = lru_cache(maxsize=MATRICES_CACHED_ENTRIES)(self._make_tables)

    def _make_tables(self, rows: tuple[bytes, ...]) -> _Tables:
        k = len(rows[0])
        tables = ctypes.create_string_buffer(TABLE_BYTES_PER_COEFFICIENT * k * len(rows))
        self._init_tables(k, len(rows), b"".join(rows), tables)
        return tables

    def _tables(self, rows: tuple[bytes, ...]) -> _Tables:
        """ISA-L's expanded form of the matrix; kept if small, so that the cache stays bounded in bytes."""
        small = TABLE_BYTES_PER_COEFFICIENT * len(rows[0]) * len(rows) <= TABLES_CACHED_BYTES
        return self._kept_tables(rows) if small else self._make_tables(rows)

    def multiply(
        self, rows: Sequence[bytes], sources: Sequence[bytes | memoryview], targets: Sequence[memoryview]
    ) -> None:
        """targets[r] = sum over i of rows[r][i] * sources[i], column by column.

        Raises:
            BadRequest: shapes that do not fit each other.
            BufferError: a target that cannot be written, or memory that is not contiguous.
        """
        k, count = len(sources), len(targets)
        if not k or not count or len(rows) != count or any(len(row) != k for row in rows):
            raise BadRequest(f"{len(rows)} rows do not fit {k} sources and {count} targets")
        length = len(targets[0])
        if not 1 <= length <= COLUMNS_MAX:
            raise BadRequest(f"a shard to code has 1 to {COLUMNS_MAX} bytes, not {length}")
        views = (_PyBuffer * (k + count))()
        held = 0
        try:
            for buffer in (*sources, *targets):
                _get_buffer(buffer, views[held], _SIMPLE if held < k else _WRITABLE)
                held += 1
                if views[held - 1].len != length:
                    raise BadRequest("the shards of a stripe must all have the same length")
            inputs = (ctypes.c_void_p * k)(*[views[i].buf for i in range(k)])
            outputs = (ctypes.c_void_p * count)(*[views[i].buf for i in range(k, k + count)])
            self._encode(length, k, count, self._tables(tuple(rows)), inputs, outputs)
        finally:
            for i in range(held):
                _release_buffer(views[i])
