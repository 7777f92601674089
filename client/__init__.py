"""The client: the only place where plaintext and keys exist.

    from holdfast.client import AsyncClient, Client

Both have the same names; one is awaited, the other is not. What they give back is
named here too; the errors they raise are in ``holdfast.protocol.errors``. Everything
loads lazily, so that ``holdfast --help`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.client.check import CheckReport
    from holdfast.client.entries import Entry
    from holdfast.client.forgetting import ForgetReport, Forgotten
    from holdfast.client.progress import Progress
    from holdfast.client.restore_window import RestoreReport
    from holdfast.client.retention import Duration, RetentionPolicy
    from holdfast.client.sdk import AsyncClient
    from holdfast.client.snapshots import Snapshot
    from holdfast.client.sweeping import PruneReport
    from holdfast.client.sync import Client

__all__ = [
    "AsyncClient",
    "CheckReport",
    "Client",
    "Duration",
    "Entry",
    "ForgetReport",
    "Forgotten",
    "Progress",
    "PruneReport",
    "RestoreReport",
    "RetentionPolicy",
    "Snapshot",
]

_HOMES = {
    "AsyncClient": "holdfast.client.sdk",
    "CheckReport": "holdfast.client.check",
    "Client": "holdfast.client.sync",
    "Duration": "holdfast.client.retention",
    "Entry": "holdfast.client.entries",
    "ForgetReport": "holdfast.client.forgetting",
    "Forgotten": "holdfast.client.forgetting",
    "Progress": "holdfast.client.progress",
    "PruneReport": "holdfast.client.sweeping",
    "RestoreReport": "holdfast.client.restore_window",
    "RetentionPolicy": "holdfast.client.retention",
    "Snapshot": "holdfast.client.snapshots",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
