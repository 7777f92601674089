"""How a cluster is named in text: ``URL#<cluster id>``, and one-time tokens.

The id after the ``#`` is what makes first contact safe: whoever answers at the
URL must prove to be that cluster. A token is an address with a secret behind a
second ``#``; it is given by file or prompt, never as an argument.
"""

from __future__ import annotations

import base64
import re
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import ClusterId
from holdfast.protocol.limits import TOKEN_SECRET_BYTES, URL_BYTES_MAX
from holdfast.protocol.secret import Secret

__all__ = ["Address", "Token", "is_loopback", "parse_url"]

_SECRET: Final = re.compile(r"[A-Z2-7]{26}")


def parse_url(text: str) -> str:
    """A base URL in one normal form (no trailing slash, path, query or fragment).

    Raises:
        BadRequest: not an http(s) URL of host and port.
    """
    text = text.strip()
    if "://" not in text:
        text = f"http://{text}"
    try:
        split = urlsplit(text)
        port = split.port
    except ValueError as error:
        raise BadRequest(f"{text!r} is not a URL", why=str(error)) from None
    if (
        len(text.encode()) > URL_BYTES_MAX
        or split.scheme not in ("http", "https")
        or not split.hostname
        or split.path not in ("", "/")
        or split.query
        or split.fragment
        or split.username is not None
    ):
        raise BadRequest(f"{text!r} is not the URL of a server", do="Write it like http://127.0.0.1:7700.")
    host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
    return f"{split.scheme}://{host}" + (f":{port}" if port is not None else "")


def is_loopback(host: str) -> bool:
    """Is this host name or address on this machine's loopback?"""
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Address(Struct, frozen=True):
    """A cluster's URL and, where it is known, its id."""

    url: str
    cluster: ClusterId | None = None

    def __str__(self) -> str:
        return f"{self.url}#{self.cluster}" if self.cluster else self.url

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``URL`` or ``URL#<cluster id>``; raises BadRequest."""
        url, mark, cluster = text.strip().partition("#")
        if not mark:
            return cls(parse_url(url))
        try:
            return cls(parse_url(url), ClusterId.from_hex(cluster))
        except ValueError as error:
            raise BadRequest(f"{text!r} is not a cluster's address", why=str(error)) from None


class Token(Secret, frozen=True):
    """A one-time secret for one cluster. It has no printable form but :meth:`text`."""

    address: Address
    secret: bytes

    def __repr__(self) -> str:
        return f"Token({self.address}, secret hidden)"

    def text(self) -> str:
        """``URL#<cluster id>#<26 base32 characters>``."""
        return f"{self.address}#{base64.b32encode(self.secret).decode().rstrip('=')}"

    @classmethod
    def parse(cls, text: str) -> Token:
        """Read a token's text; raises BadRequest (never repeating the secret)."""
        address, _, secret = text.strip().rpartition("#")
        if not address or not _SECRET.fullmatch(secret):
            raise BadRequest(
                "this is not a token",
                why="a token is URL#<cluster id>#<26 characters>",
                do="Ask the operator for a new one: "
                "'holdfast admin invite' or 'holdfast admin node add-token'.",
            )
        parsed = Address.parse(address)
        if parsed.cluster is None:
            raise BadRequest("this token does not name its cluster")
        raw = base64.b32decode(secret + "======")
        if len(raw) != TOKEN_SECRET_BYTES:
            raise BadRequest("this is not a token", why="its secret has the wrong length")
        return cls(parsed, raw)
