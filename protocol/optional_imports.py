"""Loading a library without what it loads for extras that it is not used for here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["passed_over"]


@contextmanager
def passed_over(*names: str) -> Iterator[None]:
    """Within it, modules of these names are not to be found, unless they are loaded already.

    For libraries that load others only where these are installed. ``None`` in ``sys.modules`` means "there
    is none" to the import statement (Python Language Reference, 5.3.1). For one thread, at the start.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
