"""The client: the only place where plaintext and keys exist.

    from holdfast.client import AsyncClient, Client

Both have the same names; one is awaited, the other is not. They load lazily, so
that ``holdfast --help`` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.client.sdk import AsyncClient
    from holdfast.client.sync import Client

__all__ = ["AsyncClient", "Client"]

_HOMES = {"AsyncClient": "holdfast.client.sdk", "Client": "holdfast.client.sync"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
