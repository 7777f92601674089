"""One turn after the other: pending heads are settled, witnesses keep all they should.

A witness that was away, or is new, is given what it lacks: the newest head first, then the older ones
downwards, each proven by the link of the one after it, then the records. One that keeps a newer head
than the catalogue has is read, and believed as far as it proves itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import structlog

from holdfast.coordinator.catalogue import heads as head_rows
from holdfast.coordinator.catalogue.accounts import AccountRow, account_row, all_accounts
from holdfast.coordinator.catching_up import catch_up
from holdfast.coordinator.giving_out import facts_of, give, without_head
from holdfast.coordinator.limits import (
    HEADS_GIVEN_PER_TURN_MAX,
    WITNESSED_AT_ONCE_MAX,
    WITNESSED_PER_TURN_MAX,
    WITNESSES_LOOK_S,
)
from holdfast.coordinator.witnesses import proposed
from holdfast.coordinator.witnessing import settle
from holdfast.protocol.accounts import Witness
from holdfast.protocol.errors import ForkDetected, HeadMoved, HoldfastError, Rollback
from holdfast.protocol.ids import AccountId, NodeId
from holdfast.protocol.messages.witness import HeadKept, KeepHead
from holdfast.protocol.witnessing import open_statement

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = ["complete_account", "keep_witnesses"]

_log = structlog.get_logger()


async def keep_witnesses(desk: Desk) -> float | None:
    """One turn."""
    await _each(desk, await desk.catalogue.read(head_rows.accounts_with_pending), _settle_again)
    state, now_s = desk.witnessing, desk.source.monotonic()
    if now_s >= state.look_s:
        state.look_s = now_s + WITNESSES_LOOK_S
        state.dirty.update(await desk.catalogue.read(all_accounts))
    await _each(desk, state.following(WITNESSED_PER_TURN_MAX), _complete_again)
    return None


async def _each(
    desk: Desk, accounts: Iterable[AccountId], work: Callable[[Desk, AccountId], Awaitable[None]]
) -> None:
    """See to several accounts at a time, until all had their turn or another coordinator reigns.

    Args:
        work: takes what may happen, and raises nothing but faults of the program.
    """
    turns = asyncio.Semaphore(WITNESSED_AT_ONCE_MAX)

    async def one(account: AccountId) -> None:
        async with turns:
            if not desk.reigning.superseded:
                await work(desk, account)

    async with asyncio.TaskGroup() as group:
        for account in accounts:
            group.create_task(one(account))


async def _complete_again(desk: Desk, account: AccountId) -> None:
    """Witnesses that may lack something."""
    dirty = desk.witnessing.dirty
    dirty.discard(account)
    try:
        done = await complete_account(desk, account)
    except HoldfastError as error:
        done = False
        _log.info("an account's witnesses are not complete", account=account.short, why=str(error))
    if not done:
        dirty.add(account)


async def _settle_again(desk: Desk, account: AccountId) -> None:
    """A head that was taken before a crash, or while too few witnesses were up."""
    lock = desk.witnessing.turn(account)
    if lock.locked():
        return  # somebody posts, and sees to it
    async with lock:
        try:
            row, waiting = await desk.catalogue.read(
                lambda c: ((found := account_row(c, account)), head_rows.pending_head(c, found))
            )
            if waiting is not None:
                await settle(desk, row, waiting)
        except HoldfastError as error:
            _log.info("a head waits for its witnesses", account=account.short, why=str(error))


async def complete_account(desk: Desk, account: AccountId) -> bool:
    """Give every witness of an account that is up what it lacks; False: some could not be given all of it."""
    row, witnesses = await desk.catalogue.read(
        lambda c: ((found := account_row(c, account)), head_rows.newest_witnesses(c, found))
    )
    keepers = witnesses or tuple(proposed(desk, account, ()))
    done = True
    for witness in keepers:
        if witness.node not in desk.live.nodes or (account, witness.node) in desk.witnessing.forked:
            continue  # the next head names another one
        if desk.live.state(witness.node) != "up":
            done = False
            continue
        try:
            done &= await _complete(desk, row, witness)
        except (ForkDetected, Rollback):
            # It keeps a head that was never agreed. Where it were us who are behind, catch_up had shown it.
            desk.witnessing.forked.add((account, witness.node))
            _log.warning("a witness keeps another history", account=account.short, node=witness.node.short)
        except HoldfastError as error:
            done = False
            _log.info("a witness could not be caught up", node=witness.node.short, why=str(error))
    return done


async def _complete(desk: Desk, account: AccountRow, witness: Witness) -> bool:
    facts = facts_of(desk, account)
    kept = await give(desk, witness.node, without_head(facts, account, []))
    told = open_statement(kept.statement, desk.identity.cluster, witness)
    if told.seq > account.head_seq:
        return await _behind(desk, account, witness.node)
    if account.head_seq == 0:
        return True
    if told.seq < account.head_seq:
        kept = await _give_head(desk, account, witness.node, account.head_seq)
    for _ in range(HEADS_GIVEN_PER_TURN_MAX):
        if kept.since <= 1:
            break
        kept = await _give_head(desk, account, witness.node, kept.since - 1)
    for _ in range(HEADS_GIVEN_PER_TURN_MAX):
        if not kept.lacking:
            break
        found = await desk.catalogue.read(lambda c: head_rows.records(c, account, kept.lacking))  # noqa: B023
        records = [sealed for sealed in found if sealed is not None]
        if not records:
            break  # nobody has them
        before = kept.lacking
        kept = await give(desk, witness.node, without_head(facts, account, records))
        if kept.lacking == before:
            break
    return kept.since <= 1 and not kept.lacking


async def _behind(desk: Desk, account: AccountRow, node: NodeId) -> bool:
    """A witness keeps a newer head: one that is pending here, or one that this catalogue never knew."""
    async with desk.witnessing.turn(account.id):
        row, waiting = await desk.catalogue.read(
            lambda c: ((found := account_row(c, account.id)), head_rows.pending_head(c, found))
        )
        if row.head_seq == account.head_seq and waiting is None:
            await catch_up(desk, account.id, [node])
    return False  # looked at again with what is known now


async def _give_head(desk: Desk, account: AccountRow, node: NodeId, seq: int) -> HeadKept:
    found = await desk.catalogue.read(lambda c: head_rows.kept_head(c, account, seq))
    if found is None:
        raise HeadMoved(f"head {seq} of account {account.id.short} is not here", seq=account.head_seq)
    signed, snapshot_list = found
    return await give(
        desk,
        node,
        KeepHead(
            facts=facts_of(desk, account),
            head=signed,
            device_list=account.device_list,
            snapshot_list=snapshot_list,
            records=[],
        ),
    )
