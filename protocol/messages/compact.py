"""Nodes giving room back to their disks: a store's file is copied without what is free in it.

- ``POST /v1/admin/compact``   AskCompact -> Compacted; coordinator, signed by the operator
- ``POST /v1/compact``         Compact -> Compacted; node, asked by the coordinator (role "coordinator")
"""

from __future__ import annotations

from holdfast.protocol.codec import Message

__all__ = ["AskCompact", "Compact", "Compacted"]


class Compact(Message):
    """Copy the store now; without ``start`` only tell how it stands."""

    start: bool


class Compacted(Message):
    """How it stands.

    Attributes:
        running: a copy is under way.
        copied_bytes, total_bytes: how far it is.
        file_bytes, free_bytes: length of the data file, and how much of it could be given back.
        given_back_bytes: by the last copy that took the file's place; ``ended_ms``: when (0: none since
            the node was started).
        trouble: why the last one was given up; empty when it was not.
    """

    running: bool
    copied_bytes: int
    total_bytes: int
    file_bytes: int
    free_bytes: int
    given_back_bytes: int
    ended_ms: int
    trouble: str


class AskCompact(Message):
    """``node`` is the beginning of its id in hex. See :class:`Compact`."""

    node: str
    start: bool
