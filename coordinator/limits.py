"""The coordinator's own bounds, their unit last in the name; relations asserted at import."""

from __future__ import annotations

from holdfast.protocol.limits import DEVICES_MAX, MIB, REBUILD_SEALED_BYTES_MAX, TICKET_LIFETIME_MS

SQL_VALUES_MAX = 500
"""Values in one IN list; SQLite takes 999 variables in its oldest builds."""
TRANSACTION_TRIES_MAX = 8
BUSY_TIMEOUT_MS = 10_000
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
SWEEP_UPLOADS_EVERY_S = 30.0
COUNTED_BYTES_MAX = 1 << 60
"""No quota, capacity or expectation counts further; databases count to 2^63 - 1."""
UPLOADS_OPEN_MAX = 1024
"""Open uploads of one account: several for each of its devices."""
GROUPS_PER_NODE_MAX = 4
GROUPS_SPARE_MAX = 1024
"""Groups are made because a client excludes nodes only while there are fewer than so many."""
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
REBALANCE_SPREAD = 0.05
"""Tolerated difference of how full two nodes are, as a fraction of their capacity."""
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
COMPARE_PAUSE_S = 1.0
COMPARE_EVERY_S_DEFAULT = 24 * 3600.0
COMPARE_AGAIN_S = 15.0
"""A node that could not be compared, or has what must wait, is looked at again after so long; then rarer."""
COMPARE_CALL_TIMEOUT_S = 60.0
COMPARE_REST = 3.0
"""A comparison that nobody waits for rests so many times as long as each answer took."""
COMPARE_ROWS_AT_ONCE = 500
"""Differences that one transaction takes over."""
COMPARE_MUST_AT_ONCE = 16_384
"""Positions that the catalogue lists at once."""
ADOPTED_AT_ONCE = 200
"""Chunks whose strays one transaction looks at."""
ERASE_NODES_AT_ONCE_MAX = 8
SCRUB_LOOK_S = 0.3
"""How often an operator's command looks how far a node's scrub is."""
SETTLE_LOOK_S = 0.05
"""How often an upload looks whether the nodes have reported, right after a start."""

assert READ_TICKET_REUSED_MS < TICKET_LIFETIME_MS
assert UPLOADS_OPEN_MAX >= DEVICES_MAX
assert REPAIR_BATCH_SEALED_BYTES <= REBUILD_SEALED_BYTES_MAX
