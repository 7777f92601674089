"""Heads on their way to their witnesses: given out, counted, and only then acknowledged.

A head is taken as pending in one transaction (catalogue.heads.begin_head), given to its own witnesses
and to those of the head before it, and becomes the account's newest in a second transaction once a
majority of both keeps it (protocol.witnessing). Whoever dies between leaves it pending: it is given
out again after the start, and when somebody posts. A witness's word counts when it keeps the newest cluster
map, too, by which the head's chunks are found without this coordinator. What can no more be agreed,
because a majority keeps another head, is dropped, and what the witnesses have is taken over
(coordinator.catching_up).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import structlog
from blake3 import blake3

from holdfast.coordinator.catalogue import heads as head_rows
from holdfast.coordinator.catalogue.accounts import AccountRow, account_row
from holdfast.coordinator.catalogue.engine import Command
from holdfast.coordinator.catalogue.heads import Pending
from holdfast.coordinator.catalogue.uploads import end_upload
from holdfast.coordinator.catching_up import catch_up
from holdfast.coordinator.limits import RECORDS_WITH_A_HEAD_BYTES, WITNESS_CALL_TIMEOUT_S
from holdfast.coordinator.reigning import newest_map, require_reign, tell_node
from holdfast.protocol.accounts import Head, Witness, signed_digest
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import (
    BadRequest,
    Conflict,
    ForkDetected,
    HeadMoved,
    HoldfastError,
    NoQuorum,
    OutcomeUnknown,
    Rollback,
)
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import AccountId, NodeId, SnapshotId, UploadId
from holdfast.protocol.messages.heads import HeadState, PostHead
from holdfast.protocol.messages.witness import AccountFacts, HeadKept, KeepHead
from holdfast.protocol.signing import Signed, sign
from holdfast.protocol.witnessing import (
    Willing,
    choose_witnesses,
    is_agreed,
    majority,
    open_statement,
    witness_count,
)

if TYPE_CHECKING:
    from holdfast.coordinator.quorum import DurableStripe
    from holdfast.coordinator.service.desk import Desk

__all__ = ["Given", "Witnessing", "facts_of", "give", "given_up", "post_head", "proposed", "settle"]

_log = structlog.get_logger()


@dataclass(slots=True)
class Witnessing:
    """What is known of witnesses without asking anybody. All of it can be found out again.

    Attributes:
        turns: one head of an account at a time.
        dirty: accounts whose witnesses may lack something; last: the last one that had its turn.
        forked: (account, node): a witness that keeps a head which was never agreed, and can follow no more.
        tasks: given out, and not waited for any more.
        look_s: when every account is looked at next.
    """

    turns: WeakValueDictionary[AccountId, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    dirty: set[AccountId] = field(default_factory=set)
    last: bytes = b""
    forked: set[tuple[AccountId, NodeId]] = field(default_factory=set)
    tasks: set[asyncio.Task[object]] = field(default_factory=set)
    look_s: float = float("-inf")

    def following(self, most: int) -> list[AccountId]:
        """The next accounts whose witnesses are seen to, all of them in turn.

        Else those that cannot be completed now, since a witness of theirs is away, would keep others waiting.
        """
        later = sorted(account for account in self.dirty if bytes(account) > self.last)
        chosen = [*later, *sorted(self.dirty.difference(later))][:most]
        self.last = bytes(chosen[-1]) if chosen else b""
        return chosen

    def turn(self, account: AccountId) -> asyncio.Lock:
        """Held while a head of this account is taken, given out and settled."""
        return self.turns.setdefault(account, asyncio.Lock())


@dataclass(frozen=True, slots=True)
class Given:
    """How giving a head out went.

    Attributes:
        statements: of those that keep it, verified. refused: keep another one for good.
    """

    statements: dict[NodeId, Signed]
    refused: frozenset[NodeId]


def given_up(desk: Desk, witnesses: Collection[Witness]) -> frozenset[NodeId]:
    """Those that do not count as witnesses any more: lost for good, known to lie, or let go.

    See protocol.witnessing. Nodes that were removed are not among the living any more.
    """
    return frozenset(each.node for each in witnesses) - _standing(desk)


def _standing(desk: Desk) -> frozenset[NodeId]:
    """All that are not."""
    gone = ("lost", "distrusted", "removed")
    return frozenset(node for node, row in desk.live.nodes.items() if row.state not in gone)


def proposed(desk: Desk, account: AccountId, before: Collection[Witness]) -> list[Witness]:
    """Who shall witness the account's next head."""
    live, usual = desk.live, desk.live.usual_profile()
    nodes = [
        Willing(node, row.key, row.zone, live.state(node) == "up")
        for node, row in live.nodes.items()
        if row.state == "joined" and (account, node) not in desk.witnessing.forked
    ]
    count = witness_count(usual.m if usual is not None else 1)
    return choose_witnesses(account, nodes, {each.node for each in before}, count)


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
    standing = _standing(desk)
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

    Raises:
        OutcomeUnknown: it is not agreed yet. HeadMoved: it never will be, and was dropped; what its
            witnesses keep instead is taken over by now.
    """
    given = await _give_out(desk, account, waiting, records)
    own = [each.node for each in waiting.witnesses]
    before = [each.node for each in waiting.before]
    gone = given_up(desk, waiting.before)
    left = [node for node in own if node not in given_up(desk, waiting.witnesses)]
    if len(left) >= majority(len(own)):
        left = own  # all of them count, and those given up are missed
    if is_agreed(left, before, given.statements, gone):
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
        why=f"witnesses {', '.join(silent)} have not confirmed it",
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
    given = await _give_out(desk, account, again)
    return HeadState(
        head=state.head,
        snapshot_list=state.snapshot_list,
        links=state.links,
        statements=list(given.statements.values()),
    )


async def _give_out(
    desk: Desk, account: AccountRow, waiting: Pending, records: Sequence[bytes] = ()
) -> Given:
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
    while running and not is_agreed(own, before, statements, gone):
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    for task in running:
        desk.witnessing.tasks.add(task)
        task.add_done_callback(desk.witnessing.tasks.discard)
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
