"""A reader of Holdfast's formats written from docs/FORMAT.md alone: encoding, signatures, keys.

Nothing of Holdfast is imported here, only public primitives; the shapes of records and messages are read
out of the specification's own text. The other modules of this package read the rest with it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import msgpack
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT = Path(__file__).resolve().parents[3] / "docs" / "FORMAT.md"
Values = dict[str, Any]


class RefusedAs(Exception):
    """What the specification calls a refusal, by the error's name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def refuse(name: str) -> NoReturn:
    raise RefusedAs(name)


def need(condition: object, name: str) -> None:
    if not condition:
        refuse(name)


def raw(given: Values, name: str) -> bytes:
    return bytes.fromhex(given[name])


def digest(content: bytes, length: int = 32) -> bytes:
    return blake3(content).digest(length=length)


# Section 2: the shapes, out of the text


@cache
def definitions() -> dict[str, list[str]]:
    """Name -> the tokens of its shape."""
    text, found = FORMAT.read_text(), {}
    for match in re.finditer(r"^ {4}([A-Z]\w+) += (?=[\[{])", text, re.MULTILINE):
        tokens: list[str] = []
        for token in re.finditer(r'"[^"]*"|\w+|[\[\](){}:,|]', text[match.end() :]):
            tokens.append(token[0])
            depth = sum(t in "[({" for t in tokens) - sum(t in "])}" for t in tokens)
            if depth == 0:
                break
        found[match[1]] = tokens
    return found


def decode(name: str, raw: bytes) -> Values:
    """The fields of a record or message; BadRequest if it is none."""
    try:
        value = msgpack.unpackb(raw, strict_map_key=True, ext_hook=lambda *_: 1 / 0)
        need(msgpack.packb(value) == raw, "BadRequest")
        made: Values = _shaped(name, value)
        return made
    except RefusedAs:
        raise
    except Exception:
        refuse("BadRequest")


def _shaped(name: str, value: Any) -> Values:
    tokens = definitions()[name]
    is_map = tokens[0] == "{"
    fields = [(part[0], part[2:]) for part in _split(tokens[1:-1], ",") if part]
    need(isinstance(value, dict if is_map else list), "BadRequest")
    if is_map:
        need(list(value) == [field for field, _ in fields], "BadRequest")
        value = list(value.values())
    need(len(value) == len(fields), "BadRequest")
    return {field: _typed(kind, one) for (field, kind), one in zip(fields, value, strict=True)}


