"""Which connection goes where one more comes than a server takes.

Each costs a descriptor and 16 KiB, and whoever can reach a server can open any number of them; without
a descriptor left a node could open no file of its own either. So they are bounded, and a newcomer takes
the place of the one that is needed least: of those that never asked for anything the oldest, else of
those that rest the one that has rested longest (any server may close one that rests: RFC 9112, 9.3). A
request under way is not given up for a newcomer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from holdfast.protocol.limits import (
    CONNECTIONS_MAX,
    CONNECTIONS_MIN,
    DESCRIPTORS_RESERVED,
)

__all__ = ["Crowd", "connections_for", "take_descriptors"]

T = TypeVar("T")


class Crowd(Generic[T]):
    """The connections of one server. Every step takes the same time, however many there are."""

    def __init__(self) -> None:
        # In the order in which they came to be so.
        self._strangers: dict[T, None] = {}
        self._resting: dict[T, None] = {}
        self._asking: dict[T, None] = {}

    def __len__(self) -> int:
        return len(self._strangers) + len(self._resting) + len(self._asking)

    def __iter__(self) -> Iterator[T]:
        return iter([*self._strangers, *self._resting, *self._asking])

    def came(self, one: T) -> None:
        """It is new, and has not asked for anything."""
        self._strangers[one] = None

    def asks(self, one: T) -> None:
        """Its request is under way."""
        self.left(one)
        self._asking[one] = None

    def rests(self, one: T) -> None:
        """Its request is answered."""
        self.left(one)
        self._resting[one] = None

    def left(self, one: T) -> None:
        """It is gone; fine when it was not there."""
        for those in (self._asking, self._resting, self._strangers):
            if one in those:
                del those[one]
                return

    def least_needed(self) -> T | None:
        """Who goes for a newcomer; None: nobody."""
        for those in (self._strangers, self._resting):
            if those:
                return next(iter(those))
        return None


def take_descriptors() -> int:
    """Let this process have as many as it may need and is allowed; gives how many connections to take."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + DESCRIPTORS_RESERVED
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections_for(soft if soft != resource.RLIM_INFINITY else wanted)


def connections_for(descriptors: int) -> int:
    """How many connections a process with so many descriptors takes."""
    return min(CONNECTIONS_MAX, max(CONNECTIONS_MIN, descriptors - DESCRIPTORS_RESERVED))
