"""The one place where time and randomness enter.

Everything else takes a :class:`Source`, so that tests, and one day whole
simulated clusters, decide both. Wall time is for people and for expiries that
cross machines; monotonic time is for durations.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

__all__ = ["CLOCK_VARIABLE", "SYSTEM", "FixedSource", "OffsetSource", "Source", "SystemSource"]

CLOCK_VARIABLE: Final = "HOLDFAST_CLOCK_FILE"


class Source(Protocol):
    """Time and randomness, injected."""

    def now_ms(self) -> int:
        """Wall time in milliseconds since the Unix epoch (UTC)."""
        ...

    def now_ns(self) -> int:
        """Wall time in nanoseconds since the Unix epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never steps back; the origin means nothing."""
        ...

    def random_bytes(self, count: int) -> bytes:
        """``count`` bytes fit for keys."""
        ...


class SystemSource:
    """The operating system's clock and randomness, optionally set off by a number of ms."""

    def __init__(self, offset_ms: int = 0) -> None:
        self._offset_ns = offset_ms * 1_000_000

    def now_ms(self) -> int:
        return self.now_ns() // 1_000_000

    def now_ns(self) -> int:
        return time.time_ns() + self._offset_ns

    def monotonic(self) -> float:
        return time.monotonic()

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)


class OffsetSource(SystemSource):
    """A wall clock that is wrong, as a file says; for tests of wrong clocks alone.

    The file holds ``<offset ms> <drift ppm> <since ms>``: the offset, and how fast the clock runs
    away from the true time ``since``. It may change at any time; without the file the clock is right.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._told = (0, 0.0, 0)

    def now_ns(self) -> int:
        true_ns = super().now_ns()
        offset_ms, drift_ppm, since_ms = self._read()
        return true_ns + offset_ms * 1_000_000 + int((true_ns - since_ms * 1_000_000) * drift_ppm / 1e6)

    def _read(self) -> tuple[int, float, int]:
        try:
            told = self._path.stat()
        except OSError:
            return 0, 0.0, 0
        if self._seen != (told.st_ino, told.st_mtime_ns):
            offset, drift, since = self._path.read_text().split()
            self._told = (int(offset), float(drift), int(since))
            self._seen = (told.st_ino, told.st_mtime_ns)
        return self._told


class FixedSource(Struct):
    """A source for tests: time moves when told to, bytes come from a seeded counter hash."""

    wall_ns: int = 1_700_000_000_000_000_000
    steady: float = 1000.0
    seed: bytes = b"seed"
    drawn: int = 0

    def now_ms(self) -> int:
        return self.wall_ns // 1_000_000

    def now_ns(self) -> int:
        return self.wall_ns

    def monotonic(self) -> float:
        return self.steady

    def random_bytes(self, count: int) -> bytes:
        from blake3 import blake3

        self.drawn += 1
        return blake3(self.seed + self.drawn.to_bytes(8, "big")).digest(length=count)

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self.wall_ns += int(seconds * 1e9)
        self.steady += seconds


SYSTEM: Source = (
    OffsetSource(Path(os.environ[CLOCK_VARIABLE])) if CLOCK_VARIABLE in os.environ else SystemSource()
)
