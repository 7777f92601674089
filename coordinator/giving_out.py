"""Giving heads, and what belongs to them, to their witnesses; and counting those that keep them.

The word of a witness counts when it keeps the newest cluster map, too: by it the head's chunks are found
without this coordinator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from blake3 import blake3

from holdfast.coordinator.catalogue import heads as head_rows
from holdfast.coordinator.catalogue.accounts import AccountRow
from holdfast.coordinator.catalogue.heads import Pending
from holdfast.coordinator.limits import RECORDS_WITH_A_HEAD_BYTES, WITNESS_CALL_TIMEOUT_S
from holdfast.coordinator.reigning import newest_map, require_reign, tell_node
from holdfast.coordinator.witnesses import given_up
from holdfast.protocol.accounts import Witness
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import (
    BadRequest,
    ForkDetected,
    HoldfastError,
    Rollback,
)
from holdfast.protocol.ids import NodeId, SnapshotId
from holdfast.protocol.messages.witness import AccountFacts, HeadKept, KeepHead
from holdfast.protocol.signing import Signed, sign
from holdfast.protocol.witnessing import (
    is_agreed,
    open_statement,
)

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = ["Given", "facts_of", "give", "give_out", "without_head"]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Given:
    """How giving a head out went.

    Attributes:
        statements: of those that keep it, verified. refused: keep another one for good.
    """

    statements: dict[NodeId, Signed]
    refused: frozenset[NodeId]


def facts_of(desk: Desk, account: AccountRow) -> Signed:
    """What a rebuilt coordinator has to know of an account, signed."""
    identity = desk.identity
    payload = encode(
        AccountFacts(
            1,
            identity.term,
            account.id,
            account.device_list,
            account.quota_bytes,
            account.sweep_generation,
        )
    )
    return Signed(payload, sign(identity.key, "account", identity.cluster, payload))


async def give_out(desk: Desk, account: AccountRow, waiting: Pending, records: Sequence[bytes] = ()) -> Given:
    """Ask all witnesses at once, until enough have answered; the others go on without being waited for."""
    messages = [encode(message) for message in await _messages(desk, account, waiting, records)]
    own, before = [each.node for each in waiting.witnesses], [each.node for each in waiting.before]
    asked = {each.node: each for each in (*waiting.before, *waiting.witnesses)}
    gone = given_up(desk, waiting.before)
    statements: dict[NodeId, Signed] = {}
    refused: set[NodeId] = set()

    async def one(witness: Witness) -> None:
        try:
            async with asyncio.timeout(WITNESS_CALL_TIMEOUT_S):
                for message in messages:
                    kept = await _given(desk, witness.node, message)
                if kept.map != newest_map(desk):
                    await tell_node(desk, witness.node)
                    require_reign(desk)
            told = open_statement(kept.statement, desk.identity.cluster, witness)
            if (told.account, told.asked_seq, told.asked_head) != (account.id, waiting.seq, waiting.digest):
                raise BadRequest("a witness's statement is about another head")
            statements[witness.node] = kept.statement
            if kept.since > 1 or kept.lacking:
                desk.witnessing.dirty.add(account.id)
        except (ForkDetected, Rollback):
            refused.add(witness.node)
            desk.witnessing.dirty.add(account.id)
        except (HoldfastError, TimeoutError) as error:
            desk.witnessing.dirty.add(account.id)
            _log.info("a witness did not keep a head", node=witness.node.short, why=str(error))

    running = {asyncio.create_task(one(witness)) for witness in asked.values()}
    try:
        while running and not is_agreed(own, before, statements, gone):
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        # Who gives up waiting leaves them to go on, and the coordinator's end finds them here.
        for task in running:
            desk.witnessing.leave(task)
    return Given(dict(statements), frozenset(refused))


async def _messages(
    desk: Desk, account: AccountRow, waiting: Pending, records: Sequence[bytes]
) -> list[KeepHead]:
    """The new records, as many in each as fit; the last brings the head."""
    at_hand = {SnapshotId(blake3(sealed).digest()): sealed for sealed in records}
    stored = [at_hand[snapshot] for snapshot in waiting.records if snapshot in at_hand]
    if len(stored) < len(waiting.records):
        stored.clear()
    while len(stored) < len(waiting.records):
        rest = waiting.records[len(stored) :]
        found = await desk.catalogue.read(lambda c: head_rows.records(c, account, rest))  # noqa: B023
        stored.extend(sealed or b"" for sealed in found)
    facts = facts_of(desk, account)
    made: list[KeepHead] = []
    portion: list[bytes] = []
    for sealed in stored:
        if portion and sum(map(len, portion)) + len(sealed) > RECORDS_WITH_A_HEAD_BYTES:
            made.append(without_head(facts, account, portion))
            portion = []
        portion.append(sealed)
    return [
        *made,
        KeepHead(
            facts=facts,
            head=waiting.signed,
            device_list=waiting.device_list,
            snapshot_list=waiting.snapshot_list,
            records=portion,
        ),
    ]


def without_head(facts: Signed, account: AccountRow, records: list[bytes]) -> KeepHead:
    """Facts and records alone."""
    return KeepHead(
        facts=facts, head=None, device_list=account.device_list, snapshot_list=b"", records=records
    )


async def give(desk: Desk, node: NodeId, message: KeepHead) -> HeadKept:
    """Have one node keep something.

    Raises:
        HoldfastError: it does not, or does not answer.
    """
    return await _given(desk, node, encode(message))


async def _given(desk: Desk, node: NodeId, message: bytes) -> HeadKept:
    """The same of a message that is encoded already: it goes to several nodes."""
    row = desk.live.nodes.get(node)
    if row is None:
        raise BadRequest(f"node {node.short} is in the cluster no more")
    return await desk.calls.ask_encoded(
        row, "POST", "/v1/witness/keep", message, HeadKept, timeout_s=WITNESS_CALL_TIMEOUT_S
    )
