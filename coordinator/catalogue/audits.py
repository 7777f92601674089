"""Stripes drawn at random for a challenge, and the false answers that were given."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from holdfast.coordinator.catalogue.moves import ShardRow, shard_rows
from holdfast.coordinator.catalogue.nodes import raise_epoch
from holdfast.coordinator.catalogue.schema import accounts, chunks, false_answers, nodes
from holdfast.coordinator.limits import FALSE_ANSWERS_KEPT_MAX
from holdfast.protocol.ids import AccountId, ChunkId, NodeId, UploadId
from holdfast.protocol.messages.audit import FalseAnswer

__all__ = ["DRAW_BYTES", "draw_stripes", "false_answers_known", "note_lie"]

DRAW_BYTES = 16
"""Randomness that one draw takes."""


def draw_stripes(connection: Connection, draws: Sequence[bytes]) -> list[ShardRow]:
    """One stripe for each draw of DRAW_BYTES random bytes; those drawn twice come once.

    An account is drawn by the bytes it stores, then the chunk that follows a random id: chunk ids are
    hashes, so the gaps between them are all alike. What is being erased for good is left out.
    """
    query = select(accounts.c.number, accounts.c.used_bytes).where(accounts.c.used_bytes > 0)
    weights = [
        (int(row.number), int(row.used_bytes))
        for row in connection.execute(query.order_by(accounts.c.number))
    ]
    total = sum(size for _, size in weights)
    found: dict[tuple[int, bytes], ShardRow] = {}
    for draw in draws:
        at = int.from_bytes(draw[:8], "big") * total >> 64
        for number, size in weights:
            at -= size
            if at < 0:
                row = _after(connection, number, draw[8:]) or _after(connection, number, b"")
                if row is not None:
                    found[row.cursor] = row
                break
    return list(found.values())


def _after(connection: Connection, account: int, start: bytes) -> ShardRow | None:
    """The account's first chunk from an id on."""
    query = (
        select(chunks, accounts.c.id.label("account_id"))
        .join(accounts, accounts.c.number == chunks.c.account)
        .where(chunks.c.account == account, chunks.c.id >= start, chunks.c.state != "erasing")
        .order_by(chunks.c.id)
        .limit(1)
    )
    rows = shard_rows(connection, query, 0, 0)
    return rows[0] if rows else None


def note_lie(connection: Connection, lie: FalseAnswer, *, distrust: bool) -> None:
    """Keep a false answer (its number is given here); ``distrust``: and trust the node no longer."""
    connection.execute(
        insert(false_answers).values(
            node=bytes(lie.node),
            at_ms=lie.at_ms,
            group_id=lie.group,
            slot=lie.slot,
            account=bytes(lie.account),
            chunk=bytes(lie.chunk),
            generation=bytes(lie.generation),
        )
    )
    newest = select(false_answers.c.number).order_by(false_answers.c.number.desc())
    if (oldest := connection.execute(newest.offset(FALSE_ANSWERS_KEPT_MAX).limit(1)).scalar()) is not None:
        connection.execute(delete(false_answers).where(false_answers.c.number <= oldest))
    if distrust:
        connection.execute(nodes.update().where(nodes.c.id == bytes(lie.node)).values(state="distrusted"))
        raise_epoch(connection)


def false_answers_known(connection: Connection, most: int) -> list[FalseAnswer]:
    """The newest first."""
    query = select(false_answers).order_by(false_answers.c.number.desc()).limit(most)
    return [
        FalseAnswer(
            row.number,
            NodeId(row.node),
            row.at_ms,
            row.group_id,
            row.slot,
            AccountId(row.account),
            ChunkId(row.chunk),
            UploadId(row.generation),
        )
        for row in connection.execute(query)
    ]
