"""Bounds of local clusters, their unit last in the name."""

from __future__ import annotations

NODES_DEFAULT = 6
NODES_MAX = 64
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 15.0
KILL_WITHIN_S = 10.0
POLL_S = 0.02
LOG_BYTES_MAX = 8 * 1024 * 1024
"""A member's log is put aside at its start when it is longer."""
LOG_TAIL_LINES = 15

HEARTBEAT_MS = 300
SUSPECT_AFTER_S = 1.2
DOWN_AFTER_S = 2.4
LOST_AFTER_S = 3600.0

assert HEARTBEAT_MS / 1000 < SUSPECT_AFTER_S <= DOWN_AFTER_S < LOST_AFTER_S
