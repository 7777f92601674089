"""What a member of a run may be started as instead of ``holdfast``: the same, on a disk that can forget.

With HOLDFAST_UNSYNCED it keeps what a power cut would take (chaos.unsynced), with HOLDFAST_LIES a file can
make it lie (chaos.lying). Everything else is the real program.
"""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.client.console import main as console
from holdfast.cluster.chaos.lying import Liar, become
from holdfast.cluster.chaos.unsynced import Unsynced
from holdfast.cluster.chaos.wiring import LIES_VARIABLE, UNSYNCED_VARIABLE


def _main() -> None:
    if LIES_VARIABLE in os.environ:
        become(Liar(Path(os.environ[LIES_VARIABLE])))
    kept = None
    if UNSYNCED_VARIABLE in os.environ:
        # Whatever writes must be loaded by now: only the calls of loaded libraries are stood before.
        # LMDB's came with the store that chaos.lying knows.
        import sqlite3  # noqa: F401

        journals = Path(os.environ[UNSYNCED_VARIABLE])
        kept = Unsynced(journals.with_suffix(""), journals)
    console(prog_name="holdfast")
    del kept


if __name__ == "__main__":
    _main()
