"""Heads of HTTP/1.1 messages, as a server's front reads and writes them: pure, and strict."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

from holdfast.protocol.handling import Answer

__all__ = ["Head", "answer_head", "may_become_plain", "parse_head"]

_BODILESS: Final = frozenset({"GET", "DELETE"})
_BEYOND_US: Final = frozenset({"transfer-encoding", "content-encoding", "expect", "upgrade", "te", "trailer"})


class Head(NamedTuple):
    """A request's head. ``headers`` by their names in lower case; ``last``: it closes the connection."""

    method: str
    target: str
    headers: Mapping[str, str]
    length: int
    last: bool


def parse_head(head: bytes) -> Head | None:
    """Read a head without its empty line; None where it is not plain, and better left to aiohttp."""
    if not head.isascii():
        return None
    first, *lines = head.decode("ascii").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] != "HTTP/1.1" or not first.isprintable():
        return None
    method, target, _ = words
    if not method.isalpha() or not target.startswith("/") or "%" in target or "#" in target:
        return None
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip(" ")
        if not colon or not _is_token(name) or not value.isprintable() or name in headers:
            return None
        headers[name] = value
    if "host" not in headers or not _BEYOND_US.isdisjoint(headers):
        return None
    length = headers.get("content-length", "0" if method in _BODILESS else "")
    connection = headers.get("connection", "keep-alive").lower()
    if not length.isdecimal() or len(length) > 18 or connection not in ("keep-alive", "close"):
        return None
    return Head(method, target, headers, int(length), connection == "close")


def may_become_plain(begun: bytes) -> bool:
    """Can a plain head begin so? What cannot (TLS, lines that end with LF alone) might never be whole."""
    return begun[:1].isalpha() and begun.count(b"\n") == begun.count(b"\r\n")


def _is_token(name: str) -> bool:
    """Names in use; RFC 9110 allows more characters, and aiohttp takes them."""
    return name.replace("-", "").isalnum()


@lru_cache(maxsize=256)
def _lead(status: int, content_type: str) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:  # a status of ours alone; the phrase may be empty (RFC 9112, 4)
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n".encode()


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    """Made anew each second of the loop's clock."""
    return f"Date: {formatdate(usegmt=True)}\r\n".encode()


def answer_head(answer: Answer, second: int, last: bool) -> bytes:
    """An answer's head with its empty line.

    Args:
        second: on any steady clock; the date is made anew when it changes.
        last: the connection is closed after it.
    """
    end = "\r\nConnection: close\r\n\r\n" if last else "\r\n\r\n"
    length = f"Content-Length: {answer.size}{end}".encode()
    return b"".join((_lead(answer.status, answer.content_type), _date(second), length))
