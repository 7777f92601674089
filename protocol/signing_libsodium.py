"""Ed25519 by libsodium, in half of OpenSSL's time: see :func:`holdfast.protocol.signing.prefer_libsodium`."""

from __future__ import annotations

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

__all__ = ["verify_detached"]


def verify_detached(key: bytes, signature: bytes, message: bytes) -> bool:
    """Does a signature of 64 bytes hold under a public key of 32?"""
    try:
        crypto_sign_open(signature + message, key)
    except BadSignatureError:
        return False
    return True
