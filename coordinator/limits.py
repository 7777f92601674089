"""The coordinator's own bounds, their unit last in the name; relations asserted at import."""

from __future__ import annotations

from holdfast.protocol.limits import DEVICES_MAX, TICKET_LIFETIME_MS

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
SETTLE_LOOK_S = 0.05
"""How often an upload looks whether the nodes have reported, right after a start."""

assert READ_TICKET_REUSED_MS < TICKET_LIFETIME_MS
assert UPLOADS_OPEN_MAX >= DEVICES_MAX
