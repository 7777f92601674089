"""The bounds of local clusters, their unit last in the name; relations asserted at import."""

from __future__ import annotations

from holdfast.protocol.limits import MIB

NODES_DEFAULT = 6
NODES_MAX = 64
"""Processes on one machine; each takes a few dozen MiB."""
ZONES_MAX = NODES_MAX

HEARTBEAT_MS = 300
SUSPECT_AFTER_S = 1.5
DOWN_AFTER_S = 2.0
LOST_AFTER_S = 24 * 3600.0
"""Local clusters notice a dead node within seconds; real ones take their time."""

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 20.0
SIGNAL_DEADLINE_S = 10.0
HEALTHY_DEADLINE_S = 60.0
EXEC_DEADLINE_S = 2.0
"""How long a process may be between fork and exec, when it has no environment to be known by."""
POLL_S = 0.02
ASK_TIMEOUT_S = 5.0
STATUS_TIMEOUT_S = 2.0

LOG_BYTES_MAX = 4 * MIB
"""A member's log longer than this is set aside (one generation) when the member starts."""
LOG_TAIL_LINES = 12
LOG_SHOWN_LINES = 40
LOG_READ_BYTES_MAX = MIB

TOKEN_LIFETIME_S = 600
INVITE_LIFETIME_S = 24 * 3600
MARKER_BYTES = 16

assert HEARTBEAT_MS / 1000 < SUSPECT_AFTER_S <= DOWN_AFTER_S < LOST_AFTER_S
assert POLL_S < SIGNAL_DEADLINE_S < STOP_DEADLINE_S <= START_DEADLINE_S
assert STATUS_TIMEOUT_S <= ASK_TIMEOUT_S
