"""What each topic's input means: given as in the file, gives what came out."""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from holdfast.client.cutting import StreamCutter, cut_seed
from holdfast.client.identity import AccountKeys, RootKeys, open_account_keys
from holdfast.client.manifest import Page
from holdfast.client.recovery_code import decode_recovery_code
from holdfast.client.sealing import PlainId, SealingKeys, open_chunk, padme
from holdfast.client.snapshot_record import open_record
from holdfast.protocol import erasure
from holdfast.protocol.accounts import (
    open_device_list,
    open_enrolment,
    open_head,
    open_snapshot_list,
    signed_digest,
)
from holdfast.protocol.address import Address, Token
from holdfast.protocol.charter import cluster_id, open_charter
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import (
    AccountId,
    ChunkId,
    ClusterId,
    Digest,
    NodeId,
    PublicKey,
    Signature,
    SnapshotId,
)
from holdfast.protocol.messages.accounts import EnrolmentNonce
from holdfast.protocol.messages.cluster import open_map
from holdfast.protocol.messages.uploads import Claim
from holdfast.protocol.profiles import Profile
from holdfast.protocol.receipts import Receipt, open_receipt
from holdfast.protocol.requests import Gate, parse_auth
from holdfast.protocol.signing import Signed, account_id, device_id, key_id, node_id, verify
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of
from holdfast.protocol.tickets import admit, open_ticket
from holdfast.protocol.transport import split_frame
from support.vectors.case import Case, Values
from support.vectors.chains import device_list_chain, head_chain
from support.vectors.witnesses import account_facts, witness_statement, witness_verdict


def run(case: Case) -> tuple[str, Values]:
    """What the code makes of a case's input: the outcome's name, and what came out."""
    try:
        return "ok", READERS[case.topic](case.input)
    except HoldfastError as error:
        return type(error).__name__, {}


def _raw(given: Values, name: str) -> bytes:
    return bytes.fromhex(given[name])


def _signed(given: Values, name: str = "signed") -> Signed:
    return decode(_raw(given, name), Signed)


def _cluster(given: Values) -> ClusterId:
    return ClusterId.from_hex(given["cluster"])


def _codec(given: Values) -> Values:
    shape = {"Receipt": Receipt, "Claim": Claim, "EnrolmentNonce": EnrolmentNonce}[given["shape"]]
    return {"again": encode(decode(_raw(given, "bytes"), shape)).hex()}


def _signature(given: Values) -> Values:
    key, signature = PublicKey.from_hex(given["public_key"]), Signature.from_hex(given["signature"])
    verify(key, signature, given["kind"], _cluster(given), _raw(given, "payload"))
    return {}


def _padme(given: Values) -> Values:
    return {"padded": padme(given["length"])}


def _sealing(given: Values) -> Values:
    plain = open_chunk(
        SealingKeys(1, _raw(given, "k_id"), _raw(given, "k_chunk")),
        _raw(given, "sealed"),
        chunk_id=ChunkId.from_hex(given["chunk_id"]),
        pid=PlainId.from_hex(given["pid"]),
        plain_bytes=given["plain_bytes"],
    )
    return {"plain": bytes(plain).hex()}


def _keys(given: Values) -> Values:
    if "recovery_secret" in given:
        root = RootKeys.of(_raw(given, "recovery_secret"))
        return {
            "root_public_key": root.public.hex(),
            "root_box_public_key": root.box_public.hex(),
            "account": root.account.hex(),
        }
    if "account_key" in given:
        keys = AccountKeys.of(1, _raw(given, "account_key"))
        return {
            "k_id": keys.sealing.id_key.hex(),
            "k_chunk": keys.sealing.chunk_key.hex(),
            "k_cut": keys.cut_key.hex(),
            "k_read_public": keys.read_key.public_key().public_bytes_raw().hex(),
            "k_file": keys.file_key.hex(),
            "k_page": keys.page_key.hex(),
        }
    cluster = _cluster(given)
    listed = open_device_list(_signed(given, "device_list"), cluster)
    box = X25519PrivateKey.from_private_bytes(_raw(given, "box_private_key"))
    (opened,) = open_account_keys(listed, cluster, box, _raw(given, "recipient"))
    return {"account_key": opened.secret.hex()}


def _recovery_code(given: Values) -> Values:
    found = decode_recovery_code(given["code"])
    return {"secret": found.secret.hex(), "corrected": found.corrected, "code": found.text}


def _erasure(given: Values) -> Values:
    profile = Profile(given["k"], given["m"])
    if "shards" in given:
        shards = {int(slot): bytes.fromhex(shard) for slot, shard in given["shards"].items()}
        return {"decoded": erasure.decode(profile, shards, given["sealed_bytes"]).hex()}
    sealed = _raw(given, "sealed")
    made = erasure.encode(profile, sealed)
    told: Values = {"shards": [bytes(shard).hex() for shard in made]}
    if len(sealed) >= 54:  # the least a sealed chunk has
        digests = b"".join(digest_of(shard) for shard in made)
        told["stripe_digest"] = StripeHeader(profile, len(sealed), digests).stripe_digest.hex()
    return told


def _shard_record(given: Values) -> Values:
    record, shard = ShardRecord.unpack(_raw(given, "record"))
    record.verify(shard)
    return {
        "account": record.account.hex(),
        "chunk": record.chunk.hex(),
        "generation": record.generation.hex(),
        "group": record.group,
        "slot": record.slot,
        "k": record.stripe.profile.k,
        "m": record.stripe.profile.m,
        "sealed_bytes": record.stripe.sealed_bytes,
        "shard": bytes(shard).hex(),
    }


