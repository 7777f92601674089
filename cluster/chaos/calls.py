"""Other functions in place of the C library's, for every loaded library: without a compiler or a tracer.

A shared library calls ``pwrite`` through a word that the dynamic linker filled in when it loaded the
library (a relocation, see the ELF and psABI documents). Here the linker's own tables are walked again
and those words are pointed elsewhere. So LMDB's and SQLite's real system calls are seen in their real
order, with nothing installed and no right to trace processes, wherever glibc runs on x86-64 or aarch64.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["LIBC", "StandIns", "replace_calls", "why_unavailable"]

LIBC: Final = ctypes.CDLL(None, use_errno=True)
_WORD: Final = ctypes.sizeof(ctypes.c_void_p)
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PT_DYNAMIC: Final = 2
_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_JMPREL = 2, 5, 6, 7, 8, 23
_RELA_BYTES: Final = 24
_SYMBOL_BYTES: Final = 24
# Relocations that hold nothing but a symbol's address: 64/ABS64, GLOB_DAT, JUMP_SLOT.
_ADDRESSES: Final = {"x86_64": {1, 6, 7}, "aarch64": {257, 1025, 1026}}
_LEFT_ALONE: Final = (b"libc.so", b"libc-", b"ld-linux", b"linux-vdso", b"_ctypes", b"libffi")


def why_unavailable() -> str:
    """Why it does not work on this machine, or ""."""
    known = platform.system() == "Linux" and platform.machine() in _ADDRESSES
    return "" if known else f"written for Linux on {' and '.join(_ADDRESSES)}"


class _Header(ctypes.Structure):
    """Elf64_Phdr."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
        ("vaddr", ctypes.c_uint64),
        ("paddr", ctypes.c_uint64),
        ("filesz", ctypes.c_uint64),
        ("memsz", ctypes.c_uint64),
        ("align", ctypes.c_uint64),
    )


class _Loaded(ctypes.Structure):
    """The beginning of dl_phdr_info, dl_iterate_phdr(3)."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("headers", ctypes.POINTER(_Header)),
        ("count", ctypes.c_uint16),
    )


def _loaded() -> list[tuple[int, int]]:
    """(base, address of the dynamic section) of every loaded library that may be changed."""
    found: list[tuple[int, int]] = []

    def visit(info: Any, _size: int, _nothing: Any) -> int:
        one = info.contents
        name = one.name or b""
        if not any(word in name for word in _LEFT_ALONE):
            for number in range(one.count):
                if one.headers[number].type == _PT_DYNAMIC:
                    found.append((one.base, one.base + one.headers[number].vaddr))
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Loaded), ctypes.c_size_t, ctypes.c_void_p)
    LIBC.dl_iterate_phdr(kind(visit), None)
    return found


def _word_at(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def _tags(dynamic: int) -> dict[int, int]:
    tags: dict[int, int] = {}
    while tag := _word_at(dynamic):
        tags[tag] = _word_at(dynamic + _WORD)
        dynamic += 2 * _WORD
    return tags


def _slots(base: int, dynamic: int) -> Iterator[tuple[str, int]]:
    """(symbol, where its address was written) of one library."""
    tags = _tags(dynamic)
    if _DT_SYMTAB not in tags or _DT_STRTAB not in tags:
        return
    wanted = _ADDRESSES[platform.machine()]
    tables = ((_DT_RELA, _DT_RELASZ), (_DT_JMPREL, _DT_PLTRELSZ))

    def absolute(pointer: int) -> int:
        return pointer if pointer >= base else base + pointer

    symbols, strings = absolute(tags[_DT_SYMTAB]), absolute(tags[_DT_STRTAB])
    for table, size in tables:
        if table not in tags:
            continue
        start = absolute(tags[table])
        for at in range(start, start + tags[size], _RELA_BYTES):
            info = _word_at(at + _WORD)
            if info & 0xFFFFFFFF in wanted:
                name = ctypes.c_uint32.from_address(symbols + (info >> 32) * _SYMBOL_BYTES).value
                yield ctypes.string_at(strings + name).decode(), base + _word_at(at)


def _point(slot: int, to: int) -> None:
    page = slot // _PAGE * _PAGE
    if LIBC.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE), 3):  # PROT_READ | PROT_WRITE
        raise OSError(ctypes.get_errno(), "mprotect")
    ctypes.c_uint64.from_address(slot).value = to


def replace_calls(functions: dict[str, Callable[..., Any]]) -> set[str]:
    """Let every loaded library call these instead; each value is a ctypes function of the same shape.

    The caller keeps them alive for as long as the process lives. Gives the names that some library calls.
    """
    addresses = {name: ctypes.cast(made, ctypes.c_void_p).value for name, made in functions.items()}  # type: ignore[arg-type]
    found = set()
    for base, dynamic in _loaded():
        for name, slot in _slots(base, dynamic):
            if name in addresses:
                _point(slot, addresses[name] or 0)
                found.add(name)
    return found


class StandIns:
    """Functions of ours that stand before the C library's, each told the real one.

    What they call themselves goes straight through. One that fails ends the process: a journal or a log
    with a gap would tell of something that no disk can suffer. Keep it for as long as the process lives.
    """

    def __init__(self) -> None:
        self._inside = threading.local()
        self._functions: dict[str, Any] = {}

    def before(self, name: str, result: Any, mine: Callable[..., int], *arguments: Any) -> None:
        """``mine(real, *arguments)`` is called instead of ``name``, once they are installed."""
        real = ctypes.CFUNCTYPE(result, *arguments, use_errno=True)((name, LIBC))

        def called(*values: Any) -> int:
            if getattr(self._inside, "of_it", False):
                return int(real(*values))
            with self.straight():
                try:
                    return mine(real, *values)
                except BaseException:
                    traceback.print_exc()
                    sys.stderr.flush()
                    os._exit(70)

        self._functions[name] = ctypes.CFUNCTYPE(result, *arguments, use_errno=True)(called)

    @contextmanager
    def straight(self) -> Iterator[None]:
        """What this thread calls meanwhile goes straight through."""
        already, self._inside.of_it = getattr(self._inside, "of_it", False), True
        try:
            yield
        finally:
            self._inside.of_it = already

    def install(self) -> set[str]:
        """From here on; gives the names that some library calls."""
        return replace_calls(self._functions)
