"""What a process did to its files, in order: the record of tests/support/crash/recording.py.

A file is a number, because names move. A change counts as begun from its event on, and as durable only
once a later event says so; what lies between may or may not be on the disk when the power goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

__all__ = [
    "Created",
    "Durable",
    "DurableFolder",
    "Event",
    "MadeFolder",
    "Noted",
    "Removed",
    "Renamed",
    "Sized",
    "Written",
    "pack",
    "read_log",
]


class Written(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Bytes went to a place in a file."""

    file: int
    offset: int
    content: bytes


class Sized(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A file was cut or made longer."""

    file: int
    length: int


class Durable(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Events of this file are on the disk: all before ``until``, or only the one at ``only``."""

    file: int
    until: int
    only: int = -1


class Created(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A file came to be, empty, under a path relative to the root."""

    path: str
    file: int


class MadeFolder(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A folder came to be."""

    path: str


class Renamed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A name moved; what had the new name before is gone."""

    path: str
    to: str


class Removed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A name is gone."""

    path: str


class DurableFolder(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A folder's names, as of all events before ``until``, are on the disk."""

    path: str
    until: int


class Noted(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The recorded program says something: what it begins, what it has acknowledged."""

    kind: str
    number: int
    value: str


Event = Written | Sized | Durable | Created | MadeFolder | Renamed | Removed | DurableFolder | Noted
_decoder = msgspec.msgpack.Decoder(Event)


def pack(event: Event) -> bytes:
    """One event with its length before it."""
    raw = msgspec.msgpack.encode(event)
    return len(raw).to_bytes(4, "big") + raw


def _packed(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "big")
        yield raw[at + 4 : end]
        at = end


def read_log(path: Path) -> list[Event]:
    """Every event of a log."""
    return [_decoder.decode(raw) for raw in _packed(path.read_bytes())]
