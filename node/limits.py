"""The node's own bounds, their unit last in the name; relations asserted at import."""

from __future__ import annotations

from holdfast.protocol.limits import (
    MIB,
    SEALED_BYTES_MAX,
    SHARD_BATCH_BODY_BYTES_MAX,
    SHARD_BATCH_HEADER_BYTES_MAX,
)

BODY_BYTES_MAX = SHARD_BATCH_BODY_BYTES_MAX + SHARD_BATCH_HEADER_BYTES_MAX + 4
IN_FLIGHT_BYTES_MAX = 160 * MIB
"""Bodies being received and answers being made, together; beyond it requests wait."""
READ_ANSWER_BYTES_MAX = 12 * MIB
"""Shards in one answer; what is beyond it is asked for again."""
READ_TOGETHER_ENTRIES = 8
"""Shards read in one transaction; those read beyond the end of an answer were read in vain."""
COMMIT_GROUP_BYTES_MAX = 32 * MIB
"""Shard bytes gathered into one LMDB transaction."""
MAP_RESERVE_BYTES = 64 * MIB
"""Map beyond the capacity, so that deletions commit when the capacity is used up."""
DISK_RESERVE_BYTES = 64 * MIB
"""Free disk below which nothing more is written."""
CAPACITY_BYTES_MIN = 1 * MIB
SHORT_PAGES_TOLERATED = 16
"""Pages at the end of the file that LMDB may count without having written them (freed in one transaction)."""
TICKETS_REMEMBERED_MAX = 1024
VERIFY_AFTER_FAILURE_MAX = 4096
"""Acknowledged shards looked at again after the store was reopened."""
ERASE_TURN_ENTRIES_MAX = 512
RUNNING_CLOCK_SAVE_S = 30.0
JOIN_PATIENCE_S = 60.0
HEARTBEAT_BACKOFF_S_MAX = 10.0
WORKER_THREADS = 2

assert IN_FLIGHT_BYTES_MAX >= 2 * BODY_BYTES_MAX, "one large request never starves another"
assert SEALED_BYTES_MAX <= READ_ANSWER_BYTES_MAX <= IN_FLIGHT_BYTES_MAX // 2, "any one shard fits"
assert COMMIT_GROUP_BYTES_MAX <= IN_FLIGHT_BYTES_MAX
