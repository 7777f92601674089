"""A second implementation can be written from docs/FORMAT.md alone, and agrees on every vector.

The reader in tests/support/independent/ knows public primitives and the specification's text, and
nothing of Holdfast's code. Where both read every good vector alike and refuse every bad one by the same
name, the page says what the code does.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import msgpack
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from reedsolo import RSCodec
from support import independent
from support.independent import TOPICS, RefusedAs
from support.independent.content import padme_length, parity
from support.independent.primitives import decode, hkdf, hkdf_expand

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
FILES = sorted(VECTORS.glob("*/*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_independent_reader_comes_to_the_same_outcome(path: Path) -> None:
    told = json.loads(path.read_text())
    try:
        made = TOPICS[path.parent.name](told["input"])
    except RefusedAs as refusal:
        assert refusal.name == told["outcome"]
        return
    assert told["outcome"] == "ok"
    # How many characters were corrected is for people, and no part of the format.
    assert made == {name: value for name, value in told["expected"].items() if name != "corrected"}


def test_the_independent_reader_is_independent() -> None:
    modules = sorted(Path(independent.__path__[0]).glob("*.py"))
    assert len(modules) > 3
    for module in modules:
        nodes = list(ast.walk(ast.parse(module.read_text())))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
        strangers = [name for name in names if name.split(".")[0] in ("holdfast", "support")]
        assert not [name for name in strangers if not name.startswith("support.independent")], module


@pytest.mark.parametrize("path", sorted(VECTORS.glob("sealing/stored-*.json")), ids=lambda path: path.stem)
def test_sealing_by_the_specification_gives_the_vector_s_very_bytes(path: Path) -> None:
    told = json.loads(path.read_text())
    given, plain = told["input"], bytes.fromhex(told["expected"]["plain"])
    p = b"\0" + len(plain).to_bytes(4, "big") + plain
    p = p.ljust(padme_length(len(p)), b"\0")
    pid = blake3(p, key=bytes.fromhex(given["k_id"])).digest()
    derived = hkdf_expand(bytes.fromhex(given["k_chunk"]), b"holdfast/v1/chunk\0\1" + pid, 64)
    lead = b"\1" + derived[32:]
    sealed = lead + AESGCM(derived[:32]).encrypt(bytes(12), p, lead)
    assert sealed.hex() == given["sealed"]
    assert pid.hex() == given["pid"]


def test_the_reader_s_own_arithmetic_is_that_of_the_libraries() -> None:
    secret = bytes(range(32))
    library = HKDF(SHA512(), 80, salt=None, info=b"holdfast/v1/label").derive(secret)
    assert hkdf(secret, "label", 80) == library
    for m, column in ((1, b"\x07"), (2, b"\1\2\3\4"), (4, bytes(range(10))), (10, bytes(range(200, 220)))):
        assert column + parity(column, m) == bytes(RSCodec(m, nsize=len(column) + m).encode(column))


def test_examples_in_the_specification_are_right() -> None:
    assert parity(b"\1\2\3\4", 2) == b"\4\0"
    assert [padme_length(n) for n in (0, 5, 9, 100, 1_000, 65_537, 4_194_304)] == [
        *(0, 5, 10, 104, 1_024, 67_584, 4_194_304)
    ]
    claim = bytes.fromhex("81a66368756e6b7391c420" + "07" * 32)
    assert decode("Claim", claim) == {"chunks": [b"\7" * 32]}
    assert msgpack.packb({"chunks": [b"\7" * 32]}) == claim
