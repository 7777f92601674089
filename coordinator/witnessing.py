"""Heads on their way to their witnesses: given out, counted, and only then acknowledged.

A head is taken as pending in one transaction (catalogue.heads.begin_head), given to its own witnesses
and to those of the head before it, and becomes the account's newest in a second transaction once a
majority of both keeps it (protocol.witnessing). Whoever dies between leaves it pending: it is given
out again after the start, and when somebody posts (coordinator.giving_out). What can no more be agreed,
because a majority keeps another head, is dropped, and what the witnesses have is taken over
(coordinator.catching_up).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from typing import TYPE_CHECKING

import structlog

from holdfast.coordinator.catalogue import heads as head_rows
from holdfast.coordinator.catalogue.accounts import AccountRow, account_row
from holdfast.coordinator.catalogue.engine import Command
from holdfast.coordinator.catalogue.heads import Pending
from holdfast.coordinator.catalogue.uploads import end_upload
from holdfast.coordinator.catching_up import catch_up
from holdfast.coordinator.giving_out import give_out
from holdfast.coordinator.reigning import has_asked_all, require_reign
from holdfast.coordinator.witnesses import given_up, standing_nodes
from holdfast.protocol.accounts import Head, Witness, signed_digest
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import (
    Conflict,
    HeadMoved,
    HoldfastError,
    NoQuorum,
    OutcomeUnknown,
)
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import AccountId, NodeId, UploadId
from holdfast.protocol.messages.heads import HeadState, PostHead
from holdfast.protocol.witnessing import (
    is_agreed,
    majority,
)

if TYPE_CHECKING:
    from holdfast.coordinator.quorum import DurableStripe
    from holdfast.coordinator.service.desk import Desk

__all__ = ["post_head", "settle"]

_log = structlog.get_logger()


async def post_head(
    desk: Desk,
    account: AccountId,
    posted: PostHead,
    *,
    stripes: Sequence[DurableStripe] = (),
    ends: bool = False,
    refused: HoldfastError | None = None,
) -> HeadState:
    """Take a head, have it witnessed, acknowledge it.

    Args:
        stripes: committed in the transaction that takes the head. ends: its upload ends with it.
        refused: why what it needs cannot be committed, if so. A head that was taken already came with it.

    Raises:
        NoQuorum: too few of its witnesses are up; nothing was taken.
        OutcomeUnknown: it was taken, and too few of its witnesses could be reached then: it is settled
            when they are back. HeadMoved, and what else begin_head raises: it was not taken.
    """
    async with desk.witnessing.turn(account):
        try:
            take = _taking(desk, account, posted, stripes, ends, refused)
            try:
                row, begun = await desk.catalogue.write(take)
            except Conflict:
                if not await _settle_waiting(desk, account, posted):
                    raise
                row, begun = await desk.catalogue.write(take)
            ended = posted.upload if ends else None
            if isinstance(begun, Pending):
                if stripes:
                    reached("coordinator.snapshot.taken")
                reached("coordinator.head.waiting")
                return await settle(desk, row, begun, records=posted.records, ended=ended)
            if ended is not None:
                await desk.catalogue.write(lambda c: end_upload(c, row, ended))
            return await _vouched(desk, row, begun, posted)
        except BaseException:
            desk.witnessing.dirty.add(account)
            raise


def _taking(
    desk: Desk,
    account: AccountId,
    posted: PostHead,
    stripes: Sequence[DurableStripe],
    ends: bool,
    refused: HoldfastError | None,
) -> Command[tuple[AccountRow, Pending | HeadState]]:
    """The command that takes a head. It runs in another thread: what is live is looked at before."""
    nodes = {node: known.key for node, known in desk.live.nodes.items()}
    up = frozenset(node for node in nodes if desk.live.state(node) in ("up", "suspect"))
    standing = standing_nodes(desk)
    now_ms, cluster = desk.source.now_ms(), desk.identity.cluster

    def may_take(own: Collection[Witness], before: Collection[Witness]) -> None:
        if refused is not None:
            raise refused
        _require_up(own, before, up, standing)

    return lambda c: (
        (row := account_row(c, account)),
        head_rows.begin_head(
            c,
            cluster,
            row,
            posted,
            nodes,
            now_ms,
            stripes=stripes,
            ends=ends,
            may_take=may_take,
        ),
    )


async def _settle_waiting(desk: Desk, account: AccountId, posted: PostHead) -> bool:
    """An earlier head first; was there one, other than this very one?"""
    row, waiting = await desk.catalogue.read(
        lambda c: ((found := account_row(c, account)), head_rows.pending_head(c, found))
    )
    if waiting is None or waiting.signed == posted.head:
        return False
    try:
        await settle(desk, row, waiting)
    except OutcomeUnknown as error:
        raise NoQuorum(
            f"head {waiting.seq} of this account still waits for its witnesses",
            why=error.why,
            do="Start the nodes named ('holdfast status' shows them) and run it again.",
        ) from error
    except HeadMoved:
        pass  # it was dropped: what is there now decides
    return True


def _require_up(
    own: Collection[Witness], before: Collection[Witness], up: Set[NodeId], standing: Set[NodeId]
) -> None:
    ids, earlier = [each.node for each in own], [each.node for each in before]
    if not is_agreed(ids, earlier, up, set(earlier) - standing):
        away = sorted(node.short for node in {*ids, *earlier} - up)
        raise NoQuorum(
            "the snapshot cannot be made visible now: too few of the account's witnesses are up",
            why=f"nodes {', '.join(away)} are down, and a majority must keep every head",
            do="Start them and run it again: what is stored is not sent twice.",
            nodes=away,
        )


async def settle(
    desk: Desk,
    account: AccountRow,
    waiting: Pending,
    *,
    records: Sequence[bytes] = (),
    ended: UploadId | None = None,
) -> HeadState:
    """Give a pending head out, and make it the newest once it is agreed. The account's turn is held.

    Args:
        records: those that came with it, where they are at hand.
        ended: an upload that ends in the transaction which makes the head the newest.

    Where so many of its own witnesses were given up since it was taken that there never will be a
    majority, those that are left decide: no other head was taken meanwhile, and the account must go on.
    Perhaps none is left; so every node must have had the chance to say that another coordinator reigns.

    Raises:
        Superseded: one does.
        OutcomeUnknown: it is not agreed yet. HeadMoved: it never will be, and was dropped; what its
            witnesses keep instead is taken over by now.
    """
    given = await give_out(desk, account, waiting, records)
    own = [each.node for each in waiting.witnesses]
    before = [each.node for each in waiting.before]
    gone = given_up(desk, waiting.before)
    left = [node for node in own if node not in given_up(desk, waiting.witnesses)]
    may_decide = True
    if len(left) >= majority(len(own)):
        left = own  # all of them count, and those given up are missed
    else:
        may_decide = has_asked_all(desk)
    require_reign(desk)
    if may_decide and is_agreed(left, before, given.statements, gone):
        reached("coordinator.head.agreed")
        # They keep a head that was never agreed, and now never will be: the next head names others.
        desk.witnessing.forked.update((account.id, node) for node in given.refused)
        state = await desk.catalogue.write(
            lambda c: head_rows.settle_head(c, account_row(c, account.id), waiting.digest, ended=ended)
        )
        return HeadState(
            head=state.head,
            snapshot_list=state.snapshot_list,
            links=state.links,
            statements=list(given.statements.values()),
        )
    for group in (own, [node for node in before if node not in gone]):
        if sum(node in given.refused for node in group) > len(group) - majority(len(group)):
            await desk.catalogue.write(
                lambda c: head_rows.drop_pending(c, account_row(c, account.id), waiting.digest)
            )
            _log.warning("a head was dropped: its witnesses keep another one", seq=waiting.seq)
            seq = await catch_up(desk, account.id, {*own, *before})
            raise HeadMoved(
                f"head {waiting.seq} cannot be posted: its witnesses keep another one",
                why="the coordinator's catalogue was older than what they have seen",
                seq=seq,
            )
    silent = sorted(node.short for node in {*own, *before} - set(given.statements) - gone)
    raise OutcomeUnknown(
        f"head {waiting.seq} of the account is not agreed yet",
        why=f"witnesses {', '.join(silent)} have not confirmed it"
        if silent or may_decide
        else "its witnesses were given up, and not every node has said yet who coordinates",
        do="Start those nodes and run it again: repeating is safe.",
        nodes=silent,
    )


async def _vouched(desk: Desk, account: AccountRow, state: HeadState, posted: PostHead) -> HeadState:
    """The current head was posted again: its witnesses' word belongs to the answer."""
    found = await desk.catalogue.read(
        lambda c: head_rows.kept_head(c, account, decode(posted.head.payload, Head).seq)
    )
    assert found is not None
    signed, listed = found
    head = decode(signed.payload, Head)
    if not head.witnesses:
        return state
    again = Pending(
        account.id,
        head.seq,
        signed,
        signed_digest(signed),
        listed,
        account.device_list,
        (),
        tuple(head.witnesses),
        (),
    )
    given = await give_out(desk, account, again)
    return HeadState(
        head=state.head,
        snapshot_list=state.snapshot_list,
        links=state.links,
        statements=list(given.statements.values()),
    )
