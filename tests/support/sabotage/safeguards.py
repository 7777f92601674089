"""Every safeguard that is taken away in turn, and the test that must notice.

``before`` is the passage as it stands in the source, ``after`` what it becomes. docs/reliability.md shows
this list as a table; a test holds the two together. What whole broken clusters notice is listed beside, in
support/sabotage/by_scenario.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["SAFEGUARDS", "Safeguard"]


@dataclass(frozen=True, slots=True)
class Safeguard:
    """One safeguard.

    Attributes:
        name: what is taken away, in a few words.
        caught_by: the test that must fail without it ("tests/...::test_...").
        seed: of that test's draws where it has one.
    """

    name: str
    module: str
    before: str
    after: str
    caught_by: str
    seed: int | None = None


SAFEGUARDS: Final = (
    Safeguard(
        "an old catalogue is taken for a good one",
        "holdfast.coordinator.catalogue.inventories",
        "    if told <= pulse(connection):\n",
        "    if True:\n",
        "tests/unit/coordinator/test_old_catalogue.py"
        "::test_it_is_known_as_old_at_the_first_heartbeat_and_takes_up_what_was_stored_since",
    ),
    Safeguard(
        "leftovers are erased while their group is not whole",
        "holdfast.coordinator.comparing",
        "    if is_named and not facts.is_whole:\n",
        "    if False:\n",
        "tests/unit/coordinator/test_reconciling.py"
        "::test_a_former_holder_keeps_everything_until_the_group_is_whole",
    ),
    Safeguard(
        "shards of an upload under way are taken for orphans",
        "holdfast.coordinator.comparing",
        '    if facts.upload == "open" or ',
        "    if ",
        "tests/unit/coordinator/test_reconciling.py"
        "::test_shards_of_an_upload_under_way_stay_and_those_it_gave_up_go",
    ),
    Safeguard(
        "what is written while a store is compacted is not copied again",
        "holdfast.node.store_lmdb_compacting",
        "            self._changed.update(dict.fromkeys(changed))\n",
        "            pass\n",
        "tests/contract/test_shard_store.py"
        "::test_a_compacted_store_says_the_same_whatever_was_done_meanwhile",
    ),
    Safeguard(
        "a node acknowledges before the disk has it",
        "holdfast.node.store_lmdb_opening",
        "            sync=is_synced,\n",
        "            sync=False,\n",
        "tests/unit/crash/test_power_cut.py::test_a_store_keeps_what_it_acknowledged",
        1,
    ),
    Safeguard(
        "the coordinator acknowledges before the disk has it",
        "holdfast.coordinator.catalogue.engine",
        "PRAGMA synchronous=FULL",
        "PRAGMA synchronous=OFF",
        "tests/unit/crash/test_power_cut.py::test_a_catalogue_keeps_what_it_acknowledged",
        1,
    ),
    Safeguard(
        "a new store is made in its place, not beside it",
        "holdfast.node.store_lmdb_opening",
        "    if not file.exists() or file.stat().st_size == 0:\n        _make(path, source)\n",
        "",
        "tests/unit/crash/test_power_cut.py::test_a_store_opens_after_a_power_cut_in_its_first_moments",
        1,
    ),
    Safeguard(
        "small files are renamed before they are synced",
        "holdfast.protocol.directory",
        "            view = view[os.write(fd, view) :]\n        os.fsync(fd)\n",
        "            view = view[os.write(fd, view) :]\n",
        "tests/unit/crash/test_first_start_power_cut.py"
        "::test_a_coordinator_starts_after_a_power_cut_in_its_first_start",
        1,
    ),
    Safeguard(
        "a node stores shards without checking their digests",
        "holdfast.node.admission",
        "    if digest_of(put.shard) != put.record.digest:\n",
        "    if False:\n",
        "tests/unit/node/test_service.py::test_a_batch_that_does_not_prove_itself_writes_nothing",
    ),
    Safeguard(
        "a node hands out shards without checking their digests",
        "holdfast.node.store_lmdb_reading",
        "            record.verify(copy)\n",
        "",
        "tests/unit/node/test_store_lmdb.py::test_flipped_bits_on_disk_are_never_handed_out",
    ),
    Safeguard(
        "a node takes a record for another key's",
        "holdfast.node.store_lmdb_reading",
        "            if ShardKey.of(record) != key:\n"
        '                raise IntegrityFailure("a record lies under another shard\'s key")\n'
        "            # Copied",
        "            # Copied",
        "tests/unit/node/test_flipped_bits.py::test_flipped_bits_never_give_wrong_bytes",
    ),
    Safeguard(
        "a node overwrites a shard with other bytes",
        "holdfast.node.store_verifying",
        "    if record != put.record:\n",
        "    if False:\n",
        "tests/contract/test_shard_store.py::test_other_bytes_under_the_same_key_are_a_conflict_and_change_nothing",
    ),
    Safeguard(
        "a node goes on writing after a failed commit",
        "holdfast.node.writer",
        "            if self.failed is None:\n"
        "                self._stop_or_reopen(failure)\n"
        "            return\n",
        "            return\n",
        "tests/unit/node/test_writer.py"
        "::test_a_failed_commit_acknowledges_nothing_then_the_store_proves_itself",
    ),
    Safeguard(
        "a reopened store need not prove what it acknowledged",
        "holdfast.node.writer",
        "        if lost:\n",
        "        if False:\n",
        "tests/unit/node/test_writer.py::test_a_store_that_lost_an_acknowledged_shard_stays_stopped",
    ),
    Safeguard(
        "a deletion order takes effect at once",
        "holdfast.node.service.shards",
        "due_ms = self._running_ms() + order.hold_s * 1000",
        "due_ms = 0",
        "tests/unit/node/test_service.py::TestDeletion::test_what_an_order_marks_stays_for_as_long_as_it_says",
    ),
    Safeguard(
        "an expired ticket is good",
        "holdfast.protocol.tickets",
        "    if now_ms >= ticket.expires_ms:\n",
        "    if False:\n",
        "tests/unit/node/test_service.py::test_a_ticket_that_does_not_fit_writes_nothing",
    ),
    Safeguard(
        "a ticket of an older term is good",
        "holdfast.protocol.tickets",
        "    if ticket.term < term:\n",
        "    if False:\n",
        "tests/unit/node/test_service.py::test_a_ticket_that_does_not_fit_writes_nothing",
    ),
    Safeguard(
        "a signed request may be made again",
        "holdfast.protocol.requests",
        "        if mark in self._nonces:\n",
        "        if False:\n",
        "tests/unit/node/test_service.py::test_a_request_that_is_not_signed_or_repeated_is_refused",
    ),
    Safeguard(
        "a commit counts without its write quorum",
        "holdfast.coordinator.quorum",
        "        if len(durable) < group.profile.write_quorum:\n",
        "        if len(durable) < group.profile.k:\n",
        "tests/unit/coordinator/test_quorum.py::test_one_short_of_the_quorum_is_nothing",
    ),
    Safeguard(
        "receipts of an older term count",
        "holdfast.coordinator.quorum",
        "        if receipt.term != term:\n",
        "        if False:\n",
        "tests/unit/coordinator/test_quorum.py"
        "::test_a_receipt_of_another_account_upload_or_term_is_refused_outright",
    ),
    Safeguard(
        "a commit to a group that has moved counts",
        "holdfast.coordinator.quorum",
        "        if chunk.group_version != group.version:\n",
        "        if False:\n",
        "tests/unit/coordinator/test_quorum.py::test_a_group_that_moved_or_never_was",
    ),
    Safeguard(
        "a head is taken whatever it was built upon",
        "holdfast.coordinator.catalogue.heads",
        "    if (head.seq, head.previous) != expected:\n",
        "    if False:\n",
        "tests/unit/coordinator/test_heads_kept.py::test_of_many_heads_posted_at_once_exactly_one_counts",
    ),
    Safeguard(
        "a head is taken after its upload has ended",
        "holdfast.coordinator.catalogue.uploads",
        'found.account != account.number or found.state != "open"',
        "found.account != account.number",
        "tests/unit/coordinator/test_heads_kept.py::test_a_head_whose_upload_has_ended_is_refused",
    ),
    Safeguard(
        "a head from before the last sweep is taken",
        "holdfast.coordinator.catalogue.heads",
        "    if upload.sweep_generation != account.sweep_generation:\n",
        "    if False:\n",
        "tests/unit/coordinator/test_heads_kept.py"
        "::test_a_head_of_an_upload_from_before_the_last_sweep_is_refused",
    ),
    Safeguard(
        "a claim calls a stripe stored that has too few shards",
        "holdfast.coordinator.catalogue.chunks",
        'row.state == "erasing" or profile.n - len(gone) < profile.k',
        'row.state == "erasing"',
        "tests/contract/test_catalogue.py",
    ),
    Safeguard(
        "silent uploads never end",
        "holdfast.coordinator.catalogue.uploads",
        "uploads.c.renewed_ms < now_ms - UPLOAD_SILENCE_MS",
        "uploads.c.renewed_ms < 0",
        "tests/contract/test_catalogue.py"
        "::test_silent_uploads_end_and_nothing_of_them_but_committed_chunks_stays",
    ),
    Safeguard(
        "whatever shards decode to is the chunk",
        "holdfast.protocol.stripe_reading",
        "    return sealed if blake3(sealed).digest() == reading.chunk else None\n",
        "    return sealed\n",
        "tests/unit/protocol/test_stripe_reading.py"
        "::test_shards_that_fit_the_catalogue_and_not_the_chunk_make_nothing",
    ),
    Safeguard(
        "a reader takes any shard that a node hands out",
        "holdfast.protocol.stripe_reading",
        "        if stripe is None or (giver is None and digest_of(shard) != stripe.digest(slot)):\n",
        "        if stripe is None:\n",
        "tests/unit/protocol/test_stripe_reading.py::test_a_shard_that_is_not_the_catalogue_s_does_not_count",
    ),
    Safeguard(
        "a chunk is opened though its content is not what its plain id names",
        "holdfast.client.sealing",
        "    if blake3(p, key=keys.id_key).digest() != pid:\n",
        "    if False:\n",
        "tests/unit/client/test_sealing.py::test_other_content_under_a_chunk_s_own_key_is_refused",
    ),
    Safeguard(
        "a client takes heads that do not follow those it has seen",
        "holdfast.client.heads",
        "        if head.seq != seq + 1 or head.previous != digest:\n",
        "        if head.seq != seq + 1:\n",
        "tests/unit/account/test_heads.py::test_a_head_in_between_that_others_did_not_see_is_a_fork",
    ),
    Safeguard(
        "half of a head's witnesses are enough",
        "holdfast.protocol.witnessing",
        "    return count // 2 + 1 if count else 0\n",
        "    return count // 2\n",
        "tests/unit/account/test_witnesses.py"
        "::test_with_too_few_witnesses_up_nothing_is_taken_and_nothing_is_visible",
    ),
    Safeguard(
        "a witness takes a second head under one number",
        "holdfast.protocol.witnessing",
        "        if kept != digest:\n",
        "        if False:\n",
        "tests/unit/node/test_witness_service.py"
        "::test_heads_are_kept_in_any_order_as_long_as_links_prove_them",
    ),
    Safeguard(
        "a new device asks no witnesses",
        "holdfast.client.heads",
        "    if known.head_seq == 0:\n",
        "    if False:\n",
        "tests/unit/account/test_witnesses.py::test_a_new_device_notices_that_an_older_head_is_shown",
    ),
    Safeguard(
        "a node follows a coordinator whose term is over",
        "holdfast.node.reigning",
        "        if offered.charter.term < self.term:\n",
        "        if False:\n",
        "tests/unit/node/test_reigning.py::test_a_higher_term_is_followed_and_a_lower_one_never_again",
    ),
    Safeguard(
        "a sweep takes what a backup under way has claimed",
        "holdfast.coordinator.catalogue.trash",
        'row.state == "live" and row.pin < floor]',
        'row.state == "live"]',
        "tests/contract/test_sweep_races.py::test_a_backup_under_way_keeps_what_it_claimed_while_another_device_prunes",
    ),
    Safeguard(
        "a sweep takes what it was told is alive",
        "holdfast.coordinator.catalogue.trash",
        "if row.mark is None and row.state",
        "if row.state",
        "tests/contract/test_sweep_races.py::test_whatever_races_with_what_nothing_that_is_listed_is_lost",
    ),
    Safeguard(
        "a live set counts though the head has moved since",
        "holdfast.coordinator.catalogue.sweeps",
        "    _require_head(connection, account, live.head_seq, live.head)\n",
        "",
        "tests/contract/test_sweep_races.py::test_a_live_set_that_is_sealed_after_the_head_moved_counts_for_nothing",
    ),
    Safeguard(
        "who lost the lease of a sweep seals it",
        "holdfast.coordinator.catalogue.sweeps",
        '        .values(state="void")\n    )\n    stored',
        '        .values(state="marking")\n    )\n    stored',
        "tests/contract/test_sweep_races.py::test_who_lost_the_lease_after_marking_everything_seals_nothing",
    ),
    Safeguard(
        "two devices sweep at once",
        "holdfast.coordinator.catalogue.sweeps",
        "        if 0 < left_ms <= SWEEP_LEASE_MS:\n",
        "        if False:\n",
        "tests/contract/test_sweep_races.py::test_while_the_lease_is_held_others_are_told_who_holds_it_and_for_how_long",
    ),
    Safeguard(
        "a commit counts though its group has moved meanwhile",
        "holdfast.coordinator.catalogue.chunks",
        "    _require_groups(connection, {stripe.group.id: stripe.group.version for stripe in stripes})\n",
        "",
        "tests/contract/test_moves.py::test_a_commit_judged_by_the_members_of_before_is_void",
    ),
)
