"""Bounds of the erasure code, unit last; relations asserted at import."""

from __future__ import annotations

from typing import Final

MATRICES_CACHED_ENTRIES: Final = 1024
"""Decode matrices kept: all 1001 ways in which a 10+4 stripe loses four shards fit."""
TABLES_CACHED_BYTES: Final = 32 * 1024
"""ISA-L tables above this are made anew for each call; up to MATRICES_CACHED_ENTRIES of them are kept."""
TABLE_BYTES_PER_COEFFICIENT: Final = 32
"""ISA-L's expanded form of one coefficient (erasure_code.h, ec_init_tables)."""
COLUMNS_MAX: Final = 2**31 - 1
"""Columns of one kernel call: ISA-L counts them in a C int."""
TOGETHER_SHARD_BYTES: Final = 16 * 1024
"""Chunks with shards below this are coded many at a time: a call costs more than its work."""
TOGETHER_COLUMNS_MAX: Final = 128 * 1024
"""Columns laid end to end in one call, so that joining never copies a whole large batch."""
PORTABLE_RUN_BYTES: Final = 16 * 1024
"""The portable kernel's step: what it makes on the way stays in the processor's cache."""

assert 0 < TOGETHER_SHARD_BYTES <= TOGETHER_COLUMNS_MAX < COLUMNS_MAX
assert TABLE_BYTES_PER_COEFFICIENT * 10 * 4 < TABLES_CACHED_BYTES, "tables of the usual profiles are kept"
assert MATRICES_CACHED_ENTRIES * TABLES_CACHED_BYTES <= 32 * 1024 * 1024, "at most 32 MiB of tables"
