"""The coordinator's own bounds, their unit last in the name; relations asserted at import."""

from __future__ import annotations

from holdfast.protocol.limits import (
    AUDIT_CHUNKS_MAX,
    AUDIT_COLUMNS_MAX,
    DEVICE_LIST_BYTES_MAX,
    DEVICES_MAX,
    MESSAGE_BYTES_MAX,
    MIB,
    REBUILD_SEALED_BYTES_MAX,
    SNAPSHOT_RECORD_BYTES_MAX,
    TICKET_LIFETIME_MS,
)

SQL_VALUES_MAX = 500
"""Values in one IN list; SQLite takes 999 variables in its oldest builds."""
TRANSACTION_TRIES_MAX = 8
BUSY_TIMEOUT_MS = 10_000
WAL_PAGES = 4000
"""Pages of SQLite's log before they go to the catalogue's own file: what many commits change goes there once.
About as many as one part of the log's index has room for, so that looking pages up stays as quick."""
READ_CONNECTIONS = 2
WRITE_BUDGET_BYTES = 1 << 40
"""Raw shard bytes a write ticket allows one node to take before it must be renewed."""
READ_BUDGET_BYTES = 1 << 40
READ_TICKET_REUSED_MS = TICKET_LIFETIME_MS // 2
"""A read ticket is handed out again while at least this much of its life is left."""
READ_TICKETS_REMEMBERED_MAX = 4096
ENROLMENT_NONCE_MS = 300_000
ENROLMENT_NONCES_MAX = 10_000
DEVICE_LISTS_REMEMBERED_MAX = 10_000
ENVELOPES_REMEMBERED_MAX = 256
"""Envelopes of device lists that are not decoded again for each request."""
REMEMBERED_ENVELOPE_BYTES_MAX = 16 * 1024
SWEEP_UPLOADS_EVERY_S = 30.0
COUNTED_BYTES_MAX = 1 << 60
"""No quota, capacity or expectation counts further; databases count to 2^63 - 1."""
UPLOADS_OPEN_MAX = 1024
"""Open uploads of one account: several for each of its devices."""
GROUPS_PER_NODE_MAX = 4
GROUPS_SPARE_MAX = 1024
"""Groups are made because a client excludes nodes only while there are fewer than so many."""
GROUP_MAX = (1 << 31) - 1
"""The highest id of a group; databases keep it in 32 bits."""
GROUP_IDS_SKIPPED = 1 << 20
"""Ids that a catalogue known to be old leaves out: more than can have been given since it was copied."""
NODE_CALL_TIMEOUT_S = 15.0
MEMBERSHIP_EVERY_S = 1.0
STARTS_REMEMBERED_MAX = 1000
"""Earlier starts of one node, to tell a copy of it."""
COUNTERS_SAVE_S = 30.0
FREE_TO_TAKE_BYTES_MIN = 64 * MIB
"""A node with less room is given no slots."""
REBALANCE_MOVES_MAX = 16
"""Slots that one rebalancing moves at most."""
REBALANCE_SPREAD = 0.1
"""Tolerated difference of how full two nodes are, as a part of how full the cluster is on average."""
REBALANCE_EVERY_S = 60.0
"""How often the coordinator looks by itself whether nodes are evenly filled."""
REBALANCE_BY_ITSELF_MOVES_MAX = 2
REBALANCE_BY_ITSELF_BYTES_MIN = 4 * MIB
"""A slot with fewer bytes is not moved without being told to."""
AUDITS_PER_HOUR_DEFAULT = 600
"""Stripes that the coordinator challenges by itself."""
AUDIT_PAUSE_S = 30.0
"""Between looks whether to audit, where no number of stripes in an hour is set."""
AUDIT_TURN_STRIPES = 5
AUDIT_COLUMNS = 32
"""Bytes of each shard asked for: of a shard half of which is gone, that it is noticed fails once in 2^32."""
AUDIT_CALL_TIMEOUT_S = 30.0
FALSE_ANSWERS_KEPT_MAX = 10_000
REPAIR_BYTES_PER_S_DEFAULT = 1024 * MIB
REPAIR_NODE_BYTES_PER_S_DEFAULT = 256 * MIB
"""Sealed bytes of stripes with one spare shard that one node pulls; a gigabit network carries half of it."""
REPAIR_RATE_ASSUMED_BYTES_PER_S = 96 * MIB
"""What a forecast counts with before anything was measured."""
REENCODE_PAUSE_S = 5.0
REENCODE_RETRY_S = 60.0
"""A fallback group that was gone through is looked at again after so long."""
REENCODE_BATCH_SEALED_BYTES = 8 * MIB
"""Every node of the new group pulls all of it."""
VERDICT_TRIES_MAX = 8
"""How often stripes are counted again because slots were given away meanwhile."""
REPAIR_PAUSE_S = 0.5
REPAIR_TURN_S = 2.0
"""How long a turn works before it looks again what is most urgent."""
REPAIR_RETRY_S = 5.0
REPAIR_CALL_TIMEOUT_S = 60.0
REPAIRS_AT_ONCE_MAX = 4
REPAIR_BATCHES_AHEAD = 2
REPAIR_BATCH_SEALED_BYTES = 16 * MIB
TRASH_EVERY_S = 2.0
TRASH_ROWS_AT_ONCE = 4000
"""Chunks that one transaction looks at, to move what is swept to the trash."""
TRASH_EMPTIED_AT_ONCE = 500
"""Chunks that one transaction takes out of the trash for good."""
TRASH_TURN_S = 2.0
"""For how long a turn goes on before other work of the catalogue gets its chance."""
SEAL_ANSWER_S = 10.0
"""For how long the answer to a seal waits for the trash to be filled."""
ERASED_HOLD_S_MAX = TICKET_LIFETIME_MS // 1000
"""Nodes keep what left the trash until the read tickets of whoever was just told of it have expired."""
RUNNING_SAVE_S = 15.0
"""How often the coordinator's running time is noted; a crash loses so much, and trash is kept longer."""
MARKS_UNKNOWN_MAX = 65_536
"""A live set may name so many chunks more than twice those that are stored."""
MARKS_DROPPED_AT_ONCE = 5000
ERASE_EVERY_S = 2.0
PULSE_EVERY_S = 15.0
"""How often the catalogue's pulse rises: an older copy of it is known as such after so long."""
PULSE_AHEAD_MAX = 1 << 32
"""A node may have heard of a pulse so far above the catalogue's: two thousand years of it. A node that makes
up a larger one must not use the numbers up for all."""
COMPARE_PAUSE_S = 1.0
COMPARE_EVERY_S_DEFAULT = 24 * 3600.0
COMPARE_AGAIN_S = 15.0
"""A node that could not be compared, or has what must wait, is looked at again after so long; then rarer."""
COMPARE_CALL_TIMEOUT_S = 60.0
COMPARE_REST = 3.0
"""A comparison that nobody waits for rests so many times as long as each answer took."""
COMPARE_ROWS_AT_ONCE = 500
"""Differences that one transaction takes over."""
COMPARE_SLOTS_MAX = 1 << 20
"""Slots of groups that one node may say it has shards of."""
COMPARE_MUST_AT_ONCE = 16_384
"""Positions that the catalogue lists at once."""
ADOPTED_AT_ONCE = 200
"""Chunks whose strays one transaction looks at."""
ERASE_NODES_AT_ONCE_MAX = 8
SCRUB_LOOK_S = 0.3
"""How often an operator's command looks how far a node's scrub is."""
WITNESS_CALL_TIMEOUT_S = 10.0
RECORDS_WITH_A_HEAD_BYTES = 12 * MIB
"""New records in one message to a witness, beside a head, its list and two device lists."""
WITNESSES_EVERY_S = 0.5
WITNESSES_LOOK_S = 3600.0
"""How often every account is looked at, whether its witnesses keep all they should."""
WITNESSES_LOOK_SOON_S = 5.0
"""The same after a node started: it may have lost what it kept. Several starts are one."""
WITNESSED_AT_ONCE_MAX = 4
"""Accounts whose waiting heads are settled, and whose witnesses are caught up, at one time."""
WITNESSED_PER_TURN_MAX = 64
HEADS_GIVEN_PER_TURN_MAX = 256
"""Older heads given to one witness before others get their turn."""
GATHER_CALL_TIMEOUT_S = 30.0
"""One answer of a node to whoever rebuilds or restores a coordinator."""
TOLD_AT_ONCE_MAX = 4
"""Nodes that are told at one time who reigns; and as many of those that are silent."""
PLACE_KEPT_S = 1.0
"""How long one that does not answer keeps others from being told."""
TELL_EVERY_S = 0.5
REIGN_CALL_TIMEOUT_S = 5.0
REIGN_BYTES_PER_S_MIN = 256 * 1024
"""A long map takes longer."""
REIGN_RETRY_S = 5.0
"""How long a node that did not hear who reigns is left alone."""
MAP_TOLD_MAX = 3
"""Times in a row, to a node that keeps another one afterwards: a newer catalogue's, or one that changed."""
MAPS_REMEMBERED_MAX = 4096
"""Digests of cluster maps that this process has signed, or taken over."""
TELL_SOON_S = 2.0
"""How long somebody who joins waits for the other nodes to keep the map that names it."""
SETTLE_LOOK_S = 0.05
"""How often an upload looks whether the nodes have reported, right after a start."""
FIRST_REPORTS_S = 10.0
"""How long after a start an upload that finds too few nodes waits for those that were not heard of yet. They
look for their coordinator every two seconds."""

assert PULSE_AHEAD_MAX * (1 << 20) <= COUNTED_BYTES_MAX, "heartbeats must go on being able to tell it"
assert 1 <= AUDIT_COLUMNS <= AUDIT_COLUMNS_MAX
assert AUDIT_TURN_STRIPES <= AUDIT_CHUNKS_MAX
assert READ_TICKET_REUSED_MS < TICKET_LIFETIME_MS
assert UPLOADS_OPEN_MAX >= DEVICES_MAX
assert REENCODE_BATCH_SEALED_BYTES <= REBUILD_SEALED_BYTES_MAX
assert REPAIR_BATCH_SEALED_BYTES <= REBUILD_SEALED_BYTES_MAX
assert WITNESSES_LOOK_SOON_S < WITNESSES_LOOK_S
assert REIGN_CALL_TIMEOUT_S < WITNESS_CALL_TIMEOUT_S, "a witness that hung is told again while its head waits"
assert SNAPSHOT_RECORD_BYTES_MAX <= RECORDS_WITH_A_HEAD_BYTES
assert RECORDS_WITH_A_HEAD_BYTES + 2 * DEVICE_LIST_BYTES_MAX + 3 * MIB < MESSAGE_BYTES_MAX
