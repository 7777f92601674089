"""What operators see of an audit, at 80 columns and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from holdfast.protocol.messages.audit import Audits, FalseAnswer
from holdfast.protocol.terminal import Output, human_count

__all__ = ["show_audits"]

_SHOWN = 10


def show_audits(output: Output, told: Sequence[Audits]) -> None:
    """One audit, asked for in several portions; ``told`` is never empty."""
    stripes, shards, right, gone, undecided = (
        sum(getattr(each, name) for each in told)
        for name in ("stripes", "shards", "right", "gone", "undecided")
    )
    silent = sorted({node for each in told for node in each.silent})
    distrusted = sorted({node for each in told for node in each.distrusted})
    held_back = sorted({node for each in told for node in each.held_back})
    if stripes:
        output.say(
            f"{human_count(stripes, 'chunk')} drawn, {human_count(shards, 'shard')} asked for, "
            f"{right:,} shown as they should be."
        )
    else:
        output.say("No chunk was drawn.")
    if gone:
        output.say(f"{human_count(gone, 'shard')} gone, as their nodes say; they are being brought back.")
    if undecided:
        output.say(
            f"Of {human_count(undecided, 'chunk')} no node has the record that the catalogue names: "
            "nobody can be blamed."
        )
    for node in silent:
        output.say(f"{node.short}  did not answer every challenge")
    for node in distrusted:
        output.say(f"{node.short}  LIES: it is not trusted any more, and its shards are rebuilt elsewhere")
    for node in held_back:
        output.say(f"{node.short}  LIES, and keeps its slots, as too many are distrusted already:")
        output.say(f"          'holdfast admin drain {node.short}' empties it")
    _show_known(output, told[-1].known)
    output.summary(
        stripes=stripes,
        shards=shards,
        right=right,
        gone=gone,
        undecided=undecided,
        silent=[node.hex() for node in silent],
        lying=[_shown(false) for each in told for false in each.lying],
        distrusted=[node.hex() for node in distrusted],
        held_back=[node.hex() for node in held_back],
        known=[_shown(false) for false in told[-1].known],
    )


def _show_known(output: Output, known: Sequence[FalseAnswer]) -> None:
    if not known:
        output.say("No false answer is known.")
        return
    output.say()
    output.say(f"{'node':<10}{'shown falsely at':<27}{'chunk':<10}{'group':>7}{'slot':>6}")
    for false in known[:_SHOWN]:
        output.say(
            f"{false.node.short:<10}{_time(false.at_ms):<27}{false.chunk.short:<10}"
            f"{false.group:>7}{false.slot:>6}"
        )
    if len(known) > _SHOWN:
        output.say(f"and {len(known) - _SHOWN:,} earlier ones")


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")


def _shown(false: FalseAnswer) -> dict[str, Any]:
    return {
        "node": false.node.hex(),
        "time": _time(false.at_ms),
        "group": false.group,
        "slot": false.slot,
        "account": false.account.hex(),
        "chunk": false.chunk.hex(),
        "generation": false.generation.hex(),
    }
