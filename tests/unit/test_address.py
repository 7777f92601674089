"""Addresses and tokens: one form in text, everything else refused with a next step."""

from __future__ import annotations

import pytest

from holdfast.protocol.address import Address, Token, is_loopback, parse_url
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import ClusterId

CLUSTER = ClusterId(bytes(range(32)))


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:7700", "http://127.0.0.1:7700"),
        ("http://localhost:1/", "http://localhost:1"),
        ("https://backup.example", "https://backup.example"),
        ("http://[::1]:7700", "http://[::1]:7700"),
    ],
)
def test_urls_have_one_normal_form(text: str, url: str) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    ["", "ftp://x", "http://", "http://a/b", "http://a?x", "http://a:99999", "http://u:p@a", "http://a:b"],
)
def test_what_is_not_a_server_s_url_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_url(text)


def test_an_address_carries_its_cluster() -> None:
    address = Address("http://127.0.0.1:7700", CLUSTER)
    assert Address.parse(str(address)) == address
    assert Address.parse("http://127.0.0.1:7700").cluster is None


@pytest.mark.parametrize("text", ["http://a:1#", "http://a:1#abc", f"http://a:1#{CLUSTER.hex().upper()}"])
def test_a_wrong_cluster_id_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Address.parse(text)


def test_a_token_survives_its_text_and_hides_its_secret() -> None:
    token = Token(Address("http://127.0.0.1:7700", CLUSTER), b"sixteen bytes!!!")
    assert Token.parse(token.text() + "\n") == token
    assert "sixteen" not in repr(token)
    assert token.text().rsplit("#", 1)[1] not in repr(token)


@pytest.mark.parametrize(
    "text", ["", "x", f"http://a:1#{CLUSTER}", f"http://a:1#{CLUSTER}#short", "http://a:1#" + "A" * 26]
)
def test_what_is_not_a_token_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(BadRequest) as told:
        Token.parse(text)
    assert "A" * 26 not in str(told.value)


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("example.org", False),
    ],
)
def test_loopback_is_known_exactly(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside
