"""Crash consistency: what a process writes is recorded, and replayed into what a power cut may leave."""
