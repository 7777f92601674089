"""The cryptography that each command needs, without what its public names would load.

``X25519PrivateKey.from_private_bytes`` loads RSA and the other elliptic curves before it calls the function
named here, ``ciphers.aead`` every cipher and mode that nobody uses here, and ``hmac`` all of hashlib: a
tenth of what a command takes to start (docs/performance.md). These are the functions themselves, from
where the public modules have them. A version of a library that keeps them elsewhere costs that
time, and nothing else: then the public names are taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hmac import compare_digest

    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    box_key_of = X25519PrivateKey.from_private_bytes
else:
    try:
        from _operator import _compare_digest as compare_digest
    except ImportError:
        from hmac import compare_digest
    try:
        from cryptography.hazmat.bindings._rust import openssl

        AESGCM = openssl.aead.AESGCM
        box_key_of = openssl.x25519.from_private_bytes
    except (ImportError, AttributeError):
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        box_key_of = X25519PrivateKey.from_private_bytes

__all__ = ["AESGCM", "box_key_of", "compare_digest"]
