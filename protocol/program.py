"""Which program this is."""

from __future__ import annotations

import os
from functools import cache

__all__ = ["program_version"]

_BEFORE, _BEHIND = "holdfast-", ".dist-info"


@cache
def program_version() -> str:
    """The installed version, e.g. "0.1.0"; "unreleased" when run from sources without installing.

    The folder that an installer leaves beside the package says it in its name (PyPA, "Recording
    installed projects"). Only where there is none is the library asked: it loads parsers of mail and
    zip files first.
    """
    beside = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    found = [name for name in os.listdir(beside) if name.startswith(_BEFORE) and name.endswith(_BEHIND)]
    if len(found) == 1:
        return found[0][len(_BEFORE) : -len(_BEHIND)]
    from importlib.metadata import PackageNotFoundError, version

    try:
        # An installation without its metadata has none; no record may say so, for none could be read.
        return str(version("holdfast") or "unreleased")
    except PackageNotFoundError:
        return "unreleased"
