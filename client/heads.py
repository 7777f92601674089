"""Reading heads: what this device must have seen, and must never see.

A device remembers the newest head it saw and checks every link since. A lower
number is a rollback, another head under a known number or a broken link a fork;
neither is ever accepted (docs/FORMAT.md, "Head").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from holdfast.client.home import KnownAccount
from holdfast.client.limits import WITNESS_PATIENCE_S
from holdfast.client.link import Link
from holdfast.client.witnesses import (
    Confirmation,
    ask_witnesses,
    hidden_head,
)
from holdfast.protocol.accounts import (
    NO_DIGEST,
    DeviceList,
    Head,
    Witness,
    open_device_list,
    open_head,
    open_snapshot_list,
    signed_digest,
)
from holdfast.protocol.errors import (
    ForkDetected,
    Rollback,
    Unwitnessed,
)
from holdfast.protocol.ids import ClusterId, Digest, SnapshotId
from holdfast.protocol.messages.accounts import AccountState
from holdfast.protocol.messages.heads import HeadState
from holdfast.protocol.signing import Signed

__all__ = ["HeadView", "accept_devices", "accept_heads", "having_seen", "read_head"]

_HINT = "Do not trust this coordinator with new backups; ask its operator what was restored or rebuilt."


class HeadView(Struct, frozen=True):
    """The newest head, verified. ``seq`` 0: the account has no snapshot yet.

    Attributes:
        proposed: who shall witness the next head, as the coordinator sees it.
        confirmed: how many of how many witnesses confirmed it, where they were asked.
    """

    devices: DeviceList
    devices_signed: Signed
    seq: int
    digest: Digest
    head: Head | None
    snapshots: tuple[SnapshotId, ...]
    proposed: tuple[Witness, ...] = ()
    confirmed: tuple[int, int] | None = None


def accept_devices(known: KnownAccount, state: AccountState, cluster: ClusterId) -> DeviceList:
    """The account's device list, if it is not older than one this device has seen.

    Raises:
        Rollback, ForkDetected: it is, or it is another one under the same number.
        Refused, BadRequest: it does not verify.
    """
    listed = open_device_list(state.device_list, cluster)
    if listed.account != known.account:
        raise ForkDetected("the coordinator shows another account's device list", do=_HINT)
    if listed.seq < known.device_list_seq:
        raise Rollback(
            f"the coordinator shows device list {listed.seq}, and this device saw {known.device_list_seq}",
            do=_HINT,
        )
    digest = signed_digest(state.device_list)
    if listed.seq == known.device_list_seq and digest != known.device_list_digest:
        raise ForkDetected(f"there are two device lists under number {listed.seq}", do=_HINT)
    return listed


def accept_heads(
    known: KnownAccount, devices: DeviceList, devices_signed: Signed, state: HeadState, cluster: ClusterId
) -> HeadView:
    """The newest head, if an unbroken chain leads to it from the newest one this device has seen.

    Raises:
        Rollback: it is older. ForkDetected: the chain does not hold.
        Refused, BadRequest: a head does not verify.
    """
    devices_digest = signed_digest(devices_signed)
    if state.head is None:
        if known.head_seq:
            raise Rollback(
                f"the coordinator shows no head, and this device has seen {known.head_seq}", do=_HINT
            )
        return HeadView(devices, devices_signed, 0, NO_DIGEST, None, (), tuple(state.proposed))
    newest = open_head(state.head, cluster, devices, devices_digest)
    newest_digest = signed_digest(state.head)
    if newest.seq < known.head_seq:
        raise Rollback(
            f"the coordinator shows head {newest.seq}, and this device has seen {known.head_seq}", do=_HINT
        )
    if newest.seq == known.head_seq and newest_digest != known.head_digest:
        raise ForkDetected(f"there are two heads under number {newest.seq}", do=_HINT)
    seq, digest = known.head_seq, known.head_digest
    for link in state.links:
        head = open_head(link, cluster, devices, devices_digest)
        if head.seq != seq + 1 or head.previous != digest:
            raise ForkDetected(
                f"head {head.seq} does not follow head {seq} that this device has seen", do=_HINT
            )
        seq, digest = head.seq, signed_digest(link)
    if (seq, digest) != (newest.seq, newest_digest):
        raise ForkDetected(
            f"no unbroken chain of heads leads from {known.head_seq} to {newest.seq}", do=_HINT
        )
    listed = open_snapshot_list(state.snapshot_list, newest)
    snapshots, proposed = tuple(listed.snapshots), tuple(state.proposed)
    return HeadView(devices, devices_signed, newest.seq, newest_digest, newest, snapshots, proposed)


async def read_head(
    link: Link,
    known: KnownAccount,
    remember: Callable[[KnownAccount], None],
    told: tuple[AccountState, HeadState] | None = None,
) -> HeadView:
    """Fetch and verify the newest head; what was seen is remembered before it is used.

    Args:
        told: what the coordinator said just now of account and heads, asked for what follows ``known``.

    A new device has seen nothing: it starts the chain at its first link, and asks the witnesses.

    Raises:
        Rollback, ForkDetected: it is older than, or other than, what this device has seen, or witnesses keep.
        Unwitnessed: too few witnesses could be asked to tell.
    """
    view = await _shown_head(link, known, told)
    if known.head_seq == 0:
        view = await _confirmed(link, known, view)
    seen = having_seen(known, view)
    if seen != known:
        remember(seen)
    return view


def having_seen(known: KnownAccount, view: HeadView) -> KnownAccount:
    """What a device knows that has seen a view."""
    return replace(
        known,
        device_list_seq=view.devices.seq,
        device_list_digest=signed_digest(view.devices_signed),
        head_seq=view.seq,
        head_digest=view.digest,
    )


async def _confirmed(link: Link, known: KnownAccount, view: HeadView) -> HeadView:
    """What a new device is shown, once witnesses have confirmed it."""
    if view.head is None and view.devices.seq == 1:
        return view  # who makes an account has no head to be hidden
    until = link.source.monotonic() + WITNESS_PATIENCE_S
    while True:
        trouble: Rollback | Unwitnessed
        if view.head is None:
            hidden = await hidden_head(link, view.devices, view.devices_signed)
            if not hidden:
                return view
            trouble = Rollback(
                f"the coordinator shows no snapshot, and a node keeps head {hidden} of this account", do=_HINT
            )
        else:
            if not view.head.witnesses:
                return view
            told = await ask_witnesses(link, view.devices, view.devices_signed, view.head, view.digest)
            if told.verdict == "agreed":
                return replace(view, confirmed=(told.having, told.asked))
            trouble = _unconfirmed(view, told)
        if link.source.monotonic() > until:
            raise trouble
        # A head, be it the first, is with its witnesses a moment before it is shown.
        await asyncio.sleep(0.3)
        newer = await _shown_head(link, known)
        if newer.head is None and view.head is not None:
            raise Rollback("the coordinator shows a head, and then none any more", do=_HINT)
        view = newer


def _unconfirmed(view: HeadView, told: Confirmation) -> Rollback | Unwitnessed:
    if told.verdict == "outdated":
        return Rollback(
            f"the coordinator shows head {view.seq}, and its witnesses keep a newer one", do=_HINT
        )
    return Unwitnessed(
        f"head {view.seq} that the coordinator shows is not confirmed by a majority of its witnesses",
        why=f"{told.having} of {told.asked} confirm it, and the others do not answer or keep another one",
        do="Start the nodes that are down and run it again. If it stays, ask the operator what happened.",
    )


async def _shown_head(
    link: Link, known: KnownAccount, told: tuple[AccountState, HeadState] | None = None
) -> HeadView:
    """What the coordinator shows, held against everything this device has seen."""
    if told is None:
        # Together: whichever is older, a head by a device that the list does not have yet is refused alike.
        told = await asyncio.gather(link.account_state(), link.heads(known.head_seq))
    account, state = told
    devices = accept_devices(known, account, link.cluster)
    links = list(state.links)
    while links and state.head is not None and links[-1] != state.head:
        # More links than one answer holds.
        more = await link.heads(known.head_seq + len(links))
        if not more.links:
            break
        links.extend(more.links)
        state = more
    state = HeadState(
        head=state.head, snapshot_list=state.snapshot_list, links=links, proposed=state.proposed
    )
    return accept_heads(known, devices, account.device_list, state, link.cluster)
