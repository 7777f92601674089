"""Which program this is."""

from __future__ import annotations

from functools import cache

__all__ = ["program_version"]


@cache
def program_version() -> str:
    """The installed version, e.g. "0.1.0"; "unreleased" when run from sources without installing."""
    from importlib.metadata import PackageNotFoundError, version  # parsers of mail and zip files: 20 ms

    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unreleased"
