"""Canonical msgpack in, typed values out.

A message or record is a :class:`msgspec.Struct`; ``msgpack`` makes and reads
the bytes, ``msgspec`` checks the shape. Decoding is strict (docs/FORMAT.md,
"Encoding"): extension types, trailing bytes, duplicate keys, integers or
strings not in their shortest form, unknown fields and wrong types are each
refused. That the bytes are canonical is proven by encoding the decoded value
again: msgpack writes every value in its one shortest form, a duplicate key is
lost in the dict, a message's fields come in their one order, so any other input
comes out different.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

import msgpack
import msgspec

from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import FixedBytes

__all__ = ["Message", "Record", "decode", "decode_plain", "encode"]

T = TypeVar("T")


if TYPE_CHECKING:
    # What msgspec does at run time, in the words type checkers know: "frozen" is inherited.

    @dataclass_transform(frozen_default=True, kw_only_default=True)
    class Message:
        """See below."""

    @dataclass_transform(frozen_default=True)
    class Record:
        """See below."""

else:

    class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """A wire message: a msgpack map with exactly the struct's field names."""

    class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
        """A stored or signed record: a msgpack array in field order, version first."""


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    raise TypeError(f"{type(value).__name__} cannot be encoded")


def _typed(kind: type, value: Any) -> Any:
    if issubclass(kind, FixedBytes):
        return kind(value)
    raise TypeError(f"{kind.__name__} cannot be decoded")


def encode(value: Any) -> bytes:
    """The canonical msgpack bytes of a struct (or of plain lists, dicts, ints, bytes, str).

    Raises:
        BadRequest: a text that is not Unicode, or an integer of more than 64 bits.
    """
    built = msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=_plain)
    try:
        packed: bytes = msgpack.packb(built, use_bin_type=True)
    except (UnicodeEncodeError, OverflowError) as error:
        raise BadRequest(f"a {type(value).__name__} cannot be written", why=str(error)) from error
    return packed


def decode(data: bytes | memoryview, kind: type[T]) -> T:
    """The typed value of canonical msgpack bytes.

    Raises:
        BadRequest: not canonical msgpack, or not of this shape.
    """
    try:
        built = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            ext_hook=_no_extension,
            timestamp=0,
        )
        value = msgspec.convert(built, kind, strict=True, builtin_types=(bytes,), dec_hook=_typed)
        # A record has no keys whose order could differ: what was unpacked tells, and sooner.
        again = encode(value) if isinstance(value, Message) else msgpack.packb(built, use_bin_type=True)
        if again != data:
            raise ValueError("not in canonical form")
        return value
    except BadRequest:
        raise
    except Exception as error:  # msgpack raises many kinds; each means the same here
        name = getattr(kind, "__name__", str(kind))
        raise BadRequest(f"not a valid {name}", why=str(error) or type(error).__name__) from error


def decode_plain(data: bytes) -> Any:
    """Lists, dicts, numbers, bytes and text, without a look at their shape: of what was decoded strictly
    before it was stored."""
    return msgpack.unpackb(data, raw=False)


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} is not allowed")
