"""Which connection goes where one more comes than a server takes.

Each costs a descriptor and 16 KiB, and whoever can reach a server can open any number of them; without
a descriptor left a node could open no file of its own either. So they are bounded, and a newcomer takes
the place of the one that is needed least:

1. of those that never asked for anything the oldest, where these have more than their share;
2. the one that has rested longest (any server may close one that rests: RFC 9112, 9.3);
3. of those that never asked the oldest;
4. of those that are to send a body, or to take an answer, the one that has not for longest, and for about a
   second at least.

What the server itself works on is not given up for a newcomer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from holdfast.protocol.limits import (
    CONNECTIONS_MAX,
    CONNECTIONS_MIN,
    DESCRIPTORS_RESERVED,
    STALLED_S,
    STRANGERS_PART,
)

__all__ = ["Crowd", "connections_for", "take_descriptors"]

T = TypeVar("T")


class Crowd(Generic[T]):
    """The connections of one server. Every step takes the same time, however many there are.

    Args:
        most: how many there may be; strangers have a part of that for themselves.
    """

    def __init__(self, most: int = CONNECTIONS_MAX) -> None:
        self._strangers_share = max(1, most // STRANGERS_PART)
        # In the order in which they came to be so; of those awaited, when they last sent anything.
        self._strangers: dict[T, None] = {}
        self._resting: dict[T, None] = {}
        self._awaited: dict[T, float] = {}
        self._working: dict[T, None] = {}

    def __len__(self) -> int:
        return len(self._strangers) + len(self._resting) + len(self._awaited) + len(self._working)

    def __iter__(self) -> Iterator[T]:
        return iter([*self._strangers, *self._resting, *self._awaited, *self._working])

    def came(self, one: T) -> None:
        """It is new, and has not asked for anything."""
        self._strangers[one] = None

    def works(self, one: T) -> None:
        """The server does what it asked for."""
        self.left(one)
        self._working[one] = None

    def is_awaited(self, one: T, now_s: float) -> None:
        """It is to send more of its body, or to take more of its answer; or it just has."""
        self.left(one)
        self._awaited[one] = now_s

    def rests(self, one: T) -> None:
        """Its request is answered."""
        self.left(one)
        self._resting[one] = None

    def left(self, one: T) -> None:
        """It is gone; fine when it was not there."""
        for those in (self._working, self._awaited, self._resting, self._strangers):
            if one in those:
                del those[one]
                return

    def least_needed(self, now_s: float) -> T | None:
        """Who goes for a newcomer; None: nobody."""
        strangers_first = len(self._strangers) > self._strangers_share
        orders = (self._strangers, self._resting) if strangers_first else (self._resting, self._strangers)
        for those in orders:
            if those:
                return next(iter(those))
        for one, since_s in self._awaited.items():
            return one if now_s - since_s >= STALLED_S else None
        return None


def take_descriptors() -> int:
    """Let this process have as many as it may need and is allowed; gives how many connections to take."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + DESCRIPTORS_RESERVED
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):  # a sandbox may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    return connections_for(soft if soft != resource.RLIM_INFINITY else wanted)


def connections_for(descriptors: int) -> int:
    """How many connections a process with so many descriptors takes: half of few, of many all but some."""
    own = min(DESCRIPTORS_RESERVED, descriptors // 2)
    return min(CONNECTIONS_MAX, max(CONNECTIONS_MIN, descriptors - own))
