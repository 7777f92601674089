"""One spelling for every value; anything else is refused, whatever it is."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import holdfast.protocol.messages as messages
from holdfast.protocol.codec import Message, Record, decode, encode
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.ids import ChunkId, NodeId
from holdfast.protocol.messages.uploads import Claim, ReportEntry
from holdfast.protocol.receipts import Receipt

for module in pkgutil.iter_modules(messages.__path__):
    importlib.import_module(f"{messages.__name__}.{module.name}")
for name in ("accounts", "charter", "receipts", "requests", "signing", "tickets"):
    importlib.import_module(f"holdfast.protocol.{name}")
for name in ("home", "joining", "manifest", "snapshot_record"):
    importlib.import_module(f"holdfast.client.{name}")


def shapes(kind: Any) -> list[Any]:
    return [below for child in kind.__subclasses__() for below in (child, *shapes(child))]


SHAPES = sorted({*shapes(Message), *shapes(Record)}, key=lambda shape: f"{shape.__module__}.{shape.__name__}")


def a_value(described: Any) -> Any:
    """Some value of a field's type, as msgspec describes it."""
    match described:
        case msgspec.inspect.CustomType(cls=kind):
            return kind(b"\7" * kind.SIZE)
        case msgspec.inspect.IntType():
            return 3
        case msgspec.inspect.StrType():
            return "text"
        case msgspec.inspect.BytesType():
            return b"bytes"
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.LiteralType(values=values):
            return values[0]
        case msgspec.inspect.ListType(item_type=item):
            return [a_value(item)]
        case msgspec.inspect.TupleType(item_types=items):
            return tuple(a_value(item) for item in items)
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return {a_value(key): a_value(value)}
        case msgspec.inspect.StructType(cls=shape):
            return made(shape)
        case msgspec.inspect.UnionType(types=types):
            return a_value(next(one for one in types if not isinstance(one, msgspec.inspect.NoneType)))
    raise AssertionError(described)


def made(shape: Any) -> Any:
    """One value of a message or record."""
    return shape(
        **{
            field.name: a_value(msgspec.inspect.type_info(field.type))
            for field in msgspec.structs.fields(shape)
        }
    )


def test_all_shapes_are_here() -> None:
    assert len(SHAPES) > 40


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_message_and_record_comes_back_and_has_one_spelling(shape: Any) -> None:
    value = made(shape)
    raw = encode(value)
    assert decode(raw, shape) == value
    plain = msgpack.unpackb(raw)
    if isinstance(plain, dict):
        assert list(plain) == [field.name for field in msgspec.structs.fields(shape)]
        others = [{**plain, "more": 1}, dict(list(plain.items())[1:]) if plain else {"x": 1}]
    else:
        others = [[*plain, 1], plain[:-1]]
    for other in others:
        if msgspec.structs.fields(shape) or other:
            required = [f for f in msgspec.structs.fields(shape) if f.required]
            if isinstance(other, dict) and len(other) < len(plain) and len(required) < len(plain):
                continue  # a field with a default may be left out
            with pytest.raises(BadRequest):
                decode(msgpack.packb(other), shape)
    for cut in range(0, len(raw), max(1, len(raw) // 12)):
        with pytest.raises(BadRequest):
            decode(raw[:cut], shape)
    with pytest.raises(BadRequest):
        decode(raw + b"\xc0", shape)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_a_flipped_bit_gives_another_value_or_a_refusal_never_a_crash(at: int, bit: int) -> None:
    raw = bytearray(encode(made(Receipt)))
    raw[at % len(raw)] ^= 1 << bit
    try:
        value = decode(bytes(raw), Receipt)
    except HoldfastError:
        return
    assert encode(value) == bytes(raw)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_canonical(raw: bytes) -> None:
    for shape in (Claim, Receipt, ReportEntry):
        try:
            value = decode(raw, shape)
        except BadRequest:
            continue
        assert encode(value) == raw


@pytest.mark.parametrize(
    "raw",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x81\xa1x" * 50_000,
    ],
    ids=["array", "bytes", "map", "text", "nested arrays", "nested maps"],
)
def test_a_huge_claim_costs_nothing(raw: bytes) -> None:
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(BadRequest):
        decode(raw, Claim)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 2**20


def test_ids_of_one_kind_are_not_taken_for_another() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        NodeId(ChunkId(b"\7" * 32))
    with pytest.raises(ValueError, match="wants bytes"):
        NodeId("7" * 16)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hex"):
        NodeId.from_hex("AB" * 16)
    assert NodeId(b"\xab" * 16).short == "abababab"
