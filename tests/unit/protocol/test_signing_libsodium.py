"""Servers verify with libsodium, everybody else with OpenSSL: both must say the same of every signature."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol import signing
from holdfast.protocol.errors import BadRequest, Refused
from holdfast.protocol.ids import ClusterId, PublicKey, Signature

CLUSTER = ClusterId(b"c" * 32)
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the group (RFC 8032): S and S + ORDER would sign the same."""


def says(
    signer: PublicKey,
    signature: Signature,
    payload: bytes,
    kind: str = "request",
    cluster: ClusterId = CLUSTER,
) -> str:
    try:
        signing.verify(signer, signature, kind, cluster, payload)
    except (Refused, BadRequest) as error:
        return type(error).__name__
    return "holds"


@pytest.fixture
def both() -> Iterator[Callable[[PublicKey, Signature, bytes], str]]:
    """What both say; they must not differ."""
    before = signing._libsodium

    def agreed(signer: PublicKey, signature: Signature, payload: bytes) -> str:
        signing._libsodium = None
        by_openssl = says(signer, signature, payload)
        signing.prefer_libsodium()
        assert signing._libsodium is not None
        assert says(signer, signature, payload) == by_openssl
        return by_openssl

    yield agreed
    signing._libsodium = before


Both = Callable[[PublicKey, Signature, bytes], str]
VECTORS = sorted((Path(__file__).resolve().parents[2] / "vectors" / "signature").glob("*.json"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda path: path.stem)
def test_libsodium_says_what_the_vectors_say(vector: Path) -> None:
    told = json.loads(vector.read_text())
    given = {name: bytes.fromhex(told["input"][name]) for name in ("public_key", "signature", "payload")}
    cluster = ClusterId(bytes.fromhex(told["input"]["cluster"]))
    before = signing._libsodium
    signing.prefer_libsodium()
    try:
        said = says(
            PublicKey(given["public_key"]),
            Signature(given["signature"]),
            given["payload"],
            told["input"]["kind"],
            cluster,
        )
    finally:
        signing._libsodium = before
    assert said == {"ok": "holds"}.get(told["outcome"], told["outcome"])


@given(
    st.binary(min_size=32, max_size=32), st.binary(max_size=2000), st.integers(0, 511), st.integers(0, 255)
)
def test_both_say_the_same(seed: bytes, payload: bytes, bit: int, key_bit: int) -> None:
    before = signing._libsodium
    try:
        key = signing.generate_signing_key(seed)
        public, good = signing.public_key(key), signing.sign(key, "request", CLUSTER, payload)
        flipped = Signature((int.from_bytes(good, "big") ^ (1 << bit)).to_bytes(64, "big"))
        other = PublicKey((int.from_bytes(public, "big") ^ (1 << key_bit)).to_bytes(32, "big"))
        told = []
        for prefer in (False, True):
            signing._libsodium = None
            if prefer:
                signing.prefer_libsodium()
            told.append(
                [
                    says(public, good, payload),
                    says(public, flipped, payload),
                    says(public, good, payload + b"x"),
                    says(other, good, payload),
                ]
            )
        assert told[0] == told[1]
        assert told[0][:3] == ["holds", "Refused", "Refused"]
    finally:
        signing._libsodium = before


def test_a_signature_has_one_form(both: Both) -> None:
    key = signing.generate_signing_key(b"k" * 32)
    public, good = signing.public_key(key), signing.sign(key, "request", CLUSTER, b"payload")
    assert both(public, good, b"payload") == "holds"
    again = int.from_bytes(good[32:], "little") + ORDER
    assert both(public, Signature(good[:32] + again.to_bytes(32, "little")), b"payload") == "Refused"


@pytest.mark.parametrize("y", [0, 1, signing._P - 1, signing._P, signing._P + 1, 2**255 - 1])
def test_keys_that_nobody_may_use_are_refused_alike(both: Both, y: int) -> None:
    for sign in (0, 1 << 255):
        key = PublicKey((y | sign).to_bytes(32, "little"))
        assert both(key, Signature(b"\1" + b"\0" * 63), b"anything") in ("BadRequest", "Refused")