def _split(tokens: list[str], mark: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    opened = 0
    for token in tokens:
        opened += (token in "[({") - (token in "])}")
        if token == mark and opened == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _typed(tokens: list[str], value: Any) -> Any:
    choices = _split(tokens, "|")
    if len(choices) > 1:
        for choice in choices:
            try:
                return _typed(choice, value)
            except RefusedAs:
                continue
        refuse("BadRequest")
    first = tokens[0]
    if first in ("[", "("):
        need(isinstance(value, list), "BadRequest")
        inner = _split(tokens[1:-1], ",")
        if first == "[":
            return [_typed(inner[0], one) for one in value]
        need(len(inner) == len(value), "BadRequest")
        return tuple(_typed(kind, one) for kind, one in zip(inner, value, strict=True))
    if first == "{":
        need(isinstance(value, dict), "BadRequest")
        return {key: _typed(tokens[3:-1], one) for key, one in value.items()}
    if first == "bin":
        need(isinstance(value, bytes), "BadRequest")
        need(len(tokens) == 1 or len(value) == int(tokens[1]), "BadRequest")
    elif first in ("int", "str", "bool", "nil"):
        kind = {"int": int, "str": str, "bool": bool, "nil": type(None)}[first]
        need(type(value) is kind, "BadRequest")
    elif first.isdigit() or first.startswith('"'):
        wanted = int(first) if first.isdigit() else first.strip('"')
        need(type(value) is type(wanted) and value == wanted, "BadRequest")
    else:
        return _shaped(first, value)
    return value


# Sections 1 and 8: keys


def hkdf_expand(key: bytes, info: bytes, length: int, hash_name: str = "sha512") -> bytes:
    made, last, count = b"", b"", 1
    while len(made) < length:
        last = hmac.digest(key, last + info + bytes([count]), hash_name)
        made, count = made + last, count + 1
    return made[:length]


def hkdf(secret: bytes, label: str, length: int) -> bytes:
    extracted = hmac.digest(bytes(64), secret, hashlib.sha512)
    return hkdf_expand(extracted, b"holdfast/v1/" + label.encode(), length)


def _labeled_extract(suite: bytes, hash_name: str, salt: bytes, label: bytes, secret: bytes) -> bytes:
    salt = salt or bytes(hashlib.new(hash_name).digest_size)
    return hmac.digest(salt, b"HPKE-v1" + suite + label + secret, hash_name)


def _labeled_expand(
    suite: bytes, hash_name: str, key: bytes, label: bytes, info: bytes, length: int
) -> bytes:
    full = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hkdf_expand(key, full, length, hash_name)


def hpke_open(private: bytes, sealed: bytes, info: bytes, name: str) -> bytes:
    """RFC 9180, sections 4.1, 5.1 and 6.1, written out."""
    key, enc = X25519PrivateKey.from_private_bytes(private), sealed[:32]
    try:
        shared = key.exchange(X25519PublicKey.from_public_bytes(enc))
    except ValueError:
        refuse(name)
    kem = b"KEM" + (0x0020).to_bytes(2, "big")
    context = enc + key.public_key().public_bytes_raw()
    extracted = _labeled_extract(kem, "sha256", b"", b"eae_prk", shared)
    secret = _labeled_expand(kem, "sha256", extracted, b"shared_secret", context, 32)
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x0020, 0x0003, 0x0002))
    psk_id_hash = _labeled_extract(suite, "sha512", b"", b"psk_id_hash", b"")
    info_hash = _labeled_extract(suite, "sha512", b"", b"info_hash", info)
    schedule = b"\0" + psk_id_hash + info_hash
    scheduled = _labeled_extract(suite, "sha512", secret, b"secret", b"")
    aead_key = _labeled_expand(suite, "sha512", scheduled, b"key", schedule, 32)
    nonce = _labeled_expand(suite, "sha512", scheduled, b"base_nonce", schedule, 12)
    try:
        return AESGCM(aead_key).decrypt(nonce, sealed[32:], b"")
    except InvalidTag:
        refuse(name)


def ed25519_public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def x25519_public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


# Sections 3 and 4: names and signatures


def named(what: str, key: bytes, length: int) -> bytes:
    return blake3(key, derive_key_context=f"holdfast v1 {what} id").digest(length=length)


_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P


def _root(square: int) -> int | None:
    """A square root modulo p = 5 (mod 8), RFC 8032 section 5.1.3."""
    candidate = pow(square, (_P + 3) // 8, _P)
    for root in (candidate, candidate * pow(2, (_P - 1) // 4, _P) % _P):
        if root * root % _P == square % _P:
            return root
    return None


@cache
def small_order() -> set[int]:
    """0, 1, -1, and the roots of d y^4 + 2 y^2 = 1: what doubles to y = 0."""
    found = {0, 1, _P - 1}
    half = _root((1 + _D) % _P)
    assert half is not None
    for sign in (half, -half):
        root = _root((sign - 1) * pow(_D, -1, _P) % _P)
        if root is not None:
            found |= {root, _P - root}
    return found


def check_key(public: bytes) -> None:
    y = int.from_bytes(public, "little") & (2**255 - 1)
    need(y < _P and y not in small_order(), "BadRequest")


def holds(public: bytes, signature: bytes, kind: str, cluster: bytes, payload: bytes) -> None:
    check_key(public)
    try:
        covered = b"holdfast/v1/" + kind.encode() + b"\0" + cluster + payload
        Ed25519PublicKey.from_public_bytes(public).verify(signature, covered)
    except InvalidSignature:
        refuse("Refused")


def opened(raw: bytes, kind: str, name: str, cluster: bytes, public: bytes) -> Values:
    """The record in a ``Signed``, by a signer that is known beforehand."""
    signed = decode("Signed", raw)
    holds(public, signed["signature"], kind, cluster, signed["payload"])
    return decode(name, signed["payload"])
