"""Sweeping: the lease on it, the live set, its seal; and what was forgotten and may come back.

Paths (msgpack, signed by a listed device):

- ``POST /v1/sweeps``                  BeginSweep -> SweepBegun      (takes the lease, with a fencing number)
- ``POST /v1/sweeps/{number}/mark``    MarkLive -> Marked            (again is fine; renews the lease)
- ``POST /v1/sweeps/{number}/count``   CountSweep -> SweepCounted    (what a seal would move to the trash)
- ``POST /v1/sweeps/{number}/seal``    SealSweep -> SweepSealed      (again is fine: how far it is)
- ``POST /v1/sweeps/{number}/end``     EndSweep -> Done              (gives the lease up; sealed ones go on)
- ``GET  /v1/forgotten``               Forgotten                     (the newest FORGOTTEN_SHOWN_MAX)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from blake3 import blake3

from holdfast.protocol.codec import Message, Record, decode
from holdfast.protocol.errors import BadRequest, Refused
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, DeviceId, Digest, PublicKey, SnapshotId
from holdfast.protocol.signing import Signed, verify

__all__ = [
    "BeginSweep",
    "CountSweep",
    "EndSweep",
    "Forgotten",
    "ForgottenSnapshot",
    "LiveSet",
    "MarkLive",
    "Marked",
    "SealSweep",
    "SweepBegun",
    "SweepCounted",
    "SweepSealed",
    "live_set_digest",
    "open_live_set",
]


class BeginSweep(Message):
    """Ask for the lease, to sweep by this head (number 0 and zeros: the account has none)."""

    head_seq: int
    head: Digest


class SweepBegun(Message):
    """The lease: its fencing number, and for how long without a sign of life it is good."""

    number: int
    lease_ms: int


class MarkLive(Message):
    """Chunks that the head's snapshots reach, manifest pages included; at most SWEEP_MARKS_MAX."""

    chunks: list[ChunkId]


class Marked(Message):
    """How many different chunks are marked by now."""

    marked: int


class CountSweep(Message):
    """What would a seal move to the trash now?"""


class SweepCounted(Message):
    """Chunks that no mark and no running backup holds, and their sealed bytes."""

    chunks: int
    bytes: int


class LiveSet(Record):
    """What the owner signs (as ``sweep``): with this head, these chunks are all that snapshots reach.

    Attributes:
        number: the lease's fencing number.
        head: BLAKE3 of the head's ``Signed`` encoding.
        chunks: BLAKE3 of the different chunk ids in ascending order, joined; ``count`` of them.
    """

    version: Literal[1]
    account: AccountId
    device: DeviceId
    number: int
    head_seq: int
    head: Digest
    chunks: Digest
    count: int


class SealSweep(Message):
    """Sweep by this live set."""

    live: Signed


class SweepSealed(Message):
    """The sweep counts.

    Attributes:
        generation: the account's sweep generation since the seal.
        chunks, bytes: moved to the trash by this sweep up to now; sealed bytes.
        finished: nothing more will follow.
        uploads: backups under way since before the seal, for whose end the rest waits.
        hold_s: how long the trash is kept.
    """

    generation: int
    chunks: int
    bytes: int
    finished: bool
    uploads: int
    hold_s: int


class EndSweep(Message):
    """Give up the lease."""


class ForgottenSnapshot(Record):
    """A snapshot that the newest head does not list any more; since which head, and since when."""

    snapshot: SnapshotId
    head_seq: int
    posted_ms: int


class Forgotten(Message):
    """What was forgotten, the latest first; and what lies in the trash (sealed bytes)."""

    snapshots: list[ForgottenSnapshot]
    trash_chunks: int
    trash_bytes: int
    hold_s: int


def live_set_digest(ascending: Iterable[bytes]) -> Digest:
    """BLAKE3 over the different chunk ids in ascending order, joined."""
    hasher = blake3()
    for chunk in ascending:
        hasher.update(chunk)
    return Digest(hasher.digest())


def open_live_set(signed: Signed, cluster: ClusterId, account: AccountId, key: PublicKey) -> LiveSet:
    """The live set in an envelope, its signature by the account's device verified.

    Raises:
        Refused: another account's, or the signature does not hold.
        BadRequest: not a live set.
    """
    live = decode(signed.payload, LiveSet)
    if live.account != account:
        raise Refused("the live set is another account's")
    if min(live.number, live.head_seq, live.count) < 0:
        raise BadRequest("a live set counts from zero on")
    verify(key, signed.signature, "sweep", cluster, signed.payload)
    return live
