"""Bounds of chaos runs, their unit last in the name."""

from __future__ import annotations

SCENARIO_BYTES_MAX = 64 * 1024
FAULTS_MAX = 64
CLIENTS_MAX = 16
CHAOS_S_MAX = 7 * 86400.0
FILE_BYTES_MAX = 256 * 1024 * 1024
FILES_MAX = 256
SEED_MAX = (1 << 63) - 1

SAMPLE_EVERY_S = 0.5
"""How often the stores are joined with the catalogue while a run is under way."""

OPERATION_WITHIN_S = 150.0
"""A client that is not done by then hangs."""
HEALTHY_WITHIN_S = 90.0
WATCH_EVERY_S = 0.2
STATUS_EVERY_S = 0.5
RUNNING_OPERATIONS_WITHIN_S = 160.0
STEP_WAIT_S = 6.0
"""For how long a fault at a drawn step waits for it, before it draws another one."""
PERMIT_EVERY_S = 0.25

RSS_GROWTH_BYTES_MAX = 400 * 1024 * 1024
DESCRIPTOR_GROWTH_MAX = 64

assert OPERATION_WITHIN_S < RUNNING_OPERATIONS_WITHIN_S
REBUILD_WITHIN_S = 90.0
