"""The independent reader: encoding, names, signatures, charter, map, tickets, receipts, requests."""

from __future__ import annotations

import base64
import re
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.independent.primitives import (
    Values,
    check_key,
    decode,
    digest,
    holds,
    named,
    need,
    opened,
    raw,
    refuse,
)


def codec(given: Values) -> Values:
    decode(given["shape"], raw(given, "bytes"))
    return {"again": given["bytes"]}


def names(given: Values) -> Values:
    key, kind = raw(given, "public_key"), given["kind"]
    if kind == "cluster":
        return {"id": cluster_of(key).hex()}
    return {"id": named(kind, key, {"account": 32, "key": 8}.get(kind, 16)).hex()}


def cluster_of(root: bytes) -> bytes:
    check_key(root)
    key = Ed25519PublicKey.from_public_bytes(root)
    return digest(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def address(given: Values) -> Values:
    parts = given["text"].split("#")
    url = parts[0] if "://" in parts[0] else f"http://{parts[0]}"
    try:
        split = urlsplit(url)
        need(split.scheme in ("http", "https") and split.port != 0, "BadRequest")
    except ValueError:
        refuse("BadRequest")
    need(split.path in ("", "/") and not split.query and split.username is None, "BadRequest")
    is_token = given["what"] == "token"
    need(len(parts) == 3 if is_token else len(parts) < 3, "BadRequest")
    cluster = parts[1] if len(parts) > 1 else ""
    need(re.fullmatch("[0-9a-f]{64}" if is_token else "([0-9a-f]{64})?", cluster), "BadRequest")
    secret = b""
    if is_token:
        need(re.fullmatch("[A-Z2-7]{26}", parts[2]), "BadRequest")
        secret = base64.b32decode(parts[2] + "======")
    return {"url": url.rstrip("/"), "cluster": cluster, "secret": secret.hex()}


def signature(given: Values) -> Values:
    holds(
        raw(given, "public_key"),
        raw(given, "signature"),
        given["kind"],
        raw(given, "cluster"),
        raw(given, "payload"),
    )
    return {}


def charter(given: Values) -> Values:
    need(cluster_of(raw(given, "root")).hex() == given["cluster"], "Refused")
    told = opened(raw(given, "signed"), "charter", "Charter", raw(given, "cluster"), raw(given, "root"))
    return {"term": told["term"], "coordinator": told["coordinator"].hex()}


def profile_is_good(k: int, m: int) -> bool:
    return k >= 1 and m >= 1 and k + m <= 255


def cluster_map(given: Values) -> Values:
    told = opened(raw(given, "signed"), "map", "ClusterMap", raw(given, "cluster"), raw(given, "coordinator"))
    for group in told["groups"]:
        need(profile_is_good(group["k"], group["m"]), "BadRequest")
        need(len(group["members"]) == group["k"] + group["m"], "BadRequest")
    return {
        "epoch": told["epoch"],
        "nodes": [[node["id"].hex(), node["url"], node["zone"]] for node in told["nodes"]],
        "groups": [[group["id"], group["version"], f"{group['k']}+{group['m']}"] for group in told["groups"]],
    }


def ticket(given: Values) -> Values:
    told = opened(raw(given, "signed"), "ticket", "Ticket", raw(given, "cluster"), raw(given, "coordinator"))
    need(profile_is_good(told["k"], told["m"]), "BadRequest")
    need(len(told["members"]) == told["k"] + told["m"], "BadRequest")
    need(told["verb"] == given["verb"] and told["term"] >= given["term"], "Refused")
    need(given["now_ms"] < told["expires_ms"], "TicketExpired")
    need(told["expires_ms"] <= given["now_ms"] + 20 * 60_000, "Refused")
    node = raw(given, "node")
    need(node in told["members"] or told["verb"] == "read", "Refused")
    slot = told["members"].index(node) if node in told["members"] else None
    return {"slot": slot, "group": told["group"]}


def receipt(given: Values) -> Values:
    key = raw(given, "node_key")
    told = opened(raw(given, "signed"), "receipt", "Receipt", raw(given, "cluster"), key)
    need(told["node"] == named("node", key, 16), "Refused")
    entries = [[entry["chunk"].hex(), entry["slot"], entry["digest"].hex()] for entry in told["entries"]]
    return {"node": told["node"].hex(), "entries": entries}


def request(given: Values) -> Values:
    try:
        auth_bytes = base64.urlsafe_b64decode(given["header"])
    except ValueError:
        refuse("BadRequest")
    need(base64.urlsafe_b64encode(auth_bytes).decode() == given["header"], "BadRequest")
    auth = decode("Auth", auth_bytes)
    need(len(auth["nonce"]) == 16 and len(auth["account"]) in (0, 32), "BadRequest")
    need(len(auth["signer"]) <= 32, "BadRequest")
    time_ms = auth["time_ms"]
    need(abs(time_ms - given["now_ms"]) <= 300_000 and time_ms >= given["started_ms"], "StaleRequest")
    parts = (
        raw(given, "receiver"),
        auth["role"].encode(),
        auth["account"],
        auth["signer"],
        given["method"].encode(),
        given["target"].encode(),
        raw(given, "body_digest"),
        time_ms.to_bytes(8, "big"),
        auth["nonce"],
    )
    covered = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    holds(raw(given, "key"), auth["signature"], "request", raw(given, "cluster"), covered)
    need(given["times"] == 1, "Refused")
    return {"signer": auth["signer"].hex(), "time_ms": time_ms}


def frame(given: Values) -> Values:
    body = raw(given, "body")
    need(len(body) >= 4, "BadRequest")
    end = 4 + int.from_bytes(body[:4], "big")
    need(end <= len(body) and end - 4 <= 6_291_456, "BadRequest")
    return {"header": body[4:end].hex(), "shards": body[end:].hex()}
