"""The independent reader: padding, sealing, the erasure code, shard records, cutting, manifest pages."""

from __future__ import annotations

import sys
from functools import cache

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyfastcdc.py.constants import GEAR
from reedsolo import RSCodec

from support.independent.primitives import RefusedAs, Values, decode, digest, hkdf_expand, need, raw, refuse

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def multiply(a: int, b: int) -> int:
    product = 0
    while b:
        product ^= a * (b & 1)
        a, b = (a << 1) ^ (0x11D if a & 0x80 else 0), b >> 1
    return product


@cache
def generator(m: int) -> list[int]:
    """The product of (x - 2^i), i = 0 to m-1, highest power first."""
    made, root = [1], 1
    for _ in range(m):
        made = [a ^ multiply(root, b) for a, b in zip([*made, 0], [0, *made], strict=True)]
        root = multiply(root, 2)
    return made


def parity(column: bytes, m: int) -> bytes:
    """The remainder of d(x) * x^m by the generator: long division."""
    rest = [*column, *bytes(m)]
    for at in range(len(column)):
        factor = rest[at]
        for i, coefficient in enumerate(generator(m)):
            rest[at + i] ^= multiply(coefficient, factor)
    return bytes(rest[len(column) :])


def erasure(given: Values) -> Values:
    k, m = given["k"], given["m"]
    if "shards" in given:
        return _decoded(given, k, m)
    sealed = raw(given, "sealed")
    length = -(-len(sealed) // k)
    padded = sealed.ljust(k * length, b"\0")
    words = [padded[c::length] + parity(padded[c::length], m) for c in range(length)]
    shards = [bytes(word[slot] for word in words) for slot in range(k + m)]
    told: Values = {"shards": [shard.hex() for shard in shards]}
    if len(sealed) >= 54:
        lead = bytes([k, m]) + len(sealed).to_bytes(4, "big")
        told["stripe_digest"] = digest(lead + b"".join(map(digest, shards))).hex()
    return told


def _decoded(given: Values, k: int, m: int) -> Values:
    shards = {int(slot): bytes.fromhex(shard) for slot, shard in given["shards"].items()}
    need(len(shards) >= k, "TooFewShards")
    length = -(-given["sealed_bytes"] // k)
    need(all(len(shard) == length for shard in shards.values()), "BadRequest")
    lost = [slot for slot in range(k + m) if slot not in shards]
    code = RSCodec(m, nsize=k + m)
    columns = [
        code.decode(bytes(shards[s][c] if s in shards else 0 for s in range(k + m)), erase_pos=lost)[0]
        for c in range(length)
    ]
    joined = b"".join(bytes(column[slot] for column in columns) for slot in range(k))
    return {"decoded": joined[: given["sealed_bytes"]].hex()}


def shard_record(given: Values) -> Values:
    record = raw(given, "record")
    need(len(record) >= 100 and record[:5] == b"HFsr\1", "IntegrityFailure")
    slot, k, m = record[93:96]
    end, sealed = 100 + 32 * (k + m), int.from_bytes(record[96:100], "big")
    need(digest(record[:end], 8) == record[end : end + 8], "IntegrityFailure")
    need(k and m and k + m <= 255 and slot < k + m and record[85] < 0x80, "IntegrityFailure")
    need(54 <= sealed <= 4_325_425, "IntegrityFailure")
    shard = record[end + 8 :]
    need(len(shard) == -(-sealed // k), "IntegrityFailure")
    need(digest(shard) == record[100 + 32 * slot : 132 + 32 * slot], "IntegrityFailure")
    return {
        "account": record[5:37].hex(),
        "chunk": record[37:69].hex(),
        "generation": record[69:85].hex(),
        "group": int.from_bytes(record[85:93], "big"),
        "slot": slot,
        "k": k,
        "m": m,
        "sealed_bytes": sealed,
        "shard": shard.hex(),
    }


def padme_length(length: int) -> int:
    if length < 2:
        return length
    e = length.bit_length() - 1
    step = 2 ** (e - e.bit_length())
    return -(-length // step) * step


def padme(given: Values) -> Values:
    return {"padded": padme_length(given["length"])}


def sealing(given: Values) -> Values:
    sealed, pid, plain_bytes = raw(given, "sealed"), raw(given, "pid"), given["plain_bytes"]
    bad = "IntegrityFailure"
    need(len(sealed) <= 4_325_425 and digest(sealed).hex() == given["chunk_id"], bad)
    need(len(sealed) >= 54 and sealed[0] == 1, bad)
    derived = hkdf_expand(raw(given, "k_chunk"), b"holdfast/v1/chunk\0\1" + pid, 64)
    need(sealed[1:33] == derived[32:], bad)
    try:
        p = AESGCM(derived[:32]).decrypt(bytes(12), sealed[33:], sealed[:33])
    except InvalidTag:
        refuse(bad)
    need(blake3(p, key=raw(given, "k_id")).digest() == pid, bad)
    length = int.from_bytes(p[1:5], "big")
    need(5 + length <= len(p) == padme_length(5 + length) and not any(p[5 + length :]), bad)
    plain = p[5 : 5 + length]
    if p[0]:
        need(p[0] == 1 and 0 <= plain_bytes <= 4 * 2**20, bad)
        stream = zstd.ZstdDecompressor()
        try:
            plain = stream.decompress(plain, max_length=plain_bytes + 1)
        except zstd.ZstdError:
            refuse(bad)
        need(stream.eof and not stream.unused_data, bad)
    need(len(plain) == plain_bytes, bad)
    return {"plain": plain.hex()}


def cutting(given: Values) -> Values:
    table = b"".join(word.to_bytes(8, "big") for word in GEAR)
    assert digest(table).hex() == "b8a753f2311fec47b05c45684efb67446afda746e79321a9fda3cb72d850a171"
    seed = 1 + int.from_bytes(raw(given, "k_cut")[:8], "big") % (2**63 - 1)
    gear = [word ^ seed for word in GEAR]
    stream = blake3(given["blake3_of"].encode()).digest(length=given["bytes"])
    chunks, at = [], 0
    while at < len(stream):
        length = _cut(gear, stream[at : at + 4_194_299])
        chunks.append(length)
        at += length
    return {"seed": str(seed), "chunks": chunks}


def _cut(gear: list[int], rest: bytes) -> int:
    h = 0
    for i in range(262_144, len(rest)):
        h = (2 * h + gear[rest[i]]) & 0xFFFF_FFFF_FFFF_FFFF
        if not h & (0xD91767537000 if i < 1_048_576 else 0xD91707537000):
            return i
    return len(rest)


def manifest(given: Values) -> Values:
    try:
        page = decode("Page", raw(given, "page"))
    except RefusedAs:
        refuse("IntegrityFailure")
    last = [part for part in raw(given, "after").split(b"/") if part]
    in_file, told = True, []
    for entry in page["entries"]:
        here = entry["path"].split(b"/")
        right = len(entry["path"]) <= 65_536 and b"\0" not in entry["path"]
        right &= all(part not in (b"", b".", b"..") and len(part) <= 255 for part in here)
        right &= (here == last and in_file) if entry["kind"] == "more" else here > last
        right &= 0 <= entry["mode"] <= 0o7777 and 0 <= entry["size"] < 2**63
        right &= 0 <= entry["uid"] <= 2**32 - 2 and 0 <= entry["gid"] <= 2**32 - 2
        right &= b"\0" not in entry["target"] and all(b"\0" not in name for name, _ in entry["xattrs"])
        end = 0
        for offset, length in entry["holes"]:
            right &= end <= offset and length >= 1 and offset + length <= entry["size"]
            end = offset + length
        for index, offset, length in entry["extents"]:
            right &= 0 <= index < len(page["chunks"]) and offset >= 0 and length >= 1
            right = right and offset + length <= page["chunks"][index]["plain_bytes"]
        need(right, "IntegrityFailure")
        last, in_file = here, entry["kind"] in ("file", "more")
        extents = [[page["chunks"][i]["chunk"].hex(), offset, size] for i, offset, size in entry["extents"]]
        told.append(
            {"kind": entry["kind"], "path": entry["path"].hex(), "size": entry["size"], "extents": extents}
        )
    return {"entries": told}
