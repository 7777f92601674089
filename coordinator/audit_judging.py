"""What the answers to a challenge say about who gave them. Pure.

The rule, in the order it is applied:

1. No answer, or none that the node signed, says nothing: whether a node is up is told by its heartbeats.
   Nobody is blamed for what came under another's name.
2. "Absent" and "damaged" are honest: the shard is missing and is brought back. No number of them is a lie.
3. A shard is *shown* by bytes at places drawn anew for each challenge. A column of bytes that is no codeword
   names who has to show the whole shard next (protocol/erasure/locating.py); so does a record that is not the
   one the catalogue's stripe digest names, and an answer that is none. Nobody is blamed for that.
4. A whole shard is *false* when its digest is not the one that its slot has in the record that the catalogue
   names. Any one holder's copy of that record will do, since its digest proves it. That digest is what the
   node itself signed, in its receipt or after a rebuild; so a client that gave its nodes records that differ
   makes no liar of any of them. Where no holder has that record, nothing is decided.
5. A node lies when it shows a whole shard that is false, is asked again at once with a new nonce, and again
   shows one that is false. So one byte that tipped over in its memory is no lie: a node reads each shard from
   its disk and verifies it for every answer, and what is damaged there is honestly "damaged" (rule 2). Who
   gives no second answer is doubted, and has been asked twice when the next whole shard it shows is false.

How likely it is to meet a node that has lost a part f of its shards: 1 - (1 - f)^c after c stripes of its
own; one that has lost a part of each shard, likewise with the columns (Ateniese et al., "Provable Data
Possession at Untrusted Stores", CCS 2007, section 5.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from holdfast.protocol.erasure.locating import locate_errors
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import AccountId, ChunkId, Digest, UploadId
from holdfast.protocol.messages.audit import AuditResult
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of

__all__ = [
    "Challenged",
    "Glance",
    "Judged",
    "confirmed",
    "draw_columns",
    "glance",
    "judge_whole",
    "may_distrust",
]

Judged = Literal["true", "false", "gone", "undecided"]
"""What showing a whole shard proves."""


@dataclass(frozen=True, slots=True)
class Challenged:
    """A stripe as the catalogue knows it; nothing of it changes while its row stands."""

    account: AccountId
    chunk: ChunkId
    generation: UploadId
    group: int
    profile: Profile
    sealed_bytes: int
    stripe: Digest

    @property
    def shard_bytes(self) -> int:
        """Length of each of its shards."""
        return self.profile.shard_bytes(self.sealed_bytes)


@dataclass(frozen=True, slots=True)
class Glance:
    """What sampled columns say.

    Attributes:
        gone: slots whose nodes said that they do not have the shard, or have it damaged.
        right: slots shown as they should be.
        suspects: slots that have to show their whole shard.
        record: the one that the catalogue names, as some holder has it; None when nobody does.
    """

    gone: frozenset[int]
    right: frozenset[int]
    suspects: frozenset[int]
    record: StripeHeader | None


def draw_columns(noise: bytes, shard_bytes: int) -> list[int]:
    """Places in a shard, four random bytes each; the bias of the remainder is below 2^-10."""
    drawn = (int.from_bytes(noise[at : at + 4], "big") for at in range(0, len(noise), 4))
    return [number % shard_bytes for number in drawn]


def _record_of(stripe: Challenged, result: AuditResult) -> StripeHeader | None:
    """The record shown, if it is the one that the catalogue names."""
    try:
        record = ShardRecord.unpack_header(result.record)
    except HoldfastError:
        return None
    return record.stripe if record.stripe.stripe_digest == stripe.stripe else None


def glance(stripe: Challenged, columns: int, results: Mapping[int, AuditResult]) -> Glance:
    """Look over one stripe's answers (by slot, none of the silent) to a challenge of so many columns."""
    gone = frozenset(slot for slot, result in results.items() if result.status != "ok")
    shown = {slot: result for slot, result in results.items() if result.status == "ok"}
    records = {slot: _record_of(stripe, result) for slot, result in shown.items()}
    fitting = {slot: result.columns for slot, result in shown.items() if len(result.columns) == columns}
    located = locate_errors(stripe.profile, fitting) if len(fitting) > stripe.profile.k else None
    suspects = set(fitting) if located is None else set(located)
    suspects |= {slot for slot in shown if slot not in fitting or records[slot] is None}
    return Glance(
        gone,
        frozenset(shown.keys() - suspects),
        frozenset(suspects),
        next((record for record in records.values() if record is not None), None),
    )


def judge_whole(record: StripeHeader | None, slot: int, result: AuditResult) -> Judged:
    """What showing a whole shard proves (rules 2 and 4)."""
    if result.status != "ok":
        return "gone"
    if record is None:
        return "undecided"
    return "true" if digest_of(result.shard) == record.digest(slot) else "false"


def may_distrust(distrusted: int, nodes: int, parity: int) -> bool:
    """May one more node lose its trust without an operator?

    Each one that does has all its shards rebuilt. When more than max(m, a tenth of the nodes) seem to lie,
    the cluster has another trouble, and rebuilding from what is left would make it worse.
    """
    return distrusted + 1 <= max(parity, nodes // 10)


def confirmed(judged: Sequence[Judged]) -> bool:
    """Was every whole shard that was shown, twice at least, a false one (rule 5)?"""
    return len(judged) >= 2 and all(told == "false" for told in judged)
