"""LMDB's data file looked at from outside, before it is mapped: a file that is cut off kills its reader."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, Final

from holdfast.node.limits import SHORT_PAGES_TOLERATED
from holdfast.protocol.errors import IntegrityFailure, WrongDirectory

__all__ = ["META_DB_BYTES", "META_MAGIC", "cover_last_page", "missing_bytes", "refuse_truncated"]

META_MAGIC: Final = 0xBEEFC0DE
# LMDB's MDB_meta behind the 16-byte page header: magic, version, address, map size (lmdb 0.9, mdb.c).
_META_PAGE: Final = struct.Struct("<16xIIQQ")
META_DB_BYTES: Final = 48


def refuse_truncated(file: Path) -> None:
    """Refuse a data file shorter than its newest meta page says: reading it would kill the process.

    A few pages at the end may be counted but never written; then the file is made as long as it
    should be, and whatever lies there has to prove itself when read.

    Raises:
        IntegrityFailure: the file is cut off.
        WrongDirectory: it is not LMDB's.
    """
    missing = missing_bytes(file)
    if missing == 0:
        return
    if missing > SHORT_PAGES_TOLERATED * os.sysconf("SC_PAGE_SIZE"):
        raise IntegrityFailure(
            f"{file} is cut off: {missing} bytes are missing at its end",
            do="Do not use this store; the other nodes hold what is needed to fill a new one.",
            missing_bytes=missing,
        )
    os.truncate(file, file.stat().st_size + missing)


def cover_last_page(env: Any, file: Path) -> None:
    """After a commit: LMDB may count pages at the end that it never wrote; keep the file as long as it says.

    Args:
        env: the open lmdb.Environment of that file.
    """
    wanted = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if os.stat(file).st_size < wanted:
        os.truncate(file, wanted)


def missing_bytes(file: Path) -> int:
    """How many bytes an LMDB data file is shorter than its newest meta page says; 0: it is all there.

    Raises:
        WrongDirectory: it is not LMDB's.
    """
    if not file.exists() or file.stat().st_size == 0:
        return 0
    size = file.stat().st_size
    with file.open("rb") as opened:
        found = [_last_page(opened, at) for at in (0, os.sysconf("SC_PAGE_SIZE"))]
    known = [meta for meta in found if meta is not None]
    if not known:
        raise WrongDirectory(f"{file} is not an LMDB data file", unreadable=True)
    _, last, page_bytes = max(known)
    return max(0, (last + 1) * page_bytes - size)


def _last_page(opened: Any, at: int) -> tuple[int, int, int] | None:
    """(transaction, last page, page size) of the meta page at an offset; None when it is none."""
    opened.seek(at)
    raw = opened.read(_META_PAGE.size + 2 * META_DB_BYTES + 16)
    if len(raw) < _META_PAGE.size + 2 * META_DB_BYTES + 16:
        return None
    magic, _, _, _ = _META_PAGE.unpack_from(raw)
    if magic != META_MAGIC:
        return None
    (page_bytes,) = struct.unpack_from("<I", raw, _META_PAGE.size)
    last_page, transaction = struct.unpack_from("<QQ", raw, _META_PAGE.size + 2 * META_DB_BYTES)
    return transaction, last_page, page_bytes
