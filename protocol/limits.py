"""Every bound of the protocol, its unit last in its name; relations asserted at import."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# Chunks and stripes
CHUNK_PLAIN_BYTES_MAX = 4 * MIB
"""Longest plaintext cut into one chunk."""
CHUNK_PADDED_BYTES_MAX = 4_325_376
"""Padmé length of a full chunk with its 5-byte header."""
SEAL_OVERHEAD_BYTES = 1 + 32 + 16
"""Version, commitment, GCM tag."""
SEALED_BYTES_MIN = SEAL_OVERHEAD_BYTES + 5
SEALED_BYTES_MAX = CHUNK_PADDED_BYTES_MAX + SEAL_OVERHEAD_BYTES
STRIPE_SHARDS_MAX = 255

# Batches between client, node and coordinator
SHARD_BATCH_ENTRIES_MAX = 512
SHARD_BATCH_HEADER_BYTES_MAX = 6 * MIB
SHARD_BATCH_BODY_BYTES_MAX = 48 * MIB
"""Raw shard bytes of one PUT or of one answer to a read."""
CLAIM_CHUNKS_MAX = 4096
COMMIT_CHUNKS_MAX = 512
COMMIT_RECEIPTS_MAX = 2048
LOCATE_CHUNKS_MAX = 4096
RECORDS_FETCH_MAX = 512
MESSAGE_BYTES_MAX = 32 * MIB
"""Any msgpack message to the coordinator or from it."""
REPORTS_MAX = 1024
FINDINGS_MAX = 512
"""Bad shards that a node reports in one message."""
QUARANTINE_SHOWN_MAX = 1024
"""Entries of one node's quarantine in one answer."""
TROUBLE_BYTES_MAX = 1024
"""A node's word, in UTF-8, why its store has failed."""

# Accounts
DEVICES_MAX = 256
KEY_RECORDS_MAX = 4096
DEVICE_LIST_BYTES_MAX = 4 * MIB
HEAD_BYTES_MAX = 64 * KIB
SNAPSHOTS_MAX = 65_536
SNAPSHOT_RECORD_BYTES_MAX = 8 * MIB
HEAD_NEW_RECORDS_MAX = 64
HEAD_LINKS_MAX = 1024
WITNESSES_MAX = 255
SWEEP_MARKS_MAX = 32_768
"""Chunks in one message that marks them as reached."""
SWEEP_LEASE_MS = 120_000
"""A sweep without a sign of life for this long may be taken over."""
FORGOTTEN_SHOWN_MAX = 1024
LABEL_BYTES_MAX = 256
"""A device's, zone's or tag's name, in UTF-8."""
URL_BYTES_MAX = 2048

# Permissions and time
REQUEST_WINDOW_MS = 300_000
TICKET_LIFETIME_MS = 600_000
UPLOAD_SILENCE_MS = 600_000
"""An upload without a heartbeat for this long is abandoned."""
TOKEN_SECRET_BYTES = 16
TOKEN_LIFETIME_S_DEFAULT = 7 * 24 * 3600
TOKEN_LIFETIME_S_MAX = 365 * 24 * 3600
NONCE_BYTES = 16
NONCES_KEPT_MAX = 1_000_000
DELETION_HOLD_S_DEFAULT = 7 * 24 * 3600
DELETION_ENTRIES_MAX = 4096
DELETION_NUMBER_MAX = 1 << 62

# Cluster
NODES_MAX = 10_000
GROUPS_LEASED_MAX = 64

# Repair
REBUILD_ENTRIES_MAX = 512
REBUILD_SEALED_BYTES_MAX = 32 * MIB
"""Sealed bytes of all stripes of one rebuild; a single stripe always fits."""
ORDER_ID_BYTES = 16
AUDIT_ENTRIES_MAX = 64
"""Shards that one challenge names."""
AUDIT_COLUMNS_MAX = 64
"""Bytes of one shard that a challenge asks for."""
AUDIT_CHUNKS_MAX = 256
"""Stripes that an operator has challenged with one request."""
FALSE_ANSWERS_SHOWN_MAX = 256
DECODE_TRIES_MAX = 64
"""k-subsets tried when shards verify but the chunk does not."""

