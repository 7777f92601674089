"""Bounds of chaos runs, their unit last in the name."""

from __future__ import annotations

from holdfast.node.limits import DISK_RESERVE_BYTES
from holdfast.protocol.limits import MIB

SCENARIO_BYTES_MAX = 64 * 1024
FAULTS_MAX = 64
CLIENTS_MAX = 16
CHAOS_S_MAX = 7 * 86400.0
FILE_BYTES_MAX = 256 * 1024 * 1024
FILES_MAX = 256
SEED_MAX = (1 << 63) - 1
DISK_MIB_MIN = 128
"""Of a node's own small filesystem: twice what a node leaves free."""
DISK_MIB_MAX = 65_536

SAMPLE_EVERY_S = 0.5
"""How often the stores are joined with the catalogue while a run is under way."""

OPERATION_WITHIN_S = 150.0
"""A client that is not done by then hangs."""
HEALTHY_WITHIN_S = 90.0
KNOWN_WITHIN_S = 20.0
"""A coordinator that runs again knows its nodes by then, however many of them are up."""
WATCH_EVERY_S = 0.2
STATUS_EVERY_S = 0.5
RUNNING_OPERATIONS_WITHIN_S = 160.0
STEP_WAIT_S = 6.0
"""For how long a fault at a drawn step waits for it, before it draws another one."""
PERMIT_EVERY_S = 0.25

COMPARE_EVERY_S = 5.0
"""How often a run's coordinator compares its catalogue with each node, and collects what nobody needs."""
ORPHAN_GRACE_S = 4 * COMPARE_EVERY_S
"""A shard that nothing names, of an upload that has ended, lies on its node no longer than this: the next
comparison finds it; twice that for one that fails; and as much again for a machine that is busy."""
REPAIR_TIMES_MAX = 2.0
"""How often what a node holds is brought back for each time it is taken away: elsewhere, once it is given up,
and where slots are evened out after it came back."""
STORE_FACTOR_MAX = 1.25
STORE_SLACK_BYTES = 2 * MIB
"""A compacted store's file is no longer than this many times the pages of what is in it, and this."""

RSS_GROWTH_BYTES_MAX = 400 * 1024 * 1024
DESCRIPTOR_GROWTH_MAX = 64

assert DISK_MIB_MIN * MIB >= 2 * DISK_RESERVE_BYTES
assert OPERATION_WITHIN_S < RUNNING_OPERATIONS_WITHIN_S
REBUILD_WITHIN_S = 90.0
SCRUB_AGAIN_S = 2.0
SCRUB_TRIES_MAX = 10
"""How often a node whose disk was hurt is asked to reread it, while other faults may keep it away."""
