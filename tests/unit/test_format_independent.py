"""A small reader of Holdfast's formats, written from docs/FORMAT.md alone.

It imports nothing of Holdfast: only public primitives. Where it agrees with the vectors, a second
implementation can be written from the specification.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from backports import zstd
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from reedsolo import RSCodec

VECTORS = Path(__file__).resolve().parent.parent / "vectors"


def vector(topic: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    told = json.loads((VECTORS / topic / f"{name}.json").read_text())
    assert told["outcome"] == "ok"
    return told["input"], told["expected"]


def good(topic: str) -> list[str]:
    files = sorted((VECTORS / topic).glob("*.json"))
    return [path.stem for path in files if json.loads(path.read_text())["outcome"] == "ok"]


def hkdf_expand(key: bytes, info: bytes, length: int) -> bytes:
    made, last, count = b"", b"", 1
    while len(made) < length:
        last = hmac.digest(key, last + info + bytes([count]), hashlib.sha512)
        made, count = made + last, count + 1
    return made[:length]


def hkdf(secret: bytes, label: str, length: int) -> bytes:
    extracted = hmac.digest(bytes(64), secret, hashlib.sha512)
    return hkdf_expand(extracted, b"holdfast/v1/" + label.encode(), length)


def holds(public: bytes, signature: bytes, kind: str, cluster: bytes, payload: bytes) -> None:
    covered = b"holdfast/v1/" + kind.encode() + b"\0" + cluster + payload
    Ed25519PublicKey.from_public_bytes(public).verify(signature, covered)


def ed25519_public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def test_keys_follow_from_the_recovery_secret() -> None:
    given, expected = vector("keys", "root")
    secret = bytes.fromhex(given["recovery_secret"])
    root = ed25519_public(hkdf(secret, "root-sign", 32))
    box = X25519PrivateKey.from_private_bytes(hkdf(secret, "root-box", 32)).public_key().public_bytes_raw()
    assert root.hex() == expected["root_public_key"]
    assert box.hex() == expected["root_box_public_key"]
    account = blake3(root, derive_key_context="holdfast v1 account id").hexdigest()
    assert account == expected["account"]


def test_keys_follow_from_the_account_key() -> None:
    given, expected = vector("keys", "account")
    key = bytes.fromhex(given["account_key"])
    for name, label, length in (
        ("k_id", "id", 32),
        ("k_chunk", "chunk-key", 64),
        ("k_cut", "cut", 32),
        ("k_file", "file", 32),
        ("k_page", "page", 32),
    ):
        assert hkdf(key, label, length).hex() == expected[name], name
    read = X25519PrivateKey.from_private_bytes(hkdf(key, "read", 32))
    assert read.public_key().public_bytes_raw().hex() == expected["k_read_public"]


@pytest.mark.parametrize("name", ["device-opens", "root-opens"])
def test_an_account_key_opens(name: str) -> None:
    given, expected = vector("keys", name)
    cluster, recipient = bytes.fromhex(given["cluster"]), bytes.fromhex(given["recipient"])
    payload, signature = msgpack.unpackb(bytes.fromhex(given["device_list"]))
    _, account, root, _, _, _, _, _, keys = msgpack.unpackb(payload)
    holds(root, signature, "device-list", cluster, payload)
    epoch, wraps, _ = keys[0]
    sealed = dict(map(tuple, wraps))[recipient]
    info = b"holdfast/v1/account-key\0" + cluster + account + epoch.to_bytes(4, "big") + recipient
    box = X25519PrivateKey.from_private_bytes(bytes.fromhex(given["box_private_key"]))
    suite = Suite(KEM.X25519, KDF.HKDF_SHA512, AEAD.AES_256_GCM)
    assert suite.decrypt(sealed, box, info).hex() == expected["account_key"]


@pytest.mark.parametrize("name", good("recovery-code"))
def test_a_recovery_code_reads_as_specified(name: str) -> None:
    given, expected = vector("recovery-code", name)
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    typed = "".join(given["code"].replace("-", "").split()).upper()
    typed = typed.replace("O", "0").replace("I", "1").replace("L", "1")
    assert len(typed) == 72
    number, erased = 0, set()
    for at, character in enumerate(typed):
        number = number * 32 + (0 if character == "?" else alphabet.index(character))
        if character == "?":
            erased |= {at * 5 // 8, (at * 5 + 4) // 8}
    raw, _, _ = RSCodec(8, nsize=45).decode(number.to_bytes(45, "big"), erase_pos=sorted(erased))
    assert raw[0] == 1
    secret = bytes(raw[1:33])
    assert hkdf(secret, "recovery-check", 64)[:4] == bytes(raw[33:37])
    assert secret.hex() == expected["secret"]


def padme(length: int) -> int:
    if length < 2:
        return length
    e = length.bit_length() - 1
    s = e.bit_length()
    step = 1 << (e - s)
    return -(-length // step) * step


@pytest.mark.parametrize("name", good("padme"))
def test_padme(name: str) -> None:
    given, expected = vector("padme", name)
    assert padme(given["length"]) == expected["padded"]


@pytest.mark.parametrize("name", good("sealing"))
def test_a_sealed_chunk_opens_as_specified(name: str) -> None:
    given, expected = vector("sealing", name)
    sealed, pid = bytes.fromhex(given["sealed"]), bytes.fromhex(given["pid"])
    assert blake3(sealed).hexdigest() == given["chunk_id"]
    assert sealed[0] == 1
    derived = hkdf_expand(bytes.fromhex(given["k_chunk"]), b"holdfast/v1/chunk\0\1" + pid, 64)
    assert sealed[1:33] == derived[32:]
    p = AESGCM(derived[:32]).decrypt(bytes(12), sealed[33:], sealed[:33])
    assert blake3(p, key=bytes.fromhex(given["k_id"])).digest() == pid
    length = int.from_bytes(p[1:5], "big")
    assert len(p) == padme(5 + length) and not any(p[5 + length :])
    body = p[5 : 5 + length]
    plain = body if p[0] == 0 else zstd.decompress(body)
    assert plain.hex() == expected["plain"] and len(plain) == given["plain_bytes"]


@pytest.mark.parametrize("name", [name for name in good("erasure") if "decode" not in name])
def test_a_stripe_is_made_as_specified(name: str) -> None:
    given, expected = vector("erasure", name)
    k, m, sealed = given["k"], given["m"], bytes.fromhex(given["sealed"])
    length = -(-len(sealed) // k)
    padded = sealed.ljust(k * length, b"\0")
    columns = [padded[c::length] for c in range(length)]
    words = [bytes(RSCodec(m, nsize=k + m).encode(column)) for column in columns]
    shards = [bytes(word[slot] for word in words) for slot in range(k + m)]
    assert [shard.hex() for shard in shards] == expected["shards"]
    if "stripe_digest" in expected:
        head = bytes([k, m]) + len(sealed).to_bytes(4, "big")
        digests = b"".join(blake3(shard).digest() for shard in shards)
        assert blake3(head + digests).hexdigest() == expected["stripe_digest"]


def test_a_shard_record_is_laid_out_as_specified() -> None:
    given, expected = vector("shard-record", "good")
    raw = bytes.fromhex(given["record"])
    assert raw[:5] == b"HFsr\1"
    assert (raw[5:37].hex(), raw[37:69].hex(), raw[69:85].hex()) == (
        expected["account"],
        expected["chunk"],
        expected["generation"],
    )
    assert int.from_bytes(raw[85:93], "big") == expected["group"]
    slot, k, m = raw[93:96]
    end = 100 + 32 * (k + m)
    assert blake3(raw[:end]).digest()[:8] == raw[end : end + 8]
    shard = raw[end + 8 :]
    assert shard.hex() == expected["shard"]
    assert blake3(shard).digest() == raw[100 + 32 * slot : 132 + 32 * slot]


@pytest.mark.parametrize("name", good("head"))
def test_a_head_is_signed_and_linked_as_specified(name: str) -> None:
    given, expected = vector("head", name)
    cluster = bytes.fromhex(given["cluster"])
    list_payload, list_signature = msgpack.unpackb(bytes.fromhex(given["device_list"]))
    listed = msgpack.unpackb(list_payload)
    holds(listed[2], list_signature, "device-list", cluster, list_payload)
    payload, signature = msgpack.unpackb(bytes.fromhex(given["signed"]))
    head = msgpack.unpackb(payload)
    signer = {device[0]: device[1] for device in listed[7]}[head[2]]
    holds(signer, signature, "head", cluster, payload)
    snapshots = bytes.fromhex(given["snapshot_list"])
    assert head[9] == blake3(snapshots).digest()
    assert [snapshot.hex() for snapshot in msgpack.unpackb(snapshots)[1]] == expected["snapshots"]
    assert blake3(bytes.fromhex(given["signed"])).hexdigest() == expected["digest"]


def test_a_snapshot_record_opens_as_specified() -> None:
    given, expected = vector("snapshot-record", "good")
    sealed = bytes.fromhex(given["sealed"])
    assert blake3(sealed).hexdigest() == given["id"] and sealed[0] == 1
    read = X25519PrivateKey.from_private_bytes(hkdf(bytes.fromhex(given["account_key"]), "read", 32))
    info = (
        b"holdfast/v1/snapshot-record\0\1" + bytes.fromhex(given["cluster"]) + bytes.fromhex(given["account"])
    )
    record = msgpack.unpackb(
        Suite(KEM.X25519, KDF.HKDF_SHA512, AEAD.AES_256_GCM).decrypt(sealed[1:], read, info)
    )
    assert record[1] == expected["time_ns"]
    assert [path.hex() for path in record[4]] == expected["paths"]


def test_a_cluster_id_is_the_root_s_public_key() -> None:
    given, expected = vector("charter", "good")
    root = Ed25519PublicKey.from_public_bytes(bytes.fromhex(given["root"]))
    spki = root.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert blake3(spki).hexdigest() == given["cluster"]
    payload, signature = msgpack.unpackb(bytes.fromhex(given["signed"]))
    holds(bytes.fromhex(given["root"]), signature, "charter", bytes.fromhex(given["cluster"]), payload)
    assert msgpack.unpackb(payload)[1] == expected["term"]


def test_a_request_is_signed_as_specified() -> None:
    import base64

    given, _ = vector("request", "good")
    _, role, account, signer, time_ms, nonce, signature = msgpack.unpackb(
        base64.urlsafe_b64decode(given["header"])
    )
    parts = (
        bytes.fromhex(given["receiver"]),
        role.encode(),
        account,
        signer,
        given["method"].encode(),
        given["target"].encode(),
        bytes.fromhex(given["body_digest"]),
        time_ms.to_bytes(8, "big"),
        nonce,
    )
    covered = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    key, cluster = bytes.fromhex(given["key"]), bytes.fromhex(given["cluster"])
    holds(key, signature, "request", cluster, covered)
    assert blake3(key, derive_key_context="holdfast v1 device id").digest()[:16] == signer


def test_a_receipt_is_signed_by_the_node_it_names() -> None:
    given, expected = vector("receipt", "good")
    payload, signature = msgpack.unpackb(bytes.fromhex(given["signed"]))
    key = bytes.fromhex(given["node_key"])
    holds(key, signature, "receipt", bytes.fromhex(given["cluster"]), payload)
    node = blake3(key, derive_key_context="holdfast v1 node id").digest()[:16]
    assert msgpack.unpackb(payload)[1] == node == bytes.fromhex(expected["node"])
