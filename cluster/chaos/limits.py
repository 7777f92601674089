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
