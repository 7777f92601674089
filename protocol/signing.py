"""Ed25519 signatures, each bound to what it is for and to one cluster.

Every signature in Holdfast covers ``"holdfast/v1/<kind>" 0x00 || cluster id ||
payload``, where the payload is the exact bytes sent or stored (docs/FORMAT.md,
"Signatures"): a ticket can never be taken for a receipt, and nothing signed for
one cluster holds in another. Public keys that are not canonical, or of small
order (for which signatures verify over anything), are refused before use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from holdfast.protocol.codec import Record
from holdfast.protocol.errors import BadRequest, Refused
from holdfast.protocol.ids import AccountId, ClusterId, DeviceId, KeyId, NodeId, PublicKey, Signature

__all__ = [
    "KINDS",
    "Signed",
    "account_id",
    "check_public_key",
    "device_id",
    "generate_signing_key",
    "key_id",
    "load_signing_key",
    "node_id",
    "prefer_libsodium",
    "public_key",
    "sign",
    "verify",
]

KINDS: Final = frozenset(
    {
        "account",
        "audited",
        "charter",
        "device-list",
        "deletion-order",
        "enrol",
        "head",
        "map",
        "pull-order",
        "rebuilt",
        "receipt",
        "request",
        "sweep",
        "ticket",
        "witness",
    }
)

_KEYS_KEPT: Final = 1024
"""Public keys checked and loaded lately: the same few sign request after request."""
_P: Final = 2**255 - 19
# The y coordinates of the eight points of small order on edwards25519
# (RFC 8032; the list is that of libsodium's ge25519_has_small_order).
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)


class Signed(Record):
    """The exact bytes somebody signed, and the signature over them."""

    payload: bytes
    signature: Signature


@lru_cache(maxsize=_KEYS_KEPT)
def check_public_key(raw: PublicKey) -> Ed25519PublicKey:
    """The usable key.

    Raises:
        BadRequest: y is not reduced modulo 2^255 - 19, or the point has small
            order. (For a y that no point has, no signature holds.)
    """
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    if y >= _P:
        raise BadRequest("an Ed25519 public key is not in canonical form")
    if y in _SMALL_ORDER_Y:
        raise BadRequest("an Ed25519 public key has small order")
    try:
        return Ed25519PublicKey.from_public_bytes(bytes(raw))
    except ValueError as error:
        raise BadRequest("not an Ed25519 public key") from error


def _covered(kind: str, cluster: ClusterId, payload: bytes) -> bytes:
    assert kind in KINDS, kind
    return b"holdfast/v1/" + kind.encode() + b"\0" + cluster + payload


def sign(key: Ed25519PrivateKey, kind: str, cluster: ClusterId, payload: bytes) -> Signature:
    """Sign ``payload`` as a ``kind`` for one cluster."""
    return Signature(key.sign(_covered(kind, cluster, payload)))


def verify(signer: PublicKey, signature: Signature, kind: str, cluster: ClusterId, payload: bytes) -> None:
    """Check a signature over the exact bytes received.

    Raises:
        Refused: it does not hold.
        BadRequest: the public key is not usable.
    """
    usable, covered = check_public_key(signer), _covered(kind, cluster, payload)
    if _libsodium is not None:
        holds = _libsodium(signer, signature, covered)
    else:
        holds = _openssl(usable, signature, covered)
    if not holds:
        raise Refused(f"the {kind} signature does not hold")


def _openssl(usable: Ed25519PublicKey, signature: Signature, covered: bytes) -> bool:
    try:
        usable.verify(signature, covered)
    except InvalidSignature:
        return False
    return True


_libsodium: Callable[[bytes, bytes, bytes], bool] | None = None


def prefer_libsodium() -> None:
    """From now on this process verifies with libsodium instead of OpenSSL: for servers, that do it all day.

    It takes half the time, and 20 ms to load, which is more than a command verifies. Both refuse what is not
    canonical; of signatures that hold, libsodium refuses one more kind, whose R is a point of small order,
    and which nobody can make who signs as RFC 8032 says.
    """
    global _libsodium
    from holdfast.protocol.signing_libsodium import verify_detached

    _libsodium = verify_detached


def generate_signing_key(seed: bytes) -> Ed25519PrivateKey:
    """The Ed25519 key of a 32-byte seed (drawn by the caller's random source)."""
    return Ed25519PrivateKey.from_private_bytes(seed)


def load_signing_key(seed: bytes) -> Ed25519PrivateKey:
    """The key of stored seed bytes; raises BadRequest on a wrong length."""
    try:
        return Ed25519PrivateKey.from_private_bytes(seed)
    except ValueError as error:
        raise BadRequest("not an Ed25519 key file", why=str(error)) from error


def public_key(key: Ed25519PrivateKey) -> PublicKey:
    """Its raw public key."""
    return PublicKey(key.public_key().public_bytes_raw())


def _named(context: str, key: PublicKey, length: int) -> bytes:
    return blake3(key, derive_key_context=context).digest(length=length)


def account_id(root: PublicKey) -> AccountId:
    """The account of a root public key."""
    return AccountId(_named("holdfast v1 account id", root, 32))


def device_id(key: PublicKey) -> DeviceId:
    """The device of a signing key."""
    return DeviceId(_named("holdfast v1 device id", key, 16))


def node_id(key: PublicKey) -> NodeId:
    """The node of a signing key."""
    return NodeId(_named("holdfast v1 node id", key, 16))


def key_id(key: PublicKey) -> KeyId:
    """Which key signed: 8 bytes, a hint, never a proof."""
    return KeyId(_named("holdfast v1 key id", key, 8))
