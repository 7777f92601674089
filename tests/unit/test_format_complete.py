"""docs/FORMAT.md leaves nothing out: each field, path, error and bound of the code is there, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.shapes import all_shapes, name_of, written

from holdfast.coordinator.service.routes import make_routes
from holdfast.node.service.routes import HANDLERS
from holdfast.node.service.routes import make_routes as make_node_routes
from holdfast.protocol import limits
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.handling import Routes
from holdfast.protocol.signing import KINDS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "FORMAT.md").read_text()
FLAT = " ".join(TEXT.split())


def section(number: int) -> str:
    found = re.search(rf"^## {number} .*?(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, number
    return found[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row but heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if row[0] not in ("name", "method and path", "what", "---", "part", "field")]


@pytest.mark.parametrize("shape", all_shapes(), ids=name_of)
def test_every_record_and_message_is_written_out_field_by_field(shape: Any) -> None:
    told = re.sub(r" += ", " = ", FLAT)
    assert written(shape) in told


def test_no_record_is_specified_that_is_not_there() -> None:
    told = set(re.findall(r"^ +([A-Z]\w+) += [\[{]", TEXT, re.MULTILINE))
    assert told == {name_of(shape) for shape in all_shapes()}


def served(routes: Routes) -> set[str]:
    return {f"{route.method} {route.path}" for route in routes}


def test_every_path_is_in_its_table_and_no_other() -> None:
    to_coordinator, to_node = section(17).split("To a node:")
    node = make_node_routes(
        [object.__new__(kind) for kind in HANDLERS]
    )  # routes need nothing of what they serve
    for text, routes in ((to_coordinator, make_routes(None)), (to_node, node)):  # type: ignore[arg-type]
        told = {row[0] for row in rows(text)}
        assert told == served(routes)


def kinds_of(kind: type[HoldfastError]) -> list[type[HoldfastError]]:
    own = [child for child in kind.__subclasses__() if child.__module__ == kind.__module__]
    return [kind, *(below for child in own for below in kinds_of(child))]


def test_every_error_has_its_code_and_status() -> None:
    told = {tuple(row[:3]) for row in rows(section(20))}
    assert told == {(f"`{k.__name__}`", f"`{k.code}`", str(k.http_status)) for k in kinds_of(HoldfastError)}


def test_every_refusal_named_is_an_error_that_there_is() -> None:
    names = {kind.__name__ for kind in kinds_of(HoldfastError)}
    refusals = {cell for row in rows(TEXT) for cell in re.findall(r"`([A-Z]\w+)`", row[-1])}
    assert refusals <= names | {"Signed"}, refusals - names
    in_tables = {word for row in rows(section(17)) for word in re.findall(r"\b[A-Z]\w+\b", row[3])}
    assert in_tables <= names, in_tables - names


def test_every_bound_is_the_code_s() -> None:
    told = {row[0].strip("`"): int(row[1].replace(",", "")) for row in rows(section(19))}
    assert told == {name: getattr(limits, name) for name in told}
    local = {
        # How this implementation talks, waits and cuts: no reader could tell.
        *("KIB", "MIB", "CHUNK_PLAIN_BYTES_MAX", "SEAL_OVERHEAD_BYTES", "NONCES_KEPT_MAX"),
        *("TOKEN_LIFETIME_S_DEFAULT", "DELETION_HOLD_S_DEFAULT"),
        *(
            "CONNECT_TIMEOUT_S",
            "REQUEST_TIMEOUT_S",
            "READ_IDLE_TIMEOUT_S",
            "BODY_GRACE_S",
            "BODY_BYTES_PER_S_MIN",
            "CONNECTION_KEPT_S",
            "ANSWER_HEAD_BYTES_MAX",
            "REQUEST_HEAD_BYTES_MAX",
            "FRONT_IDLE_S",
            "UNWANTED_BODY_S",
            "SERVER_STOPS_WITHIN_S",
            "CONNECTIONS_MAX",
            "CONNECTIONS_MIN",
            "DESCRIPTORS_RESERVED",
            "OTHERS_PART",
            "CROWDED_SAID_S",
            "STRANGERS_PART",
            "STALLED_S",
            "STALLED_LOOKS_MAX",
            "PROGRESS_NOTED_S",
            "BODY_ROOM_BYTES",
            "LARGE_BODIES_BYTES_MAX",
            "PORTS_MAX",
            "LASTING_PORTS_FROM",
            "LASTING_PORTS_TRIED_MAX",
            "PORT_AWAITED_S",
            "PORT_LOOK_S",
        ),
    }
    assert {name for name in vars(limits) if name.isupper()} == set(told) | local


def test_every_kind_of_signature_is_named() -> None:
    sentence = re.search(r"with kind one of (.*?)\. So", FLAT)
    assert sentence
    assert set(re.findall(r"`([a-z-]+)`", sentence[1])) == KINDS
