"""Safeguards whose absence a whole broken cluster must show: each with the chaos scenario that does.

Some safeguards stand one behind the other; where a second one would hide that the first is gone, both are
taken away together. docs/reliability.md shows this list as a table; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from support.sabotage.taking_away import Edit

__all__ = ["EXPOSED", "SEEDS_MAX", "Exposed"]

SEEDS_MAX: Final = 4
"""How many seeds are tried, one after the other, until the run is a violation."""

_NODE: Final = ("node",)
_COORDINATOR: Final = ("coordinator",)
_CLIENT: Final = ("holdfast.cluster.chaos.client_process",)
_MEMBERS: Final = (*_NODE, *_COORDINATOR, *_CLIENT)
"""Everybody but the harness, which must judge by the rules as they are."""


@dataclass(frozen=True, slots=True)
class Exposed:
    """One safeguard, or several that stand one behind the other.

    Attributes:
        name: what is taken away, in a few words.
        only: words of the command lines of the processes that go without it.
        scenario: whose run must end with a violation; ``seed``: the first one to try.
        letters: invariants (chaos.judging) of which at least one must be broken.
        is_quick: tried by every run of the tests; the others by "make chaos-soak".
    """

    name: str
    edits: tuple[Edit, ...]
    only: tuple[str, ...]
    scenario: str
    seed: int
    letters: str
    is_quick: bool = True


EXPOSED: Final = (
    Exposed(
        "a node gives receipts for what it has not stored",
        (
            Edit(
                "holdfast.node.writer",
                "            outcomes = self.store.put([batch.puts for batch in group])\n",
                "            outcomes = self.store.put([batch.puts[1:] for batch in group])\n",
            ),
        ),
        _NODE,
        "first-kill",
        3,
        "ad",
    ),
    Exposed(
        "a client decodes whatever shard a lying node hands out",
        (
            Edit(
                "holdfast.protocol.stripe_reading",
                "digest_of(shard) != stripe.digest(slot)",
                "False",
            ),
            Edit(
                "holdfast.protocol.stripe_reading",
                "        if digest_of(reading.shards[slot]) != reading.header.digest(slot):\n",
                "        if False:\n",
            ),
        ),
        _CLIENT,
        "liar-node",
        3,
        "a",
    ),
    Exposed(
        "fewer shards than the write quorum are enough",
        (
            Edit(
                "holdfast.protocol.profiles",
                "        return self.k + (self.m + 1) // 2\n",
                "        return self.k\n",
            ),
        ),
        _MEMBERS,
        "exactly-m",
        1,
        "d",
    ),
    Exposed(
        "a head is taken whatever it was built upon",
        (
            Edit(
                "holdfast.coordinator.catalogue.heads",
                "    if (head.seq, head.previous) != expected:\n",
                "    if False:\n",
            ),
            Edit(
                "holdfast.protocol.witnessing",
                "newest is not None and head.seq == newest[0] + 1 and head.previous != newest[1]",
                "False",
            ),
        ),
        (*_NODE, *_COORDINATOR),
        "liar-client",
        1,
        "c",
    ),
    Exposed(
        "chunks are sent as they are",
        (
            Edit(
                "holdfast.client.sealing",
                "    AESGCM(key).encrypt_into(_NONCE, p, lead, memoryview(sealed)[_OVERHEAD:])\n",
                "    sealed[_OVERHEAD:-_TAG] = p\n",
            ),
            Edit(
                "holdfast.client.sealing",
                "        AESGCM(key).decrypt_into(_NONCE, view[_OVERHEAD:], view[:_OVERHEAD], p)\n",
                "        p[:] = view[_OVERHEAD:-_TAG]\n",
            ),
        ),
        _CLIENT,
        "first-kill",
        1,
        "k",
    ),
    Exposed(
        "a node judges what the coordinator signed by its own clock",
        (
            Edit(
                "holdfast.node.service.door",
                "        return self._source.now_ms() + self._ahead_ms\n",
                "        return self._source.now_ms()\n",
            ),
        ),
        _NODE,
        "clock-drift",
        1,
        "a",
    ),
    Exposed(
        "a node acknowledges before its disk has it",
        (
            Edit(
                "holdfast.node.store_lmdb_opening",
                "            sync=is_synced,\n",
                "            sync=False,\n",
            ),
        ),
        _NODE,
        "power-cut",
        1,
        "hadfl",
    ),
    Exposed(
        "the coordinator acknowledges before its disk has it",
        (Edit("holdfast.coordinator.catalogue.engine", "PRAGMA synchronous=FULL", "PRAGMA synchronous=OFF"),),
        _COORDINATOR,
        "power-cut",
        1,
        "hadcfjl",
        is_quick=False,
    ),
    Exposed(
        "a node stores shards without checking their digests",
        (
            Edit(
                "holdfast.node.admission",
                "    if digest_of(put.shard) != put.record.digest:\n",
                "    if False:\n",
            ),
        ),
        _NODE,
        "garbled-wire",
        1,
        "f",
    ),
    Exposed(
        "what is brought back need not prove itself",
        (
            Edit(
                "holdfast.protocol.stripe_reading",
                "digest_of(shard) != stripe.digest(slot)",
                "False",
            ),
            Edit(
                "holdfast.protocol.stripe_reading",
                "    return sealed if blake3(sealed).digest() == reading.chunk else None\n",
                "    return sealed\n",
            ),
            Edit(
                "holdfast.node.rebuilding",
                "            if digest_of(shards[slot]) != reading.header.digest(slot):\n",
                "            if False:\n",
            ),
        ),
        _NODE,
        "lying-sources",
        1,
        "f",
    ),
    Exposed(
        "nobody minds that a coordinator's term is over",
        (
            Edit("holdfast.client.link", "        if charter.term < met:\n", "        if False:\n"),
            Edit(
                "holdfast.node.reigning",
                "        if offered.charter.term < self.term:\n",
                "        if False:\n",
            ),
            Edit("holdfast.node.admission", "        if term < self.term:\n", "        if False:\n"),
            Edit(
                "holdfast.node.store_lmdb_heads",
                "        if self._map_place >= (opened.term, opened.epoch):\n",
                "        if False:\n",
            ),
            Edit(
                "holdfast.node.membership",
                "        if charter.term < at_least_term:\n",
                "        if False:\n",
            ),
        ),
        _MEMBERS,
        "two-coordinators",
        1,
        "j",
    ),
    Exposed(
        "a sweep takes what it was told is alive",
        (Edit("holdfast.coordinator.catalogue.trash", "if row.mark is None and row.state", "if row.state"),),
        _COORDINATOR,
        "sweeping",
        1,
        "abf",
    ),
    Exposed(
        "a head from before the last sweep is taken",
        (
            Edit(
                "holdfast.coordinator.catalogue.heads",
                "    if upload.sweep_generation != account.sweep_generation:\n",
                "    if False:\n",
            ),
        ),
        _COORDINATOR,
        "liar-client",
        1,
        "c",
    ),
    Exposed(
        "a live set counts though the head has moved since",
        (
            Edit(
                "holdfast.coordinator.catalogue.sweeps",
                "    _require_head(connection, account, live.head_seq, live.head)\n",
                "",
            ),
        ),
        _COORDINATOR,
        "liar-client",
        1,
        "c",
    ),
    Exposed(
        "who lost the lease of a sweep seals it",
        (
            Edit(
                "holdfast.coordinator.catalogue.sweeps",
                '        .values(state="void")\n    )\n    stored',
                '        .values(state="marking")\n    )\n    stored',
            ),
        ),
        _COORDINATOR,
        "liar-client",
        1,
        "c",
    ),
    Exposed(
        "a node overwrites a shard with other bytes",
        (Edit("holdfast.node.store_verifying", "    if record != put.record:\n", "    if False:\n"),),
        _NODE,
        "liar-client",
        1,
        "c",
    ),
    Exposed(
        "a signed request may be made again",
        (Edit("holdfast.protocol.requests", "        if mark in self._nonces:\n", "        if False:\n"),),
        _NODE,
        "liar-client",
        1,
        "c",
    ),
    Exposed(
        "the coordinator counts no quorum",
        (
            Edit(
                "holdfast.coordinator.quorum",
                "        if len(durable) < group.profile.write_quorum:\n",
                "        if len(durable) < group.profile.k:\n",
            ),
        ),
        _COORDINATOR,
        "liar-client",
        1,
        "c",
    ),
    Exposed(
        "receipts of another upload count",
        (
            Edit(
                "holdfast.coordinator.quorum",
                "        if receipt.account != account or receipt.upload != upload:\n",
                "        if False:\n",
            ),
            Edit(
                "holdfast.coordinator.quorum",
                "            if entry.generation == upload:\n",
                "            if True:\n",
            ),
        ),
        _COORDINATOR,
        "liar-client",
        1,
        "c",
    ),
    Exposed(
        "a head is taken after its upload has ended",
        (
            Edit(
                "holdfast.coordinator.catalogue.uploads",
                'found.account != account.number or found.state != "open"',
                "found.account != account.number",
            ),
        ),
        _COORDINATOR,
        "liar-client",
        1,
        "c",
    ),
    Exposed(
        "an expired ticket is good",
        (Edit("holdfast.protocol.tickets", "    if now_ms >= ticket.expires_ms:\n", "    if False:\n"),),
        _NODE,
        "liar-client",
        1,
        "c",
    ),
    Exposed(
        "a node takes shards of slots that are not its own",
        (
            Edit(
                "holdfast.node.admission",
                "    if admitted.slot is None or header.slot != admitted.slot:\n",
                "    if admitted.slot is None:\n",
            ),
        ),
        _NODE,
        "liar-client",
        1,
        "c",
    ),
)
