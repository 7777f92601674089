"""A device that does what no client of ours does, to see that servers refuse it.

What a server checks matters only when somebody breaks the rule: clients keep them all, so a run with nothing
but them would not miss the checks. Here an account's own device, with its own keys, breaks one rule after
another. Each try must end with a refusal; that it was taken instead is what is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from holdfast.client.head_posting import next_head
from holdfast.client.heads import HeadView
from holdfast.client.home import Home
from holdfast.client.leases import Leases
from holdfast.client.node_calls import HttpNodeCalls
from holdfast.client.sealing import SealedChunk, seal
from holdfast.client.session import Session
from holdfast.client.stripe_batch import StripeBatch, encode_batch
from holdfast.client.sweeping import prune
from holdfast.protocol.address import Address
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import HoldfastError, OutcomeUnknown, Unreachable
from holdfast.protocol.ids import Digest, UploadId
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.heads import PostHead
from holdfast.protocol.messages.sweep import LiveSet, live_set_digest
from holdfast.protocol.messages.uploads import Commit, Lease
from holdfast.protocol.requests import Auth, Signer
from holdfast.protocol.signing import Signed, sign
from holdfast.protocol.transport import Transport

__all__ = ["CHEATS", "Cheat"]

_TIMEOUT_S: Final = 20.0
_SHARED_BYTES: Final = 20_000
_EXPIRED_MS: Final = 60_000
"""A ticket is presented when it is over by so much: clocks may differ a little."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """An upload with one chunk, ready to be sent.

    Attributes:
        nodes: the node of every slot.
    """

    session: Session
    upload: UploadId
    lease: Lease
    chunk: SealedChunk
    batch: StripeBatch
    nodes: list[MapNode]

    async def put(
        self, slot: int, batch: StripeBatch | None = None, *, of_slot: int | None = None, signer: Any = None
    ) -> Signed:
        """Send a slot's shard to its node; gives the receipt.

        Args:
            of_slot: whose shard and word it is: another slot's, as a lie.
        """
        batch, which = batch or self.batch, slot if of_slot is None else of_slot
        link = self.session.link
        calls = HttpNodeCalls(link.transport, signer or link.signer)
        header, shards = batch.headers[which], batch.shards[which]
        return await calls.put(self.nodes[slot], self.lease.ticket, header, shards, _TIMEOUT_S)


class _SignedOnce:
    """Signs the first request, and puts that very signature on all that follow."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._first: Auth | None = None

    def sign(self, *args: Any, **kwargs: Any) -> Auth:
        self._first = self._first or self._signer.sign(*args, **kwargs)
        return self._first


async def _open(session: Session) -> _Opened:
    link = session.link
    upload = UploadId(SYSTEM.random_bytes(UploadId.SIZE))
    leases = Leases(link, upload, SYSTEM)
    await leases.open(_SHARED_BYTES)
    lease = await leases.next()
    chunk = seal(session.current_keys.sealing, SYSTEM.random_bytes(_SHARED_BYTES))
    by_id = await link.nodes(lease.members, leases.epoch)
    batch = encode_batch(lease, [chunk])
    return _Opened(session, upload, lease, chunk, batch, [by_id[node] for node in lease.members])


async def _taken(work: Awaitable[object], what: str) -> str:
    """Words, when it was not refused; raises where no answer came, and nobody knows."""
    try:
        await work
    except (Unreachable, OutcomeUnknown):
        raise
    except HoldfastError:
        return ""
    return what


# Towards nodes


