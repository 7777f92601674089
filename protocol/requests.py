"""Signed requests: who asks whom for what, proven once.

A request carries one header, ``Holdfast-Auth``: base64url of a msgpack record
with the signer, time, nonce and signature. The signature (kind "request")
covers, each part length-prefixed with u32 BE: receiver id, role, account,
signer id, method, raw target, body digest, time (ms), nonce. What a body digest
covers depends on the receiver: the whole body towards the coordinator; towards
a node the msgpack header and the ticket's hash (docs/FORMAT.md, "Requests").

Receivers keep the nonces of the last window in memory, and refuse what was
signed before they started: a replay needs both clocks and memory to fail.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from holdfast.protocol.codec import Record, decode, encode
from holdfast.protocol.errors import BadRequest, Refused, StaleRequest
from holdfast.protocol.ids import ClusterId, Digest, PublicKey, Signature
from holdfast.protocol.limits import NONCE_BYTES, NONCES_KEPT_MAX, REQUEST_WINDOW_MS
from holdfast.protocol.secret import Secret
from holdfast.protocol.signing import sign, verify

__all__ = ["AUTH_HEADER", "TICKET_HEADER", "Auth", "Gate", "Role", "Signer", "parse_auth"]

AUTH_HEADER: Final = "Holdfast-Auth"
TICKET_HEADER: Final = "Holdfast-Ticket"

Role = Literal["device", "node", "operator", "coordinator"]


class Auth(Record):
    """The header's content. ``account`` is empty unless the role is "device"."""

    version: Literal[1]
    role: Role
    account: bytes
    signer: bytes
    time_ms: int
    nonce: bytes
    signature: Signature

    def header(self) -> str:
        """The header's text."""
        return base64.urlsafe_b64encode(encode(self)).decode()


def parse_auth(header: str | None) -> Auth:
    """Read the header.

    Raises:
        Refused: it is missing.
        BadRequest: it is not one.
    """
    if not header:
        raise Refused("this request must be signed")
    try:
        raw = base64.b64decode(header, altchars=b"-_", validate=True)
    except ValueError as error:
        raise BadRequest(f"the {AUTH_HEADER} header is not base64") from error
    # The decoder also takes '+' and '/', and bits that belong to no byte.
    if base64.urlsafe_b64encode(raw).decode() != header:
        raise BadRequest(f"the {AUTH_HEADER} header is not in its one base64url form")
    auth = decode(raw, Auth)
    if len(auth.nonce) != NONCE_BYTES or len(auth.account) not in (0, 32) or len(auth.signer) > 32:
        raise BadRequest(f"the {AUTH_HEADER} header has fields of wrong length")
    return auth


def _covered(receiver: bytes, auth: Auth | _Unsigned, method: str, target: str, body: Digest) -> bytes:
    parts = (
        receiver,
        auth.role.encode(),
        auth.account,
        auth.signer,
        method.upper().encode(),
        target.encode(),
        body,
        auth.time_ms.to_bytes(8, "big"),
        auth.nonce,
    )
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class _Unsigned(Struct, frozen=True):
    role: Role
    account: bytes
    signer: bytes
    time_ms: int
    nonce: bytes


class Signer(Secret, frozen=True):
    """Somebody who signs requests: a device (of an account), a node or an operator."""

    role: Role
    account: bytes
    id: bytes
    key: Ed25519PrivateKey
    cluster: ClusterId

    def sign(
        self, receiver: bytes, method: str, target: str, body: Digest, *, time_ms: int, nonce: bytes
    ) -> Auth:
        """The auth header's content for one request.

        Args:
            receiver: the coordinator's public key or the node's id.
            target: the raw path and query, as sent.
            body: BLAKE3 of what the receiver says the signature covers.
        """
        plain = _Unsigned(self.role, self.account, self.id, time_ms, nonce)
        signature = sign(self.key, "request", self.cluster, _covered(receiver, plain, method, target, body))
        return Auth(1, self.role, self.account, self.id, time_ms, nonce, signature)


class Gate:
    """A receiver's memory of what it has accepted: one per process.

    Args:
        receiver: the receiver's own id, as signers name it.
        started_ms: wall time when the receiver started; older requests are refused.
    """

    def __init__(self, receiver: bytes, cluster: ClusterId, started_ms: int) -> None:
        self._receiver = receiver
        self._cluster = cluster
        self._started_ms = started_ms
        self._nonces: OrderedDict[tuple[bytes, bytes], int] = OrderedDict()

    def check(
        self, auth: Auth, key: PublicKey, method: str, target: str, body: Digest, *, now_ms: int
    ) -> None:
        """Accept the request once, or say why not.

        Raises:
            StaleRequest: outside the window or before the start; sign again with server_time_ms.
            Refused: the signature does not hold, or the nonce was used.
        """
        if abs(auth.time_ms - now_ms) > REQUEST_WINDOW_MS or auth.time_ms < self._started_ms:
            raise StaleRequest(
                "the request was signed at another time than now",
                why=f"it may be off by {REQUEST_WINDOW_MS // 1000} s, and not older than the server's start",
                server_time_ms=now_ms,
            )
        verify(
            key,
            auth.signature,
            "request",
            self._cluster,
            _covered(self._receiver, auth, method, target, body),
        )
        mark = (auth.signer, auth.nonce)
        if mark in self._nonces:
            raise Refused("this very request was already made", do="Sign a new one.")
        self._forget(now_ms)
        self._nonces[mark] = max(auth.time_ms, now_ms) + REQUEST_WINDOW_MS

    def _forget(self, now_ms: int) -> None:
        while self._nonces:
            mark, until = next(iter(self._nonces.items()))
            # A request is still good at the very end of its window: so its nonce is kept then, too.
            if until >= now_ms and len(self._nonces) < NONCES_KEPT_MAX:
                return
            if until >= now_ms:
                # Full of fresh nonces: refuse to forget, or a replay would pass.
                raise StaleRequest("too many requests in one window", server_time_ms=now_ms)
            del self._nonces[mark]