# Inventories
INVENTORY_SCAN_MAX = 65_536
"""Shards that a node looks at for one answer about its sums or ranges."""
INVENTORY_RANGE_SHARDS = 1024
"""Shards that one sum of a range covers; the last range of an answer may cover fewer."""
INVENTORY_KEYS_MAX = 8192
"""Positions in one answer."""
INVENTORY_HEADERS_MAX = 2048
"""Record headers in one answer."""

# Connections
CONNECT_TIMEOUT_S = 5.0
CONNECTION_KEPT_S = 30.0
"""A connection that rested longer is not used again: servers close theirs after more than a minute."""
ANSWER_HEAD_BYTES_MAX = 16 * KIB
"""Status line and headers of an answer."""
REQUEST_HEAD_BYTES_MAX = 16 * KIB
"""Request line and headers, as the front takes them; a longer head is aiohttp's to judge."""
FRONT_IDLE_S = 75.0
"""A server closes a connection that has rested, or sent no whole head, for so long."""
CONNECTIONS_MAX = 12_288
"""A server takes so many; for one more, one goes that is not needed. Each node has one to the coordinator."""
CONNECTIONS_MIN = 16
DESCRIPTORS_RESERVED = 2048
"""Of a process's descriptors so many, or half of them, are for its files, and for what it asks of others."""
OTHERS_PART = 4
"""Of its connections one in so many may be aiohttp's: which of those rest is not known."""
STRANGERS_PART = 4
"""One in so many may be new, and take its time to ask for something, while others rest."""
STALLED_S = 1.0
"""Who is to send a body, or to take an answer, and has not for about so long, may go for a newcomer."""
STALLED_LOOKS_MAX = 8
PROGRESS_NOTED_S = 0.25
CROWDED_SAID_S = 60.0
BODY_ROOM_BYTES = 16 * KIB
"""Room for a message is made as it arrives, so much at first: what is only announced costs little."""
LARGE_BODY_BYTES = 1 * MIB
LARGE_BODIES_BYTES_MAX = 256 * MIB
"""Longer messages of devices have so much room together at a coordinator while they arrive."""
UNWANTED_BODY_S = 10.0
"""What is left of a body that was refused may come for so long, so that the sender can read why."""
PORTS_MAX = 65_535
LASTING_PORTS_FROM = 10_000
"""A server that may have any port takes none of the well-known ones below."""
LASTING_PORTS_TRIED_MAX = 64
PORT_AWAITED_S = 3.0
"""How long a server waits for the port that it was told, where somebody else still has it."""
PORT_LOOK_S = 0.1
SERVER_STOPS_WITHIN_S = 5.0
"""Requests under way have so long when a server stops."""
REQUEST_TIMEOUT_S = 60.0
READ_IDLE_TIMEOUT_S = 20.0
BODY_GRACE_S = 20.0
BODY_BYTES_PER_S_MIN = 128 * KIB
"""A body gets its grace and a second for each of these; a peer that is slower is let go."""

assert SEALED_BYTES_MIN < SEALED_BYTES_MAX
assert CHUNK_PADDED_BYTES_MAX >= CHUNK_PLAIN_BYTES_MAX + 5
assert SHARD_BATCH_BODY_BYTES_MAX >= 8 * SEALED_BYTES_MAX, "a batch of one-data-shard stripes fits"
assert SHARD_BATCH_HEADER_BYTES_MAX >= SHARD_BATCH_ENTRIES_MAX * (STRIPE_SHARDS_MAX * 32 + 128)
assert REBUILD_SEALED_BYTES_MAX >= SEALED_BYTES_MAX
assert INVENTORY_KEYS_MAX * 80 < MESSAGE_BYTES_MAX
assert INVENTORY_HEADERS_MAX * (STRIPE_SHARDS_MAX * 32 + 128) < MESSAGE_BYTES_MAX
assert TICKET_LIFETIME_MS <= UPLOAD_SILENCE_MS
assert MESSAGE_BYTES_MAX > SWEEP_MARKS_MAX * 40
assert MESSAGE_BYTES_MAX > COMMIT_CHUNKS_MAX * STRIPE_SHARDS_MAX * 32
assert MESSAGE_BYTES_MAX > SNAPSHOT_RECORD_BYTES_MAX + DEVICE_LIST_BYTES_MAX + SNAPSHOTS_MAX * 32
