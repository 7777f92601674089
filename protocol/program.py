"""Which program this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["program_version"]


def program_version() -> str:
    """The installed version, e.g. "0.1.0"; "unreleased" when run from sources without installing."""
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unreleased"
