"""The client's own bounds, their unit last in the name; relations asserted at import."""

from __future__ import annotations

from holdfast.protocol.limits import (
    CHUNK_PLAIN_BYTES_MAX,
    KIB,
    LOCATE_CHUNKS_MAX,
    MIB,
    SHARD_BATCH_BODY_BYTES_MAX,
    SHARD_BATCH_ENTRIES_MAX,
)

# Cutting. Five bytes stay free for the header, so that a longest chunk still fits its Padmé length.
CUT_BYTES_MIN = 256 * KIB
CUT_BYTES_AVERAGE = MIB
CUT_BYTES_MAX = CHUNK_PLAIN_BYTES_MAX - 5
SMALL_FILE_BYTES_MAX = CUT_BYTES_MIN
"""Files shorter than this run together into one stream before cutting."""
REPACK_PARTS = 4
"""A chunk of small files less than one part in so many of which is used is sent anew with what is left."""

# Reading
READ_BYTES = 4 * MIB
"""One read of a large file."""
DIGESTS_REMEMBERED_MAX = 200_000
"""Small-file digests kept to find equal files, about 400 bytes each."""
PENDING_ENTRIES_MAX = 8192
"""Entries waiting for their chunk to be cut; beyond it the small-file stream is cut early."""

# Manifest pages
PAGE_BYTES_MIN = 64 * KIB
PAGE_BYTES_MAX = MIB
PAGE_BOUNDARY_ONE_IN = 512
PAGE_EXTENTS_MAX = 8192
PARENT_PAGES_KEPT_MAX = 32
"""Pages of the parent that stay opened during a backup, which goes through them up to three times."""
PATH_BYTES_MAX = 64 * KIB
NAME_BYTES_MAX = 255
MODE_MAX = 0o7777
OWNER_MAX = 2**32 - 2
"""User and group ids; the next one means "leave it as it is" to chown."""
SIZE_BYTES_MAX = 2**63 - 1
TIME_NS_MIN = -(2**63)
TIME_NS_MAX = 2**64 - 1
"""What msgpack can hold: from 1677 to 2554. A file's time beyond is written as the nearest of the two."""
FILE_HOLES_MAX = 8192
"""Holes of one file that are kept as holes; the smallest beyond them are stored as the zeros they read as."""
XATTR_BYTES_MAX = 256 * KIB
"""All extended attributes of one entry together; more are skipped with a warning."""

# Sending
BATCH_SEALED_BYTES = 12 * MIB
BATCH_FIRST_SEALED_BYTES = 4 * MIB
"""The first batch; each may be twice the one before."""
BATCH_CHUNKS_MAX = 256
BATCHES_IN_FLIGHT_MAX = 3
ENCODED_AT_ONCE_BYTES_MAX = 64 * KIB
"""A batch encoded in the event loop: so few bytes take less time than another thread takes to wake up."""
SENT_AT_ONCE_BYTES_MAX = 64 * KIB
"""Sealed bytes of a last batch that is sent while the coordinator is asked whether it is stored: an answer is
not waited for to save so little. What is met again in one session is asked for first."""
RECENT_CHUNKS_MAX = 4096
HELD_SEALED_BYTES_MAX = 256 * KIB
"""A last batch of so many sealed bytes is committed together with the head; a longer one's rows are there at
once, so that an upload which is interrupted goes on from them."""
LATE_RECEIPT_WAIT_S = 0.25
"""How long a batch that has its write quorum waits for the remaining slots."""
PUT_TIMEOUT_S = 20.0
COURTESY_TIMEOUT_S = 5.0
"""For what is told for others' sake, when one's own work is done."""
PATIENCE_S = 30.0
"""How long an upload or restore goes on trying while the coordinator does not answer."""

# Fetching
FETCH_SEALED_BYTES = 16 * MIB
"""Sealed bytes asked for in one round of reads."""
FETCHES_IN_FLIGHT_MAX = 2
READ_TIMEOUT_S = 8.0
READ_AGAIN_PAUSE_S = 0.5
READ_AGAIN_WITHIN_S = 5.0
"""Nodes that did not give their shards are asked again and again for so long, where a chunk needs them."""
READ_AGAIN_REST_S = 60.0
"""Where that was in vain, nobody is waited for again for so long."""
HEDGE_LAG_S_MIN = 0.05
HEDGE_PART = 0.1
"""At most this part of the reads are made because others lag."""
HEDGE_AHEAD_MAX = 2
"""Hedges that may be made before there were requests enough: a small restore has a slow node, too."""
LATENCIES_REMEMBERED = 64
NODE_REST_S = 5.0
"""A node that failed a read is asked last for so long."""
RESTORE_WINDOW_BYTES = 16 * MIB
"""Plaintext of the chunks of one restore window; up to two windows are in memory."""
RESTORE_FIRST_WINDOW_BYTES = 2 * MIB
"""The first window; each may be twice the one before."""
RESTORE_WINDOW_ACTIONS_MAX = 2048
RESTORE_WINDOWS_AHEAD_MAX = 1

# This device's folder
CACHE_BYTES_MAX = 512 * MIB
HEAD_POST_TRIES_MAX = 16
WITNESS_TIMEOUT_S = 5.0
WITNESS_PATIENCE_S = 10.0
"""How long a new device goes on asking the witnesses of the head it was shown."""
WITNESSES_ASKED_MAX = 32
"""Nodes asked whether they keep a head, when a coordinator shows none."""
SWEEPS_MET_MAX = 8
"""Sweeps by other devices that a posting outlasts, claiming anew each time."""
PRUNE_TRIES_MAX = 8
"""Snapshots made meanwhile that a prune outlasts, beginning anew each time."""
REACH_PAGES_AT_ONCE = 64
RECOVERY_TEXT_CHARS_MAX = 4096

assert CUT_BYTES_MIN < CUT_BYTES_AVERAGE < CUT_BYTES_MAX
assert PAGE_BYTES_MAX < CUT_BYTES_MAX, "a page is one chunk"
HOLE_BYTES = 19
"""One hole in a page: a list of two integers."""
assert (
    PAGE_BYTES_MAX
    + PATH_BYTES_MAX
    + XATTR_BYTES_MAX
    + PAGE_EXTENTS_MAX * 100
    + (FILE_HOLES_MAX + 1) * HOLE_BYTES
    < CUT_BYTES_MAX
)
assert SMALL_FILE_BYTES_MAX <= READ_BYTES, "a small file is read at once into the room of its cutter"
assert SENT_AT_ONCE_BYTES_MAX <= HELD_SEALED_BYTES_MAX
assert BATCH_CHUNKS_MAX <= SHARD_BATCH_ENTRIES_MAX
assert BATCH_FIRST_SEALED_BYTES <= BATCH_SEALED_BYTES
assert RESTORE_FIRST_WINDOW_BYTES <= RESTORE_WINDOW_BYTES
assert BATCH_SEALED_BYTES + CHUNK_PLAIN_BYTES_MAX * 2 <= SHARD_BATCH_BODY_BYTES_MAX
assert BATCH_CHUNKS_MAX <= LOCATE_CHUNKS_MAX
