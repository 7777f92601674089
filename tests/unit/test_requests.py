"""A signed request is accepted once, by the one it was meant for, at the time it was made."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from holdfast.protocol import signing
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import BadRequest, Refused, StaleRequest
from holdfast.protocol.ids import ClusterId, Digest
from holdfast.protocol.limits import REQUEST_WINDOW_MS
from holdfast.protocol.requests import Auth, Gate, Signer, parse_auth
from holdfast.protocol.stripes import digest_of

CLUSTER = ClusterId(b"c" * 32)
KEY = signing.generate_signing_key(b"k" * 32)
PUBLIC = signing.public_key(KEY)
SIGNER = Signer("device", b"a" * 32, signing.device_id(PUBLIC), KEY, CLUSTER)
BODY = digest_of(b"body")
RECEIVER = b"r" * 32
NOW = 1_000_000_000


def made(**other: object) -> Auth:
    values: dict[str, object] = {
        "receiver": RECEIVER,
        "method": "POST",
        "target": "/v1/claim?x=1",
        "body": BODY,
        "time_ms": NOW,
        "nonce": b"n" * 16,
    }
    values.update(other)
    return SIGNER.sign(
        values.pop("receiver"),  # type: ignore[arg-type]
        values.pop("method"),  # type: ignore[arg-type]
        values.pop("target"),  # type: ignore[arg-type]
        values.pop("body"),  # type: ignore[arg-type]
        **values,  # type: ignore[arg-type]
    )


def gate() -> Gate:
    return Gate(RECEIVER, CLUSTER, started_ms=NOW - 1000)


def check(auth: Auth, at: Gate | None = None, *, now_ms: int = NOW, body: Digest = BODY) -> None:
    (at or gate()).check(auth, PUBLIC, "POST", "/v1/claim?x=1", body, now_ms=now_ms)


def test_a_good_request_passes_once() -> None:
    one = gate()
    check(made(), one)
    with pytest.raises(Refused, match="already made"):
        check(made(), one)


@pytest.mark.parametrize(
    "other",
    [
        {"receiver": b"other node"},
        {"method": "PUT"},
        {"target": "/v1/claim?x=2"},
        {"body": digest_of(b"other body")},
    ],
)
def test_a_request_holds_for_nothing_else_than_what_was_signed(other: dict[str, object]) -> None:
    with pytest.raises(Refused):
        check(made(**other))


@pytest.mark.parametrize("field", ["role", "account", "signer", "time_ms", "nonce"])
def test_no_field_of_the_header_can_be_exchanged(field: str) -> None:
    other = {
        "role": "node",
        "account": b"b" * 32,
        "signer": b"s" * 16,
        "time_ms": NOW + 1,
        "nonce": b"m" * 16,
    }
    with pytest.raises(Refused):
        check(msgspec.structs.replace(made(), **{field: other[field]}))


def test_a_request_of_another_cluster_is_refused() -> None:
    elsewhere = replace(SIGNER, cluster=ClusterId(b"d" * 32))
    with pytest.raises(Refused):
        check(elsewhere.sign(RECEIVER, "POST", "/v1/claim?x=1", BODY, time_ms=NOW, nonce=b"n" * 16))


@pytest.mark.parametrize("off", [-REQUEST_WINDOW_MS - 1, REQUEST_WINDOW_MS + 1])
def test_a_clock_too_far_off_is_told_the_server_s_time(off: int) -> None:
    with pytest.raises(StaleRequest) as told:
        check(made(time_ms=NOW + off))
    assert told.value.details["server_time_ms"] == NOW


def test_what_was_signed_before_the_server_started_is_refused() -> None:
    with pytest.raises(StaleRequest):
        check(made(time_ms=NOW - 1001))


def test_a_nonce_is_remembered_as_long_as_its_request_could_be_replayed() -> None:
    one = gate()
    check(made(time_ms=NOW + REQUEST_WINDOW_MS), one)
    check(made(nonce=b"x" * 16, time_ms=NOW + REQUEST_WINDOW_MS), one, now_ms=NOW + REQUEST_WINDOW_MS)
    with pytest.raises(Refused, match="already made"):
        check(made(time_ms=NOW + REQUEST_WINDOW_MS), one, now_ms=NOW + 2 * REQUEST_WINDOW_MS - 1)


def test_the_header_survives_its_text_form() -> None:
    auth = made()
    assert parse_auth(auth.header()) == auth


@pytest.mark.parametrize("header", ["", None])
def test_an_unsigned_request_is_refused(header: str | None) -> None:
    with pytest.raises(Refused, match="must be signed"):
        parse_auth(header)


@pytest.mark.parametrize("header", ["!!!!", "AAAA", "kw=="])
def test_a_header_of_another_form_is_refused(header: str) -> None:
    with pytest.raises(BadRequest):
        parse_auth(header)


def test_fixed_time_moves_only_when_told() -> None:
    source = FixedSource()
    before = source.now_ms()
    source.advance(1.5)
    assert source.now_ms() == before + 1500
    assert source.random_bytes(8) != source.random_bytes(8)