async def _other_bytes(made: _Opened) -> str:
    first = bytearray(made.batch.shards[0][0])
    first[len(first) // 2] ^= 1
    made.batch.shards[0][0] = bytes(first)
    return await _taken(made.put(0), "a shard with other bytes than its digest says")


async def _overwriting(made: _Opened) -> str:
    await made.put(0)
    other = seal(made.session.current_keys.sealing, SYSTEM.random_bytes(_SHARED_BYTES))
    named = SealedChunk(other.pid, made.chunk.chunk_id, other.sealed, other.plain_bytes, other.epoch)
    batch = encode_batch(made.lease, [named])
    return await _taken(made.put(0, batch), "another shard in place of one that was acknowledged")


async def _other_slot(made: _Opened) -> str:
    return await _taken(made.put(0, of_slot=1), "a shard of a slot that another node holds")


async def _same_request(made: _Opened) -> str:
    signer = _SignedOnce(made.session.link.signer)
    await made.put(0, signer=signer)
    return await _taken(made.put(0, signer=signer), "the very same signed request, a second time")


# Towards the coordinator


async def _too_few(made: _Opened) -> str:
    profile = made.lease.profile
    receipts = [await made.put(slot) for slot in range(profile.write_quorum - 1)]
    commit = Commit(chunks=made.batch.commit, receipts=receipts)
    return await _taken(
        made.session.link.commit(made.upload, commit), "a chunk with fewer shards than the write quorum"
    )


async def _receipts_of_another_upload(made: _Opened) -> str:
    receipts = [await made.put(slot) for slot in range(made.lease.profile.n)]
    other = await _open(made.session)
    commit = Commit(chunks=made.batch.commit, receipts=receipts)
    try:
        return await _taken(
            made.session.link.commit(other.upload, commit), "receipts that were given for another upload"
        )
    finally:
        await _end(other)


async def _head(made: _Opened, *, previous: Digest | None = None) -> PostHead:
    """A head with the same list as the newest one's, built on another one than it where asked."""
    session = made.session
    view = await session.head()
    if previous is not None:
        view = replace(view, digest=previous)
    signed, exact = next_head(
        view,
        session.device.id,
        session.device.sign_key,
        session.link.cluster,
        view.snapshots,
        1_000_000 * SYSTEM.now_ms(),
    )
    return PostHead(head=signed, snapshot_list=exact, records=[], upload=made.upload)


async def _head_on_another(made: _Opened) -> str:
    posted = await _head(made, previous=Digest(SYSTEM.random_bytes(Digest.SIZE)))
    return await _taken(made.session.link.post_head(posted), "a head that does not follow the newest one")


async def _head_after_the_end(made: _Opened) -> str:
    posted = await _head(made)
    await made.session.link.end_upload(made.upload)
    return await _taken(made.session.link.post_head(posted), "a head of an upload that has ended")


async def _head_over_a_sweep(made: _Opened) -> str:
    await prune(made.session)
    posted = await _head(made)
    return await _taken(
        made.session.link.post_head(posted), "a head of an upload that began before the last sweep"
    )


def _nothing_alive(made: _Opened, number: int, view: HeadView) -> Signed:
    """A device's word that a sweep by this head is to keep nothing; no mark contradicts it."""
    session = made.session
    live = LiveSet(
        1,
        session.known.account,
        session.device.id,
        number,
        view.seq,
        view.digest,
        live_set_digest([]),
        0,
    )
    payload = encode(live)
    return Signed(payload, sign(session.device.sign_key, "sweep", session.link.cluster, payload))


async def _live_set_of_an_older_head(made: _Opened) -> str:
    link, view = made.session.link, await made.session.head()
    begun = await link.begin_sweep(view.seq, view.digest)
    try:
        await link.post_head(await _head(made))
        signed = _nothing_alive(made, begun.number, view)
        return await _taken(
            link.seal_sweep(begun.number, signed), "what an older head reaches, as all that is to be kept"
        )
    finally:
        await _give_up(made, begun.number)


async def _sweep_without_its_lease(made: _Opened) -> str:
    link, view = made.session.link, await made.session.head()
    lost = await link.begin_sweep(view.seq, view.digest)
    taken_over = await link.begin_sweep(view.seq, view.digest)
    try:
        signed = _nothing_alive(made, lost.number, view)
        return await _taken(link.seal_sweep(lost.number, signed), "a sweep whose lease was lost")
    finally:
        await _give_up(made, taken_over.number)


async def _give_up(made: _Opened, sweep: int) -> None:
    with suppress(HoldfastError):
        await made.session.link.end_sweep(sweep)


async def _end(made: _Opened) -> None:
    """Nobody waits for it: what is not ended ends by itself."""
    with suppress(HoldfastError):
        await made.session.link.end_upload(made.upload)


_BY_NAME: Final[dict[str, Callable[[_Opened], Awaitable[str]]]] = {
    "other-bytes": _other_bytes,
    "overwriting": _overwriting,
    "other-slot": _other_slot,
    "same-request": _same_request,
    "too-few": _too_few,
    "receipts-of-another-upload": _receipts_of_another_upload,
    "head-on-another": _head_on_another,
    "head-after-the-end": _head_after_the_end,
    "head-over-a-sweep": _head_over_a_sweep,
    "live-set-of-an-older-head": _live_set_of_an_older_head,
    "sweep-without-its-lease": _sweep_without_its_lease,
}
_EXPIRED: Final = "expired-ticket"
CHEATS: Final = (*_BY_NAME, _EXPIRED)
"""What may be tried, by name."""


class Cheat:
    """One device's tries. A ticket is kept between them, until it is over.

    Args:
        home: the device's.
    """

    def __init__(self, home: Path, coordinator: Address) -> None:
        self._home = Home(home)
        self._coordinator = coordinator
        self._transport = Transport()
        self._kept: _Opened | None = None

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def attempt(self, how: str) -> str:
        """Try it; gives what was taken and had to be refused, or "".

        Raises:
            HoldfastError: it did not come that far.
        """
        session = await Session.open(
            self._home, transport=self._transport, source=SYSTEM, coordinator=self._coordinator
        )
        if how == _EXPIRED:
            return await self._expired(session)
        made = await _open(session)
        try:
            return await _BY_NAME[how](made)
        finally:
            await _end(made)

    async def _expired(self, session: Session) -> str:
        kept = self._kept
        if kept is None:
            self._kept = await _open(session)
            return ""
        if SYSTEM.now_ms() < kept.lease.expires_ms + _EXPIRED_MS:
            return ""
        self._kept = None
        try:
            return await _taken(kept.put(0), "a shard by a ticket that has expired")
        finally:
            await _end(kept)
