"""Heads: what is plain, and what is left to aiohttp."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol.http_heads import Head, may_become_plain, parse_head


def test_a_plain_head_is_read() -> None:
    head = b"POST /v1/x?a=b HTTP/1.1\r\nHost: h:1\r\nHoldfast-Auth:  abc= \r\nContent-Length: 12"
    headers = {"host": "h:1", "holdfast-auth": "abc=", "content-length": "12"}
    assert parse_head(head) == Head("POST", "/v1/x?a=b", headers, 12, False)
    assert parse_head(b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Close") == Head(
        "GET", "/x", {"host": "h", "connection": "Close"}, 0, True
    )


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET /x HTTP/1.0\r\nHost: h",
        b"GET /x HTTP/1.1",
        b"GET  /x HTTP/1.1\r\nHost: h",
        b"GET /x  HTTP/1.1\r\nHost: h",
        b"GET x HTTP/1.1\r\nHost: h",
        b"GET http://h/x HTTP/1.1\r\nHost: h",
        b"GET /%78 HTTP/1.1\r\nHost: h",
        b"GET /x#y HTTP/1.1\r\nHost: h",
        b"GET /\tx HTTP/1.1\r\nHost: h",
        b"GET /x\rHTTP/1.1\r\nHost: h",
        b"G\xc3\x89T /x HTTP/1.1\r\nHost: h",
        b"GET /x HTTP/1.1\r\nHost: h\r\nHost: h",
        b"GET /x HTTP/1.1\r\nHost: h\r\n folded: y",
        b"GET /x HTTP/1.1\r\nHost: h\r\nName : y",
        b"GET /x HTTP/1.1\r\nHost: h\r\nno colon",
        b"GET /x HTTP/1.1\r\nHost: h\r\n: y",
        b"GET /x HTTP/1.1\r\nHost: h\r\nA: b\nC: d",
        b"GET /x HTTP/1.1\r\nHost: h\r\nA: b\rC: d",
        b"GET /x HTTP/1.1\r\nHost: h\r\nA: \0",
        b"GET /x HTTP/1.1\nHost: h",
        b"POST /x HTTP/1.1\r\nHost: h",
        *(
            b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: " + length
            for length in (b"", b"-1", b"+1", b"1 2", b"1,1", b"0x10", b"1_0", b"9" * 19, b"1.0")
        ),
        b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2",
        *(
            b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n" + line
            for line in (
                b"Transfer-Encoding: chunked",
                b"transfer-encoding: identity",
                b"Content-Encoding: gzip",
                b"Expect: 100-continue",
                b"Upgrade: h2c",
                b"Connection: upgrade",
                b"Connection: keep-alive, close",
            )
        ),
    ],
)
def test_all_else_is_left_to_aiohttp(head: bytes) -> None:
    assert parse_head(head) is None


@given(st.binary(max_size=400))
def test_no_head_makes_it_fail(head: bytes) -> None:
    parse_head(head)
    parse_head(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n" + head)


def test_a_plain_head_may_become_plain_from_its_first_byte_on() -> None:
    head = b"POST /v1/x?a=b HTTP/1.1\r\nHost: h:1\r\nContent-Length: 12\r\n\r"
    assert all(may_become_plain(head[:end]) for end in range(1, len(head) + 1))


@pytest.mark.parametrize(
    "begun", [b"\x16\x03\x01", b"\r\n", b" GET /", b"GET / HTTP/1.1\n", b"GET /\r\nA: b\nC"]
)
def test_what_cannot_become_plain_is_seen_early(begun: bytes) -> None:
    assert not may_become_plain(begun)
