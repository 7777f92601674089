"""Auditing: stripes drawn at random, their holders challenged, and what follows from the answers.

What proves what is said in :mod:`holdfast.coordinator.audit_judging`. A shard that is gone or false becomes a
missing row and is brought back like any other; a node that lied twice about one is distrusted: it is given no
slots, its receipts and its shards count for nothing, and its slots go to other nodes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from holdfast.coordinator.audit_judging import (
    Challenged,
    Judged,
    confirmed,
    draw_columns,
    glance,
    judge_whole,
    may_distrust,
)
from holdfast.coordinator.catalogue.audits import DRAW_BYTES, draw_stripes, note_lie
from holdfast.coordinator.catalogue.missing import note_gone
from holdfast.coordinator.catalogue.moves import ShardRow
from holdfast.coordinator.limits import AUDIT_CALL_TIMEOUT_S, AUDIT_COLUMNS, AUDIT_TURN_STRIPES
from holdfast.coordinator.placement import Group
from holdfast.coordinator.service.desk import Desk
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.ids import NodeId
from holdfast.protocol.limits import AUDIT_ENTRIES_MAX, NONCE_BYTES
from holdfast.protocol.messages.audit import (
    Audit,
    AuditAnswer,
    Audited,
    AuditEntry,
    AuditResult,
    FalseAnswer,
)
from holdfast.protocol.signing import verify
from holdfast.protocol.stripes import StripeHeader

__all__ = ["AuditOutcome", "audit", "keep_auditing"]

_log = structlog.get_logger()


@dataclass(slots=True)
class AuditOutcome:
    """What one audit found; see protocol.messages.audit.Audits."""

    stripes: int = 0
    shards: int = 0
    right: int = 0
    gone: int = 0
    silent: set[NodeId] = field(default_factory=set)
    undecided: int = 0
    lying: list[FalseAnswer] = field(default_factory=list)
    distrusted: list[NodeId] = field(default_factory=list)
    held_back: list[NodeId] = field(default_factory=list)


@dataclass(slots=True)
class _Case:
    """One stripe under challenge: its row, its group as it was when asked, and the answers by slot."""

    row: ShardRow
    stripe: Challenged
    group: Group
    columns: list[int]
    asked: dict[int, NodeId]
    results: dict[int, AuditResult] = field(default_factory=dict)

    def entry(self, slot: int, *, whole: bool = False) -> AuditEntry:
        told = self.stripe
        columns = [] if whole else self.columns
        return AuditEntry(told.group, slot, told.account, told.chunk, told.generation, columns, whole)


async def keep_auditing(desk: Desk) -> float | None:
    """One turn: a few stripes; gives when the next one comes, so that the set number come in an hour."""
    per_hour = desk.audits_per_hour
    if not per_hour:
        return None
    await audit(desk, AUDIT_TURN_STRIPES)
    return 3600.0 * AUDIT_TURN_STRIPES / per_hour


async def audit(desk: Desk, stripes: int) -> AuditOutcome:
    """Challenge the holders of so many stripes, drawn at random; takes the consequences."""
    draws = [desk.source.random_bytes(DRAW_BYTES) for _ in range(stripes)]
    rows = await desk.catalogue.read(lambda c: draw_stripes(c, draws))
    outcome = AuditOutcome(stripes=len(rows))
    cases = [case for row in rows if (case := _case(desk, row)) is not None]
    await _challenge(desk, cases, outcome)
    for case in cases:
        await _judge(desk, case, outcome)
    return outcome


def _case(desk: Desk, row: ShardRow) -> _Case | None:
    """Whom to ask: holders that should have it, are up and are trusted."""
    live = desk.live
    group = live.groups.get(row.group)
    if group is None:
        return None
    stripe = Challenged(
        row.account, row.chunk, row.generation, row.group, group.profile, row.sealed_bytes, row.stripe
    )
    columns = draw_columns(desk.source.random_bytes(4 * AUDIT_COLUMNS), stripe.shard_bytes)
    asked = {
        slot: node
        for slot, node in enumerate(group.members)
        if slot not in row.missing and (group.id, slot) not in live.moves and live.counts(node)
    }
    return _Case(row, stripe, group, columns, asked)


async def _challenge(desk: Desk, cases: Sequence[_Case], outcome: AuditOutcome) -> None:
    """Ask every node for its columns of all stripes, all nodes beside each other."""
    wanted: dict[NodeId, list[tuple[_Case, int]]] = defaultdict(list)
    for case in cases:
        for slot, node in case.asked.items():
            wanted[node].append((case, slot))
            outcome.shards += 1

    async def one(node: NodeId, places: Sequence[tuple[_Case, int]]) -> None:
        for start in range(0, len(places), AUDIT_ENTRIES_MAX):
            portion = places[start : start + AUDIT_ENTRIES_MAX]
            results = await _ask(desk, node, [case.entry(slot) for case, slot in portion])
            if results is None:
                outcome.silent.add(node)
                return
            for (case, slot), result in zip(portion, results, strict=True):
                case.results[slot] = result

    await asyncio.gather(*(one(node, places) for node, places in wanted.items()))


async def _ask(desk: Desk, node: NodeId, entries: Sequence[AuditEntry]) -> list[AuditResult] | None:
    """A node's signed answer; None when there is none."""
    row = desk.live.nodes.get(node)
    if row is None:
        return None
    nonce = desk.source.random_bytes(NONCE_BYTES)
    message = Audit(nonce=nonce, entries=list(entries))
    try:
        answer = await desk.calls.ask(
            row, "POST", "/v1/audit", message, AuditAnswer, timeout_s=AUDIT_CALL_TIMEOUT_S
        )
        signed = answer.audited
        verify(row.key, signed.signature, "audited", desk.identity.cluster, signed.payload)
        told = decode(signed.payload, Audited)
        if (told.node, told.nonce, len(told.results)) != (node, nonce, len(entries)):
            raise BadRequest(f"node {node.short} answers another challenge than it was given")
    except HoldfastError as error:
        _log.info("a node does not answer a challenge", node=node.short, why=error.what)
        return None
    return told.results


