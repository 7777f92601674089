"""Opening a node's store: damaged ones are put aside when the operator asks, or told of; never used.

A node that has joined and whose store does not open goes on under its id with a
store that refuses everything, so that its heartbeats say "failed" and why. Only
``--replace-damaged-store`` gives it a fresh, empty one: then its shards are
rebuilt from its peers, and the damaged store stays in the folder, whole.
"""

from __future__ import annotations

import errno
from pathlib import Path

import structlog

from holdfast.node.store import ShardStore
from holdfast.node.store_failed import FailedStore
from holdfast.node.store_folder import forget_suspects, put_aside, suspects_of
from holdfast.node.store_lmdb import LmdbStore
from holdfast.node.watching import ReadingNote
from holdfast.protocol.clock import Source
from holdfast.protocol.errors import HoldfastError, IntegrityFailure, WrongDirectory
from holdfast.protocol.ids import StoreId

__all__ = ["StoreOpener"]

_log = structlog.get_logger()


class StoreOpener:
    """Call it to open the store in ``<folder>/store``; again after a failed commit.

    Args:
        known: the store that the node joined with; None before it has joined.
        replace_damaged: put a damaged store aside and make a new one.

    Raises (from calling):
        HoldfastError: it does not open. Not at a joined node's first call when the store is damaged:
            that gives a :class:`FailedStore`, or a new store.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        *,
        known: StoreId | None,
        capacity_bytes: int | None,
        replace_damaged: bool,
    ) -> None:
        self._store = folder / "store"
        self._source = source
        self._known = known
        self._capacity_bytes = capacity_bytes
        self._replace_damaged = replace_damaged
        self._note: ReadingNote | None = None
        self._is_first = True

    def __call__(self) -> ShardStore:
        first, self._is_first = self._is_first, False
        try:
            return self._open()
        except (HoldfastError, OSError) as error:
            if not first or self._known is None or not _is_damage(error):
                raise
            _log.error("the store does not open", why=str(error))
            if not self._replace_damaged:
                return FailedStore(self._known, _told(error))
        self.close()
        aside = put_aside(self._store)
        _log.warning("the damaged store was put aside; peers fill a new one", aside=str(aside))
        return self._open()

    def _open(self) -> LmdbStore:
        if self._note is None:
            self._note = ReadingNote(self._store)
        opened = LmdbStore(
            self._store,
            source=self._source,
            capacity_bytes=self._capacity_bytes,
            reading=self._note,
            suspects=suspects_of(self._store),
        )
        forget_suspects(self._store)
        return opened

    def close(self) -> None:
        """After the store: nothing is read any more."""
        if self._note is not None:
            self._note.close()
            self._note = None


def _is_damage(error: HoldfastError | OSError) -> bool:
    """Is it the store that is broken, and not the way it is used?"""
    if isinstance(error, OSError):
        return error.errno in (errno.EIO, errno.EUCLEAN, errno.EBADMSG)
    is_foreign = isinstance(error, WrongDirectory) and bool(error.details.get("unreadable"))
    return is_foreign or isinstance(error, IntegrityFailure)


def _told(error: HoldfastError | OSError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{error.what}: {error.why}" if error.why else error.what
