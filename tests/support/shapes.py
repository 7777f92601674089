"""Every record and message of the protocol, written as docs/FORMAT.md writes them."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import msgspec

import holdfast.protocol.messages as messages
from holdfast.client import manifest, snapshot_record
from holdfast.protocol import accounts, charter, receipts, requests, signing, tickets
from holdfast.protocol.codec import Message, Record

__all__ = ["all_shapes", "name_of", "written"]

_MODULES = [
    *(
        importlib.import_module(f"{messages.__name__}.{found.name}")
        for found in pkgutil.iter_modules(messages.__path__)
    ),
    *(accounts, charter, receipts, requests, signing, tickets, manifest, snapshot_record),
]
_NAMES = {"_Page": "Page", "PageEntry": "Entry"}


def all_shapes() -> list[type[Any]]:
    """Each struct that is stored, signed or sent, once."""
    found = {
        value
        for module in _MODULES
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Message | Record)
    }
    return sorted(found - {Message, Record}, key=name_of)


def name_of(shape: type[Any]) -> str:
    """Its name in the specification."""
    return _NAMES.get(shape.__name__, shape.__name__)


def written(shape: type[Any]) -> str:
    """``Name = [field: type, ...]`` for a record, ``Name = {field: type, ...}`` for a message."""
    fields = ", ".join(
        f"{field.name}: {_type(msgspec.inspect.type_info(field.type))}"
        for field in msgspec.structs.fields(shape)
    )
    inner = f"{{{fields}}}" if issubclass(shape, Message) else f"[{fields}]"
    return f"{name_of(shape)} = {inner}"


def _type(described: Any) -> str:
    match described:
        case msgspec.inspect.CustomType(cls=kind):
            return f"bin {kind.SIZE}"
        case msgspec.inspect.BytesType():
            return "bin"
        case msgspec.inspect.IntType():
            return "int"
        case msgspec.inspect.StrType():
            return "str"
        case msgspec.inspect.BoolType():
            return "bool"
        case msgspec.inspect.NoneType():
            return "nil"
        case msgspec.inspect.LiteralType(values=values):
            return " | ".join(str(value) if isinstance(value, int) else f'"{value}"' for value in values)
        case msgspec.inspect.ListType(item_type=item):
            return f"[{_type(item)}]"
        case msgspec.inspect.TupleType(item_types=items):
            return f"({', '.join(_type(item) for item in items)})"
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return f"{{{_type(key)}: {_type(value)}}}"
        case msgspec.inspect.StructType(cls=shape):
            return name_of(shape)
        case msgspec.inspect.UnionType(types=types):
            return " | ".join(_type(one) for one in types)
    raise AssertionError(described)
