"""The independent reader: recovery codes, keys, device lists, heads, snapshot records."""

from __future__ import annotations

import re

from reedsolo import ReedSolomonError, RSCodec

from support.independent.primitives import (
    Values,
    check_key,
    decode,
    digest,
    ed25519_public,
    hkdf,
    holds,
    hpke_open,
    named,
    need,
    raw,
    refuse,
    x25519_public,
)

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def recovery_code(given: Values) -> Values:
    typed = re.sub(r"[\s\-–—]", "", given["code"]).upper()
    typed = typed.replace("O", "0").replace("I", "1").replace("L", "1")
    need(len(typed) == 72 and set(typed) <= set(ALPHABET + "?"), "WrongKey")
    number, erased = 0, set()
    for at, character in enumerate(typed):
        number = number * 32 + (0 if character == "?" else ALPHABET.index(character))
        if character == "?":
            erased |= {at * 5 // 8, (at * 5 + 4) // 8}
    try:
        head, whole, _ = RSCodec(8, nsize=45).decode(number.to_bytes(45, "big"), erase_pos=sorted(erased))
    except ReedSolomonError:
        refuse("WrongKey")
    secret = bytes(head[1:33])
    need(head[0] == 1 and hkdf(secret, "recovery-check", 64)[:4] == bytes(head[33:37]), "WrongKey")
    number = int.from_bytes(whole, "big")
    text = "".join(ALPHABET[number >> shift & 31] for shift in range(355, -1, -5))
    return {"secret": secret.hex(), "code": "-".join(text[i : i + 8] for i in range(0, 72, 8))}


def keys(given: Values) -> Values:
    if "recovery_secret" in given:
        secret = raw(given, "recovery_secret")
        root = ed25519_public(hkdf(secret, "root-sign", 32))
        box = x25519_public(hkdf(secret, "root-box", 32))
        return {
            "root_public_key": root.hex(),
            "root_box_public_key": box.hex(),
            "account": named("account", root, 32).hex(),
        }
    if "account_key" in given:
        key = raw(given, "account_key")
        labels = {"k_id": "id", "k_cut": "cut", "k_file": "file", "k_page": "page"}
        told = {name: hkdf(key, label, 32).hex() for name, label in labels.items()}
        read = x25519_public(hkdf(key, "read", 32))
        return {**told, "k_chunk": hkdf(key, "chunk-key", 64).hex(), "k_read_public": read.hex()}
    cluster, recipient = raw(given, "cluster"), raw(given, "recipient")
    listed = open_list(raw(given, "device_list"), cluster)
    record = listed["keys"][0]
    sealed = {wrap["recipient"]: wrap["sealed"] for wrap in record["wraps"]}.get(recipient)
    need(sealed is not None, "WrongKey")
    info = b"holdfast/v1/account-key\0" + cluster + listed["account"]
    info += record["epoch"].to_bytes(4, "big") + recipient
    return {"account_key": hpke_open(raw(given, "box_private_key"), sealed, info, "WrongKey").hex()}


def open_list(signed_list: bytes, cluster: bytes) -> Values:
    signed = decode("Signed", signed_list)
    listed = decode("DeviceList", signed["payload"])
    need(named("account", listed["root_key"], 32) == listed["account"], "Refused")
    holds(listed["root_key"], signed["signature"], "device-list", cluster, signed["payload"])
    need(listed["seq"] >= 1 and (listed["seq"] == 1) == (listed["previous"] == bytes(32)), "BadRequest")
    need(1 <= len(listed["devices"]) <= 256 and len(listed["keys"]) <= 4096, "BadRequest")
    need(listed["epoch"] >= 1 and len(listed["keys"]) == listed["epoch"], "BadRequest")
    need(all(key["epoch"] == at for at, key in enumerate(listed["keys"], 1)), "BadRequest")
    for device in listed["devices"]:
        check_key(device["sign_key"])
        need(device["id"] == named("device", device["sign_key"], 16), "BadRequest")
        need(1 <= len(device["name"].encode()) <= 256, "BadRequest")
    need(len({device["id"] for device in listed["devices"]}) == len(listed["devices"]), "BadRequest")
    return listed


def device_list(given: Values) -> Values:
    listed = open_list(raw(given, "signed"), raw(given, "cluster"))
    return {
        "account": listed["account"].hex(),
        "seq": listed["seq"],
        "devices": [[device["id"].hex(), device["name"]] for device in listed["devices"]],
        "digest": digest(raw(given, "signed")).hex(),
    }


def device_list_chain(given: Values) -> Values:
    current, following = (
        open_list(raw(given, which), raw(given, "cluster")) for which in ("current", "following")
    )
    if given["current"] != given["following"]:
        names_it = following["previous"] == digest(raw(given, "current"))
        need(following["seq"] == current["seq"] + 1 and names_it, "Conflict")
        need(following["root_box_key"] == current["root_box_key"], "Refused")
        need(following["epoch"] >= current["epoch"], "Refused")
    return {"seq": following["seq"], "digest": digest(raw(given, "following")).hex()}


def enrolment(given: Values) -> Values:
    signed = decode("Signed", raw(given, "signed"))
    asked = decode("Enrolment", signed["payload"])
    need(named("account", asked["root_key"], 32) == asked["account"], "Refused")
    holds(asked["root_key"], signed["signature"], "enrol", raw(given, "cluster"), signed["payload"])
    need(len(asked["nonce"]) == 16, "BadRequest")
    check_key(asked["sign_key"])
    return {name: asked[name].hex() for name in ("account", "nonce", "sign_key")}


def snapshot_record(given: Values) -> Values:
    sealed, bad = raw(given, "sealed"), "IntegrityFailure"
    need(digest(sealed).hex() == given["id"] and sealed[0] == 1, bad)
    info = b"holdfast/v1/snapshot-record\0\1" + raw(given, "cluster") + raw(given, "account")
    plain = hpke_open(hkdf(raw(given, "account_key"), "read", 32), sealed[1:], info, bad)
    record = decode("SnapshotRecord", plain)
    paths = [path.hex() for path in record["paths"]]
    return {"time_ns": record["time_ns"], "paths": paths, "files": record["files"]}


def open_head(signed_head: bytes, signed_list: bytes, cluster: bytes, oldest: int = 0) -> Values:
    listed, signed = open_list(signed_list, cluster), decode("Signed", signed_head)
    head = decode("Head", signed["payload"])
    keys = {device["id"]: device["sign_key"] for device in listed["devices"]}
    need(head["account"] == listed["account"] and head["device"] in keys, "Refused")
    holds(keys[head["device"]], signed["signature"], "head", cluster, signed["payload"])
    need(head["seq"] >= 1 and (head["seq"] == 1) == (head["previous"] == bytes(32)), "BadRequest")
    need(head["device_list_seq"] <= listed["seq"], "Refused")
    if head["device_list_seq"] == listed["seq"]:
        need(head["device_list"] == digest(signed_list), "ForkDetected")
    need(head["device_list_seq"] >= oldest, "Rollback")
    return head


def open_snapshots(exact: bytes, head: Values) -> list[str]:
    need(digest(exact) == head["snapshots"], "ForkDetected")
    snapshots = decode("SnapshotList", exact)["snapshots"]
    need(len(set(snapshots)) == len(snapshots) <= 65_536, "BadRequest")
    return [snapshot.hex() for snapshot in snapshots]


def head(given: Values) -> Values:
    signed = raw(given, "signed")
    found = open_head(signed, raw(given, "device_list"), raw(given, "cluster"), given["oldest_list_seq"])
    snapshots = open_snapshots(raw(given, "snapshot_list"), found)
    return {"seq": found["seq"], "digest": digest(signed).hex(), "snapshots": snapshots}


def head_chain(given: Values) -> Values:
    cluster, known, devices = raw(given, "cluster"), given["known"], raw(given, "device_list")
    listed = open_list(devices, cluster)
    need(listed["account"].hex() == known["account"], "ForkDetected")
    need(listed["seq"] >= known["device_list_seq"], "Rollback")
    if listed["seq"] == known["device_list_seq"]:
        need(digest(devices).hex() == known["device_list_digest"], "ForkDetected")
    seq, last = known["head_seq"], known["head_digest"]
    if given["head"] is None:
        need(seq == 0, "Rollback")
        return {"seq": 0, "digest": "00" * 32, "snapshots": []}
    newest = open_head(raw(given, "head"), devices, cluster)
    need(newest["seq"] >= seq, "Rollback")
    for link in map(bytes.fromhex, given["links"]):
        found = open_head(link, devices, cluster)
        need(found["seq"] == seq + 1 and found["previous"].hex() == last, "ForkDetected")
        seq, last = found["seq"], digest(link).hex()
    need((seq, last) == (newest["seq"], digest(raw(given, "head")).hex()), "ForkDetected")
    return {"seq": seq, "digest": last, "snapshots": open_snapshots(raw(given, "snapshot_list"), newest)}
