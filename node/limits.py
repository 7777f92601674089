"""The node's own bounds, their unit last in the name; relations asserted at import."""

from __future__ import annotations

from holdfast.protocol.limits import (
    DEVICE_LIST_BYTES_MAX,
    KIB,
    MESSAGE_BYTES_MAX,
    MIB,
    REQUEST_WINDOW_MS,
    SEALED_BYTES_MAX,
    SHARD_BATCH_BODY_BYTES_MAX,
    SHARD_BATCH_HEADER_BYTES_MAX,
    SNAPSHOT_RECORD_BYTES_MAX,
)

BODY_BYTES_MAX = SHARD_BATCH_BODY_BYTES_MAX + SHARD_BATCH_HEADER_BYTES_MAX + 4
IN_FLIGHT_BYTES_MAX = 160 * MIB
"""Bodies being received and answers being made, together; beyond it requests wait."""
READ_ANSWER_BYTES_MAX = 12 * MIB
"""Shards in one answer; what is beyond it is asked for again."""
READ_TOGETHER_ENTRIES = 8
"""Shards read in one transaction; those read beyond the end of an answer were read in vain."""
READ_AHEAD_PIECE_BYTES = 128 * KIB
"""The least that a kernel reads ahead for one piece of advice (read_ahead_kb, where nobody changed it)."""
READ_AHEAD_BYTES_MAX = 32 * MIB
"""The most that the disk is asked for at once; what is damaged may name any length."""
READ_AHEAD_READS = 64
"""How many reads are prepared for once one was met that had to wait for the disk page by page."""
COMMIT_GROUP_BYTES_MAX = 32 * MIB
"""Shard bytes gathered into one LMDB transaction."""
MAP_RESERVE_BYTES = 64 * MIB
"""Map beyond the capacity, so that deletions commit when the capacity is used up."""
DISK_RESERVE_BYTES = 64 * MIB
"""Free disk below which nothing more is written."""
CAPACITY_BYTES_MIN = 1 * MIB
SHORT_PAGES_TOLERATED = 16
"""Pages at the end of the file that LMDB may count without having written them (freed in one transaction)."""
LOOK_TRIES_MAX, LOOK_AGAIN_S = 50, 0.1
"""How often, and how far apart, a store that is just getting another data file is opened to be looked at."""
LOCK_TRIES_MAX = 16
"""How often a store that has got another data file is opened until its lock file is that file's."""
HEADS_MAP_BYTES = 64 * 1024 * MIB
"""The most that kept heads, lists and records may take on disk; the file grows as they come."""
HEADS_DISK_RESERVE_BYTES = 16 * MIB
"""Free disk below which no more heads are kept; shards stop earlier, so that heads can go on."""
KEPT_PAGE_BYTES = 8 * MIB
"""Heads, records or accounts of one answer to whoever rebuilds a coordinator; a single one always fits."""
KEPT_PAGE_ENTRIES_MAX = 1024
TICKETS_REMEMBERED_MAX = 1024
VERIFY_AFTER_FAILURE_MAX = 4096
"""Acknowledged shards looked at again after the store was reopened."""
ERASE_TURN_ENTRIES_MAX = 512
ERASE_AHEAD_ENTRIES = 64
"""Shards that the disk is asked for together before they are erased."""
RUNNING_CLOCK_SAVE_S = 30.0
JOIN_PATIENCE_S = 60.0
HEARTBEAT_BACKOFF_S_MAX = 2.0
WORKER_THREADS = 2
REBUILDS_AT_ONCE_MAX = 3
"""Rebuilds worked on; each holds its pulled shards and one decoded batch in memory."""
PULL_ROUNDS_MAX = 64
PULL_TIMEOUT_S = 20.0
QUARANTINE_ENTRIES_MAX = 4096
QUARANTINE_BYTES_MAX = 256 * MIB
"""Damaged values kept aside, beside the capacity; the oldest make room."""
STORES_ASIDE_MAX = 16
"""Damaged stores kept beside the present one."""
UNREADABLE_MAX = 256
"""Shards that killed the process when they were read; with more the store as a whole counts as damaged."""
READING_THREADS_MAX = 16
"""Threads that may touch the store's pages at one time; each notes its key in a place of its own."""
SCRUB_DAYS_DEFAULT = 14.0
SCRUB_SLACK = 0.8
"""A scrub plans to be done after this part of its period: restarts and busy hours cost time."""
SCRUB_BYTES_PER_S_MIN = 1 * MIB
SCRUB_BYTES_PER_S_MAX = 64 * MIB
SCRUB_ASKED_BYTES_PER_S = 512 * MIB
"""How fast a scrub that an operator asked for may go; the disk is slower."""
SCRUB_SCAN_ENTRIES = 256
SCRUB_SAVE_S = 10.0
SCRUB_LOOK_S = 1.0
"""How often a node looks whether a scrub is due."""
FINDINGS_EVERY_S = 1.0
COMPACT_CHANGES_FEW = 64
"""Keys written meanwhile that are left for the end, when writing stops for a moment."""
COMPACT_AHEAD_ENTRIES = 256
"""Shards that the disk is asked for before a portion is copied."""
COMPACT_STEP_BYTES = 16 * MIB
COMPACT_BYTES_PER_S = 64 * MIB
"""How fast a store is compacted when nobody waits for it."""
COMPACT_ASKED_BYTES_PER_S = 512 * MIB
COMPACT_FREE_BYTES_MIN = 256 * MIB
COMPACT_FREE_SHARE = 0.5
"""A store is compacted by itself when so much of its file is free, and no less than the bytes above."""
COMPACT_LOOK_S = 60.0
COMPACT_RETRY_S = 3600.0
INVENTORY_PORTION_ENTRIES = 1024
"""Keys walked over in one transaction for an inventory; reads and hashing get their turn in between."""
CLOCK_TOLERATED_MS = 60_000
"""A wall clock that is further from the coordinator's than this is set right in memory."""
CRASH_RESTARTS_MAX = 5
"""Restarts after a crash within CRASH_WINDOW_S; then the store counts as damaged."""
CRASH_WINDOW_S = 3600.0
CRASH_PAUSE_S = 0.2

assert CLOCK_TOLERATED_MS < REQUEST_WINDOW_MS // 2, "what is tolerated leaves room for the client's own error"

assert SCRUB_BYTES_PER_S_MIN <= SCRUB_BYTES_PER_S_MAX <= SCRUB_ASKED_BYTES_PER_S
assert 0 < SCRUB_SLACK <= 1
assert IN_FLIGHT_BYTES_MAX >= 2 * BODY_BYTES_MAX, "one large request never starves another"
assert SEALED_BYTES_MAX <= READ_ANSWER_BYTES_MAX <= IN_FLIGHT_BYTES_MAX // 2, "any one shard fits"
assert COMMIT_GROUP_BYTES_MAX <= IN_FLIGHT_BYTES_MAX
assert HEADS_DISK_RESERVE_BYTES < DISK_RESERVE_BYTES
assert KEPT_PAGE_BYTES + SNAPSHOT_RECORD_BYTES_MAX + DEVICE_LIST_BYTES_MAX < MESSAGE_BYTES_MAX
