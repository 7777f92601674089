"""Who may look into a store's map now: readers together, whoever closes or replaces it alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.protocol.errors import StoreFailed

__all__ = ["ReaderGate"]


class ReaderGate:
    """Keeps the map in place: closing waits for readers, whose views point into it.

    Args:
        path: of the store, for people.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._readers = 0
        self._idle = threading.Condition()
        self._is_closed = self._is_taken = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Look; waits while the map is replaced. Raises StoreFailed once it is closed."""
        with self._idle:
            self._idle.wait_for(lambda: not self._is_taken)
            if self._is_closed:
                raise StoreFailed(f"the store in {self._path} is closed")
            self._readers += 1
        try:
            yield
        finally:
            with self._idle:
                self._readers -= 1
                self._idle.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Replace the map: with no reader, and nobody getting in meanwhile. What raises closes it."""
        with self._idle:
            self._is_taken = True
            self._idle.wait_for(lambda: self._readers == 0)
        failed = True
        try:
            yield
            failed = False
        finally:
            with self._idle:
                self._is_taken = False
                self._is_closed = self._is_closed or failed
                self._idle.notify_all()

    def close(self) -> None:
        """Let nobody in any more, and wait for who is in."""
        with self._idle:
            self._is_closed = True
            self._idle.wait_for(lambda: self._readers == 0)
