"""Structs that hold keys."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

__all__ = ["Secret"]


class Secret(Struct, frozen=True):
    """Nothing that prints it, logs it or shows it in a trace shows what is in it."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []
