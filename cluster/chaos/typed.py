"""Frozen values read from TOML and JSON, strictly: msgspec's structs, in words that type checkers know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

import msgspec

__all__ = ["Part", "changed", "name_of"]

P = TypeVar("P", bound="Part")

if TYPE_CHECKING:
    # What msgspec does at run time: "frozen" and "keywords only" are inherited.

    @dataclass_transform(frozen_default=True, kw_only_default=True)
    class Part:
        """See below."""

        __struct_config__: Any

        def __init_subclass__(
            cls, *, tag: str | None = None, tag_field: str | None = None, kw_only: bool = True
        ) -> None: ...

else:

    class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """A frozen value, made with keywords; unknown fields are refused where it is read.

        msgspec does not inherit ``kw_only``: a class with required fields after optional ones says it again.
        """


def changed(part: P, **fields: Any) -> P:
    """The same with other values in some fields."""
    made: P = msgspec.structs.replace(part, **fields)  # type: ignore[type-var]
    return made


def name_of(kind: type[Part]) -> str:
    """What names this kind where several may stand (its tag)."""
    return str(kind.__struct_config__.tag)
