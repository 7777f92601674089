"""A fault under way, and what faults of every kind do to the members they hit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.wiring import COORDINATOR
from holdfast.cluster.processes import Member
from holdfast.protocol.errors import HoldfastError

__all__ = ["Active", "down_while", "member_of", "start"]

T = TypeVar("T")


def _nothing() -> None:
    """There is nothing to take back."""


@dataclass(slots=True)
class Active:
    """A fault under way.

    Attributes:
        end: takes it back. fired: did it have an effect? Asked after its end.
    """

    end: Callable[[], None] = _nothing
    fired: Callable[[], bool] = lambda: True
    detail: str = ""


def member_of(arena: Arena, name: str) -> Member:
    """Its process."""
    return arena.cluster.member(COORDINATOR if name == COORDINATOR else arena.number_of(name))


def start(arena: Arena, name: str) -> None:
    """Start it; from now on nothing explains that it ends.

    A coordinator is waited for: as long as it does not serve, that explains what fails.
    """
    member = member_of(arena, name)
    with arena.changing:
        member.start()
    arena.explained.discard(name)
    if name == COORDINATOR:
        with suppress(HoldfastError):  # another fault was faster
            member.wait_ready()


def down_while(arena: Arena, name: str, work: Callable[[], T]) -> T:
    """Do something to a node's folder while it does not run."""
    arena.explained.add(name)
    with arena.changing:
        member_of(arena, name).kill()
        done = work()
        arena.cluster.forget_journals(name)
        start(arena, name)
    return done