def _device_list(given: Values) -> Values:
    signed = _signed(given)
    listed = open_device_list(signed, _cluster(given))
    return {
        "account": listed.account.hex(),
        "seq": listed.seq,
        "devices": [[device.id.hex(), device.name] for device in listed.devices],
        "digest": signed_digest(signed).hex(),
    }


def _enrolment(given: Values) -> Values:
    asked = open_enrolment(_signed(given), _cluster(given))
    return {"account": asked.account.hex(), "nonce": asked.nonce.hex(), "sign_key": asked.sign_key.hex()}


def _head(given: Values) -> Values:
    cluster, devices, signed = _cluster(given), _signed(given, "device_list"), _signed(given)
    listed = open_device_list(devices, cluster)
    head = open_head(
        signed, cluster, listed, signed_digest(devices), oldest_list_seq=given["oldest_list_seq"]
    )
    snapshots = open_snapshot_list(_raw(given, "snapshot_list"), head).snapshots
    return {
        "seq": head.seq,
        "digest": signed_digest(signed).hex(),
        "snapshots": [snapshot.hex() for snapshot in snapshots],
    }


def _snapshot_record(given: Values) -> Values:
    record = open_record(
        [AccountKeys.of(1, _raw(given, "account_key"))],
        _cluster(given),
        AccountId.from_hex(given["account"]),
        SnapshotId.from_hex(given["id"]),
        _raw(given, "sealed"),
    )
    return {
        "time_ns": record.time_ns,
        "paths": [path.hex() for path in record.paths],
        "files": record.files,
    }


def _manifest(given: Values) -> Values:
    entries = Page(_raw(given, "page")).entries(_raw(given, "after"))
    return {
        "entries": [
            {
                "kind": entry.kind,
                "path": entry.path.hex(),
                "size": entry.size,
                "extents": [
                    [extent.ref.chunk.hex(), extent.offset, extent.length] for extent in entry.extents
                ],
            }
            for entry in entries
        ]
    }


def _charter(given: Values) -> Values:
    charter = open_charter(PublicKey.from_hex(given["root"]), _signed(given), _cluster(given))
    return {"term": charter.term, "coordinator": charter.coordinator.hex()}


def _ticket(given: Values) -> Values:
    ticket = open_ticket(_raw(given, "signed"), _cluster(given), PublicKey.from_hex(given["coordinator"]))
    node = NodeId.from_hex(given["node"])
    slot = admit(ticket, verb=given["verb"], node=node, term=given["term"], now_ms=given["now_ms"])
    return {"slot": slot, "group": ticket.group}


def _receipt(given: Values) -> Values:
    receipt = open_receipt(_signed(given), _cluster(given), PublicKey.from_hex(given["node_key"]))
    entries = [[entry.chunk.hex(), entry.slot, entry.digest.hex()] for entry in receipt.entries]
    return {"node": receipt.node.hex(), "entries": entries}


def _request(given: Values) -> Values:
    gate = Gate(_raw(given, "receiver"), _cluster(given), given["started_ms"])
    auth = parse_auth(given["header"])
    for _ in range(given["times"]):
        gate.check(
            auth,
            PublicKey.from_hex(given["key"]),
            given["method"],
            given["target"],
            Digest.from_hex(given["body_digest"]),
            now_ms=given["now_ms"],
        )
    return {"signer": auth.signer.hex(), "time_ms": auth.time_ms}


def _names(given: Values) -> Values:
    named = {
        "cluster": cluster_id,
        "account": account_id,
        "device": device_id,
        "node": node_id,
        "key": key_id,
    }
    return {"id": named[given["kind"]](PublicKey.from_hex(given["public_key"])).hex()}


def _address(given: Values) -> Values:
    secret = b""
    if given["what"] == "token":
        token = Token.parse(given["text"])
        found, secret = token.address, token.secret
    else:
        found = Address.parse(given["text"])
    return {"url": found.url, "cluster": str(found.cluster or ""), "secret": secret.hex()}


def _map(given: Values) -> Values:
    opened = open_map(_signed(given), _cluster(given), PublicKey.from_hex(given["coordinator"]))
    return {
        "epoch": opened.epoch,
        "nodes": [[node.id.hex(), node.url, node.zone] for node in opened.nodes],
        "groups": [[group.id, group.version, str(group.profile)] for group in opened.groups],
    }


def _frame(given: Values) -> Values:
    header, rest = split_frame(_raw(given, "body"))
    return {"header": bytes(header).hex(), "shards": bytes(rest).hex()}


def _cutting(given: Values) -> Values:
    seed = cut_seed(_raw(given, "k_cut"))
    cutter = StreamCutter(seed)
    stream = blake3(given["blake3_of"].encode()).digest(length=given["bytes"])
    chunks = [len(chunk) for chunk in cutter.feed(stream)] + [len(chunk) for chunk in cutter.finish()]
    return {"seed": str(seed), "chunks": chunks}


READERS: dict[str, Callable[[Values], Values]] = {
    "account-facts": account_facts,
    "address": _address,
    "charter": _charter,
    "codec": _codec,
    "cutting": _cutting,
    "device-list": _device_list,
    "device-list-chain": device_list_chain,
    "enrolment": _enrolment,
    "erasure": _erasure,
    "frame": _frame,
    "head": _head,
    "head-chain": head_chain,
    "keys": _keys,
    "manifest": _manifest,
    "map": _map,
    "names": _names,
    "padme": _padme,
    "receipt": _receipt,
    "recovery-code": _recovery_code,
    "request": _request,
    "sealing": _sealing,
    "shard-record": _shard_record,
    "signature": _signature,
    "snapshot-record": _snapshot_record,
    "ticket": _ticket,
    "witness-statement": witness_statement,
    "witness-verdict": witness_verdict,
}
