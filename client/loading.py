"""Loading ahead: what a command needs next is loaded while it waits for the coordinator.

Python loads a module in some hundred microseconds of processor time, and a backup needs twenty modules that
opening its account does not.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from importlib import import_module

__all__ = ["load_ahead"]


def load_ahead(*modules: str) -> None:
    """Load modules in a thread beside what is done now.

    Whoever imports one of them meanwhile waits until it is there, and meets whatever is wrong with it.
    """
    lacking = [module for module in modules if module not in sys.modules]
    if lacking:
        threading.Thread(target=_load, args=(lacking,), name="load ahead", daemon=True).start()


def _load(modules: list[str]) -> None:
    for module in modules:
        with suppress(Exception):
            import_module(module)
