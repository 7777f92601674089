"""Posting heads: no device overwrites another's snapshots, and a lost answer is never told as a failure.

Where the answer to a post was lost, the next try may be refused: the coordinator may know of the head by
then, or be another one, with an older catalogue. What it refuses says nothing of the try before. Only
the chain of heads does: where it has gone on beyond ours, it holds ours or never will.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from holdfast.client.heads import HeadView
from holdfast.client.limits import HEAD_POST_TRIES_MAX
from holdfast.client.link import Link
from holdfast.client.witnesses import checked_witnesses, require_kept
from holdfast.protocol.accounts import Head, SnapshotList, list_digest, signed_digest
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import (
    Conflict,
    GroupMoved,
    HeadMoved,
    HoldfastError,
    NoQuorum,
    OutcomeUnknown,
    SweptSince,
)
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import ClusterId, DeviceId, SnapshotId, UploadId
from holdfast.protocol.messages.backups import PostSnapshot
from holdfast.protocol.messages.heads import HeadState, PostHead
from holdfast.protocol.messages.uploads import Commit
from holdfast.protocol.signing import Signed, sign

__all__ = [
    "HeldCommit",
    "LostAnswer",
    "append_snapshot",
    "change_list",
    "next_head",
]


class LostAnswer:
    """Whether the answer to a post of a head was lost, until it is known what became of that head.

    One for everything that is done to post one snapshot, or one change of the list.
    """

    def __init__(self) -> None:
        self._error: OutcomeUnknown | None = None
        self._seq = 0

    def note(self, error: HoldfastError, seq: int) -> None:
        """A post of head ``seq`` ended so; the answer to an earlier try of it may have been lost."""
        if isinstance(error.__cause__, OutcomeUnknown):
            self._error, self._seq = error.__cause__, seq

    def seen(self, view: HeadView) -> None:
        """The chain of heads is here by now: at that number or beyond it holds ours, or never will."""
        if view.seq >= self._seq:
            self._error = None

    @contextmanager
    def told(self) -> Iterator[None]:
        """Whatever fails within: where an answer was lost before, the outcome is told as unknown.

        (Not where a sweep came between: then it is posted again.)
        """
        try:
            yield
        except (OutcomeUnknown, SweptSince):
            raise
        except (HoldfastError, OSError) as error:
            if self._error is None:
                raise
            raise self._error from error


def next_head(
    view: HeadView,
    device: DeviceId,
    key: Ed25519PrivateKey,
    cluster: ClusterId,
    snapshots: Sequence[SnapshotId],
    time_ns: int,
) -> tuple[Signed, bytes]:
    """The head that follows a view, signed, and its exact snapshot list."""
    exact = encode(SnapshotList(1, list(snapshots)))
    head = Head(
        1,
        view.devices.account,
        device,
        view.seq + 1,
        view.digest,
        view.devices.seq,
        signed_digest(view.devices_signed),
        list(view.proposed),
        time_ns,
        list_digest(exact),
    )
    payload = encode(head)
    return Signed(payload, sign(key, "head", cluster, payload)), exact


class HeldCommit(Protocol):
    """Chunks that a snapshot needs, stored and not committed yet: they may come with its head."""

    @property
    def held(self) -> Commit | None:
        """What is to be committed, if anything is."""
        ...

    async def commit_held(self) -> None:
        """Commit it by itself, in other groups where it must be."""
        ...

    def ended_with_head(self) -> None:
        """It came with a head that counts, and the upload ended with it."""
        ...


async def _posted(
    link: Link, message: PostHead, chunks: HeldCommit | None, lost: LostAnswer, seq: int
) -> HeadState:
    """Post a head, with the chunks that are held back for it; notes where an answer was lost."""
    try:
        if chunks is not None and chunks.held is not None:
            try:
                answer = await link.post_snapshot(PostSnapshot(commit=chunks.held, post=message))
            except (GroupMoved, NoQuorum) as error:
                lost.note(error, seq)
            else:
                chunks.ended_with_head()
                return answer
            try:
                await chunks.commit_held()
            except HoldfastError as error:
                raise error from None  # what was lost of a commit says nothing of the head
        return await link.post_head(message)
    except HoldfastError as error:
        lost.note(error, seq)
        raise


async def change_list(
    link: Link,
    view: HeadView,
    reread: Callable[[], Awaitable[HeadView]],
    saw: Callable[[HeadView], None],
    change: Callable[[HeadView], Awaitable[Sequence[SnapshotId]]],
    *,
    device: DeviceId,
    key: Ed25519PrivateKey,
    records: Sequence[bytes],
    upload: UploadId,
    time_ns: int,
    chunks: HeldCommit | None = None,
    lost: LostAnswer | None = None,
) -> HeadView:
    """Post a head with a changed list; reads again, changes anew and retries when another was first.

    Args:
        reread: awaitable factory that gives the newest verified view.
        saw: told of the head that was posted and is witnessed: this device has seen it from now on.
        change: awaitable factory that gives the list wanted on top of a view. The view's own list
            means that there is nothing to do (any more): an earlier answer may have been lost.
        records: sealed records that are new in the list.
        upload: an open one. Whatever the list names beyond the view's own must be claimed under it.
        chunks: of this upload, held back to come with the head.
        lost: of an earlier post of the same change, where there was one.

    Raises:
        SweptSince: unused chunks were swept since the upload opened.
        Conflict: other devices were faster again and again.
        OutcomeUnknown: an answer was lost, and it could not be found out whether the head counts.
    """
    lost = lost or LostAnswer()
    with lost.told():
        for _ in range(HEAD_POST_TRIES_MAX):
            wanted = await change(view)
            if tuple(wanted) == view.snapshots:
                return view
            await checked_witnesses(link, view.proposed)
            signed, exact = next_head(view, device, key, link.cluster, wanted, time_ns)
            message = PostHead(head=signed, snapshot_list=exact, records=list(records), upload=upload)
            reached("client.head.posting")
            try:
                answer = await _posted(link, message, chunks, lost, view.seq + 1)
            except HeadMoved:
                view = await reread()
                lost.seen(view)
                continue
            break
        else:
            raise Conflict(
                "other devices of this account kept changing the list of snapshots at the same time",
                do="Run it again: nothing is sent twice.",
            )
    reached("client.head.answered")
    posted = decode(signed.payload, Head)
    digest = signed_digest(signed)
    require_kept(posted, digest, answer.statements, link.cluster)
    # It is our own, and a majority of its witnesses vouches for it: reading it back would prove no more.
    made = replace(view, seq=posted.seq, digest=digest, head=posted, snapshots=tuple(wanted))
    with suppress(OSError, HoldfastError):  # it counts, whether this device can note that or not
        saw(made)
    return made


async def append_snapshot(
    link: Link,
    view: HeadView,
    reread: Callable[[], Awaitable[HeadView]],
    saw: Callable[[HeadView], None],
    *,
    device: DeviceId,
    key: Ed25519PrivateKey,
    snapshot: SnapshotId,
    sealed_record: bytes,
    upload: UploadId,
    time_ns: int,
    parent_kept: Callable[[HeadView], Awaitable[None]],
    chunks: HeldCommit | None = None,
    lost: LostAnswer | None = None,
) -> HeadView:
    """Post a head whose list ends with a new snapshot; see :func:`change_list`.

    Args:
        parent_kept: awaitable factory called with every newer view before trying again: makes sure
            that chunks taken over from the parent are still held.
    """

    async def with_it(newer: HeadView) -> Sequence[SnapshotId]:
        if snapshot in newer.snapshots:
            return newer.snapshots  # it was ours: an earlier answer was lost
        if newer is not view:
            await parent_kept(newer)
        return [*newer.snapshots, snapshot]

    return await change_list(
        link,
        view,
        reread,
        saw,
        with_it,
        device=device,
        key=key,
        records=[sealed_record],
        upload=upload,
        time_ns=time_ns,
        chunks=chunks,
        lost=lost,
    )