async def _judge(desk: Desk, case: _Case, outcome: AuditOutcome) -> None:
    """What one stripe's answers say, and what follows."""
    seen = glance(case.stripe, len(case.columns), case.results)
    gone, right = set(seen.gone), set(seen.right)
    lying: set[int] = set()
    if seen.suspects:
        await _show_whole(desk, case, seen.record, seen.suspects, (gone, right, lying), outcome)
        if not lying and not seen.suspects & gone:
            # Those that the columns pointed at are honest: liars who agree can point at anybody.
            await _show_whole(desk, case, seen.record, seen.right, (gone, right, lying), outcome)
    outcome.right += len(right)
    if not gone and not lying:
        return
    # A slot that has changed hands meanwhile was asked of the wrong node: nothing follows from that.
    now = desk.live.groups.get(case.group.id)
    if now is None or now.version != case.group.version:
        return
    outcome.gone += len(gone)
    shards = [case.row.gone(slot) for slot in sorted(gone | lying)]
    await desk.catalogue.write(lambda c: note_gone(c, shards, "audit"))
    for slot in sorted(lying):
        await _blame(desk, case, slot, outcome)


async def _show_whole(
    desk: Desk,
    case: _Case,
    record: StripeHeader | None,
    slots: frozenset[int],
    found: tuple[set[int], set[int], set[int]],
    outcome: AuditOutcome,
) -> None:
    """Have slots show their whole shard, one after the other, and sort them into (gone, right, lying)."""
    gone, right, lying = found
    undecided = False
    for slot in sorted(slots):
        right.discard(slot)
        judged = [await _whole(desk, case, record, slot)]
        if judged[0] == "false":
            judged.append(await _whole(desk, case, record, slot))
        answers = [told for told in judged if told is not None]
        if not answers:
            outcome.silent.add(case.asked[slot])
        elif confirmed(answers) or (answers == ["false"] and case.asked[slot] in desk.doubted):
            lying.add(slot)
        elif answers == ["false"]:
            # It gave no second answer. Whoever does that again has been asked twice.
            desk.doubted.add(case.asked[slot])
            gone.add(slot)
        elif answers[-1] == "gone":
            gone.add(slot)
        elif answers[-1] == "true":
            right.add(slot)
        elif answers[-1] == "undecided":
            undecided = True
    if undecided:
        outcome.undecided += 1
        _log.error(
            "no holder has the record that the catalogue names of a stripe",
            chunk=case.stripe.chunk.short,
            group=case.group.id,
        )


async def _whole(desk: Desk, case: _Case, record: StripeHeader | None, slot: int) -> Judged | None:
    """What showing its whole shard proves of a slot's holder; None when it does not answer."""
    results = await _ask(desk, case.asked[slot], [case.entry(slot, whole=True)])
    return None if results is None else judge_whole(record, slot, results[0])


async def _blame(desk: Desk, case: _Case, slot: int, outcome: AuditOutcome) -> None:
    """A node lied: keep that, and trust it no longer, unless too many seem to lie."""
    live, node, told = desk.live, case.asked[slot], case.stripe
    usual = live.usual_profile()
    distrusted = {other for other, row in live.nodes.items() if row.state == "distrusted"}
    is_new = node not in distrusted
    may = is_new and may_distrust(len(distrusted), len(live.nodes), usual.m if usual is not None else 1)
    lie = FalseAnswer(
        0, node, desk.source.now_ms(), told.group, slot, told.account, told.chunk, told.generation
    )
    await desk.catalogue.write(lambda c: note_lie(c, lie, distrust=may))
    outcome.lying.append(lie)
    if may:
        await live.refresh(desk.catalogue)
        outcome.distrusted.append(node)
        _log.error("a node lies; it is not trusted any more", node=node.short, chunk=told.chunk.short)
    elif is_new:
        if node not in outcome.held_back:
            outcome.held_back.append(node)
        _log.error("a node lies, and too many are distrusted already: decide about it", node=node.short)
