"""Cases of what servers sign and send: encoding, signatures, charter, tickets, receipts, requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack

from holdfast.protocol.charter import Charter
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.ids import ChunkId, Digest, KeyId, NodeId, StoreId, UploadId
from holdfast.protocol.messages.cluster import ClusterMap, MapGroup, MapNode
from holdfast.protocol.messages.uploads import Claim
from holdfast.protocol.receipts import Receipt, ReceiptEntry
from holdfast.protocol.requests import Signer
from holdfast.protocol.signing import Signed, node_id, public_key, sign
from holdfast.protocol.stripes import digest_of
from holdfast.protocol.tickets import Ticket
from support.vectors.case import (
    CLUSTER,
    CLUSTER_KEY,
    COORDINATOR,
    DEVICE,
    NODE,
    ROOT,
    STRANGER,
    TIME_MS,
    Case,
    changed,
    flipped,
    signed,
    signed_hex,
)

_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
UPLOAD = UploadId(b"\x08" * 16)
OWN = node_id(public_key(NODE))
RECEIPT = Receipt(
    1,
    OWN,
    ROOT.account,
    UPLOAD,
    1,
    5,
    3,
    TIME_MS,
    StoreId(b"\x0a" * 16),
    42,
    [ReceiptEntry(ChunkId(b"\7" * 32), UPLOAD, 2, Digest(b"\x09" * 32))],
)


def codec() -> Iterator[Case]:
    def claim(name: str, about: str, raw: bytes, outcome: str = "BadRequest") -> Case:
        return Case("codec", name, about, {"shape": "Claim", "bytes": raw.hex()}, outcome)

    def record(name: str, about: str, raw: bytes, outcome: str = "BadRequest") -> Case:
        return Case("codec", name, about, {"shape": "Receipt", "bytes": raw.hex()}, outcome)

    right = encode(Claim(chunks=[ChunkId(b"\7" * 32)]))
    receipt = encode(RECEIPT)
    fields = decode(receipt, list)
    key = b"\x81\xa6chunks"
    yield claim("message", "a message is a map in field order", right, "ok")
    yield record("record", "a record is an array", receipt, "ok")
    yield claim("trailing-byte", "a byte behind the value", right + b"\0")
    yield claim("cut-off", "the last byte is missing", right[:-1])
    yield claim("empty", "nothing at all", b"")
    yield claim("long-array", "an array with 16 bits of length", key + b"\xdc\0\1\xc4\x20" + b"\7" * 32)
    yield claim("long-bytes", "32 bytes with 16 bits of length", key + b"\x91\xc5\0\x20" + b"\7" * 32)
    yield record("long-integer", "1 written in 16 bits", receipt.replace(b"\x01", b"\xcd\0\x01", 1))
    yield claim("duplicate-key", "the same key twice", b"\x82\xa6chunks\x90\xa6chunks\x90")
    yield claim("unknown-key", "a field that is not known", msgpack.packb({"chunks": [], "more": 1}))
    yield claim("missing-key", "a field is missing", b"\x80")
    yield claim("text-for-bytes", "a string where bytes belong", msgpack.packb({"chunks": ["7" * 32]}))
    yield claim("short-id", "an id of 31 bytes", msgpack.packb({"chunks": [b"\7" * 31]}))
    extension = msgpack.packb({"chunks": [msgpack.ExtType(1, b"\7" * 32)]})
    yield claim("extension", "an extension type", extension)
    yield record("float", "a floating-point number for an integer", encode([1.0, *fields[1:]]))
    yield record("bool", "true for an integer", encode([True, *fields[1:]]))
    yield claim("nil", "nil where it is not optional", msgpack.packb({"chunks": None}))
    yield record("other-version", "a version that is not known", encode([2, *fields[1:]]))
    yield record("additional-element", "one element more", encode([*fields, 0]))
    yield record("missing-element", "one element less", encode(fields[:-1]))
    yield claim("bad-utf8", "text that is not UTF-8", b"\x81\xa6chunk\xff\x90")
    yield claim("deep", "arrays within arrays", b"\x91" * 600 + b"\x90")

    def nonce(name: str, about: str, value: object, outcome: str = "BadRequest") -> Case:
        given = {"shape": "EnrolmentNonce", "bytes": msgpack.packb(value).hex()}
        return Case("codec", name, about, given, outcome)

    yield nonce("two-fields", "fields in their order", {"nonce": b"\x12" * 16, "expires_ms": 1}, "ok")
    yield nonce("other-order", "the same in another order", {"expires_ms": 1, "nonce": b"\x12" * 16})
    yield nonce("array-for-map", "a message written as a record", [b"\x12" * 16, 1])


def signature() -> Iterator[Case]:
    payload = b"what is signed"
    good = sign(STRANGER, "head", CLUSTER, payload)

    def case(name: str, about: str, outcome: str = "Refused", **given: Any) -> Case:
        values = {
            "kind": "head",
            "cluster": CLUSTER.hex(),
            "payload": payload.hex(),
            "public_key": public_key(STRANGER).hex(),
            "signature": good.hex(),
        }
        return Case("signature", name, about, {**values, **given}, outcome)

    def weak(y: int) -> str:
        return y.to_bytes(32, "little").hex()

    yield case("good", "a signature that holds", "ok")
    yield case("other-kind", "a head's signature for a receipt", kind="receipt")
    yield case("other-cluster", "of another cluster", cluster="ff" * 32)
    yield case("other-payload", "one bit of the payload differs", payload=flipped(payload, 0).hex())
    yield case("other-key", "by another key", public_key=public_key(NODE).hex())
    yield case("flipped", "one bit of the signature differs", signature=flipped(good, 3).hex())
    yield case("not-reduced", "y = 2^255 - 18: 1, written twice", "BadRequest", public_key=weak(2**255 - 18))
    eight = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
    other_eight = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
    for name, key in (("eight", eight), ("other-eight", other_eight)):
        about = "a point of order eight"
        yield case(f"small-order-{name}", about, "BadRequest", public_key=key)
    nowhere = weak(2)
    yield case("no-point", "a y that no point of the curve has", public_key=nowhere)
    for name, y in (("zero", 0), ("one", 1), ("minus-one", 2**255 - 20)):
        yield case(f"small-order-{name}", "a point of small order", "BadRequest", public_key=weak(y))


def charter() -> Iterator[Case]:
    right = Charter(1, 3, public_key(COORDINATOR))

    def case(name: str, about: str, outcome: str = "Refused", key: Any = CLUSTER_KEY, **given: Any) -> Case:
        values = {
            "cluster": CLUSTER.hex(),
            "root": public_key(CLUSTER_KEY).hex(),
            "signed": signed_hex("charter", right, key),
        }
        return Case("charter", name, about, {**values, **given}, outcome)

    yield case("good", "the root's word on its coordinator", "ok")
    yield case("other-cluster", "another cluster answers", cluster="66" * 32)
    yield case("other-root", "a root that is not the cluster's", root=public_key(STRANGER).hex())
    yield case("other-signer", "signed by somebody else", key=STRANGER)
    own = public_key(STRANGER).hex()
    yield case("impostor", "a charter that another root signed for this cluster", key=STRANGER, root=own)


def ticket() -> Iterator[Case]:
    members = [NodeId(bytes([i]) * 16) for i in range(1, 6)]
    right = Ticket(
        1,
        ROOT.account,
        public_key(DEVICE.sign_key),
        "write",
        5,
        3,
        4,
        2,
        [*members, OWN],
        UPLOAD,
        10**6,
        TIME_MS + 60_000,
        2,
        KeyId(b"\x0f" * 8),
    )

    def case(
        name: str,
        about: str,
        outcome: str = "Refused",
        *,
        record: Ticket = right,
        key: Any = COORDINATOR,
        **given: Any,
    ) -> Case:
        values = {
            "cluster": CLUSTER.hex(),
            "coordinator": public_key(COORDINATOR).hex(),
            "signed": signed_hex("ticket", record, key),
            "verb": "write",
            "node": OWN.hex(),
            "term": 2,
            "now_ms": TIME_MS,
        }
        return Case("ticket", name, about, {**values, **given}, outcome)

    reading, other = changed(right, verb="read"), "77" * 16
    yield case("good", "a member writes", "ok")
    yield case(
        "former-holder", "a node without a slot is read", "ok", record=reading, verb="read", node=other
    )
    yield case("other-signer", "signed by somebody else", key=STRANGER)
    yield case("other-verb", "a write ticket for reading", verb="read")
    yield case("no-member", "a node without a slot", node=other)
    yield case("old-term", "a term that is over", term=3)
    yield case("expired", "at the very moment it ends", "TicketExpired", now_ms=TIME_MS + 60_000)
    late = changed(right, expires_ms=TIME_MS + 1_200_001)
    yield case("far-future", "it ends more than twenty minutes ahead", record=late)
    yield case("few-members", "five for six slots", "BadRequest", record=changed(right, members=members))


def receipt() -> Iterator[Case]:
    def case(
        name: str,
        about: str,
        outcome: str = "Refused",
        *,
        record: Receipt = RECEIPT,
        key: Any = NODE,
        **given: Any,
    ) -> Case:
        values = {
            "cluster": CLUSTER.hex(),
            "node_key": public_key(NODE).hex(),
            "signed": signed_hex("receipt", record, key),
        }
        return Case("receipt", name, about, {**values, **given}, outcome)

    right = signed("receipt", RECEIPT, NODE)
    broken = encode(Signed(flipped(right.payload, -1), right.signature)).hex()
    yield case("good", "a node's word", "ok")
    yield case("other-signer", "signed by another node", key=STRANGER)
    yield case("other-node", "names another node", record=changed(RECEIPT, node=NodeId(b"\1" * 16)))
    yield case("other-cluster", "of another cluster", cluster="66" * 32)
    yield case("flipped", "one bit differs", signed=broken)


def request() -> Iterator[Case]:
    signer = Signer("device", ROOT.account, DEVICE.id, DEVICE.sign_key, CLUSTER)
    receiver, body = public_key(COORDINATOR), digest_of(b"body")
    auth = signer.sign(receiver, "POST", "/v1/locate?x=1", body, time_ms=TIME_MS, nonce=b"\x12" * 16)

    def case(name: str, about: str, outcome: str = "Refused", **given: Any) -> Case:
        values = {
            "cluster": CLUSTER.hex(),
            "receiver": receiver.hex(),
            "key": public_key(DEVICE.sign_key).hex(),
            "header": auth.header(),
            "method": "POST",
            "target": "/v1/locate?x=1",
            "body_digest": body.hex(),
            "started_ms": 0,
            "now_ms": TIME_MS,
            "times": 1,
        }
        return Case("request", name, about, {**values, **given}, outcome)

    yield case("good", "a request by a device", "ok")
    yield case("just-in-time", "300 s later", "ok", now_ms=TIME_MS + 300_000)
    yield case("other-body", "another body", body_digest=digest_of(b"other").hex())
    yield case("other-target", "another query", target="/v1/locate?x=2")
    yield case("other-method", "another method", method="PUT")
    yield case("other-receiver", "meant for somebody else", receiver=public_key(NODE).hex())
    yield case("other-cluster", "of another cluster", cluster="66" * 32)
    yield case("twice", "the same request twice", times=2)
    yield case("too-late", "300.001 s later", "StaleRequest", now_ms=TIME_MS + 300_001)
    yield case("too-early", "300.001 s before", "StaleRequest", now_ms=TIME_MS - 300_001)
    yield case("before-start", "older than the receiver", "StaleRequest", started_ms=TIME_MS + 1)
    yield case("not-base64", "a header that is not base64", "BadRequest", header="!")
    header = auth.header()
    assert "_" in header and header.endswith("=")
    loose = header.rstrip("=")
    last = _BASE64[_BASE64.index(loose[-1]) + 1] + "=" * (len(header) - len(loose))
    for name, about, text in (
        ("other-base64", "'+' and '/' in place of '-' and '_'", header.replace("-", "+").replace("_", "/")),
        ("loose-bits", "bits behind the last byte", loose[:-1] + last),
        ("no-padding", "without the '=' at the end", loose),
    ):
        yield case(name, about, "BadRequest", header=text)
    short = signer.sign(receiver, "POST", "/v1/locate?x=1", body, time_ms=TIME_MS, nonce=b"\x12" * 15)
    yield case("short-nonce", "a nonce of 15 bytes", "BadRequest", header=short.header())
    for name, about, other in (
        ("short-account", "an account id of 31 bytes", changed(auth, account=bytes(31))),
        ("long-signer", "a signer of 33 bytes", changed(auth, signer=bytes(33))),
    ):
        yield case(name, about, "BadRequest", header=other.header())


def names() -> Iterator[Case]:
    for kind, key in (
        ("cluster", CLUSTER_KEY),
        ("account", ROOT.sign_key),
        ("device", DEVICE.sign_key),
        ("node", NODE),
        ("key", COORDINATOR),
    ):
        given = {"kind": kind, "public_key": public_key(key).hex()}
        yield Case("names", kind, f"the {kind} id of a public key", given)
    weak = {"kind": "cluster", "public_key": "01" + "00" * 31}
    yield Case("names", "weak-root", "no cluster has a root of small order", weak, "BadRequest")


def address() -> Iterator[Case]:
    secret = "CIJBEEQSCIJBEEQSCIJBEEQSCI"
    url, named = "http://127.0.0.1:7700", f"http://127.0.0.1:7700#{CLUSTER}"

    def case(what: str, name: str, about: str, text: str, outcome: str = "BadRequest") -> Case:
        return Case("address", name, about, {"what": what, "text": text}, outcome)

    yield case("address", "good", "a URL and a cluster id", named, "ok")
    yield case("address", "no-id", "a URL alone", url, "ok")
    yield case(
        "address", "no-scheme", "http is meant, and a slash behind is dropped", "example.org:7700/", "ok"
    )
    yield case("address", "upper-case", "a cluster id has one spelling", f"{url}#{str(CLUSTER).upper()}")
    yield case("address", "short-id", "a cluster id of 31 bytes", f"{url}#{str(CLUSTER)[:-2]}")
    yield case("address", "path", "a URL with a path", f"{url}/v1#{CLUSTER}")
    yield case("address", "query", "a URL with a query", f"{url}?x=1#{CLUSTER}")
    yield case("address", "user", "a URL with a user", f"http://ada@127.0.0.1:7700#{CLUSTER}")
    yield case("address", "scheme", "neither http nor https", f"ftp://127.0.0.1:7700#{CLUSTER}")
    yield case("address", "port", "a port that is none", f"http://127.0.0.1:77000#{CLUSTER}")
    yield case("token", "token", "an address and a secret", f"{named}#{secret}", "ok")
    yield case("token", "token-short", "a secret of 25 characters", f"{named}#{secret[:-1]}")
    yield case("token", "token-lower-case", "a secret has one spelling", f"{named}#{secret.lower()}")
    yield case("token", "token-no-cluster", "a token without a cluster id", f"{url}#{secret}")


def cluster_map() -> Iterator[Case]:
    node = MapNode(OWN, public_key(NODE), "http://127.0.0.1:7701", "rack 1")
    others = [NodeId(bytes([i]) * 16) for i in range(1, 3)]
    right = ClusterMap(1, 2, 9, [node], [MapGroup(5, 3, 2, 1, [*others, OWN])])

    def case(name: str, about: str, outcome: str, record: ClusterMap = right, key: Any = COORDINATOR) -> Case:
        values = {
            "cluster": CLUSTER.hex(),
            "coordinator": public_key(COORDINATOR).hex(),
            "signed": signed_hex("map", record, key),
        }
        return Case("map", name, about, values, outcome)

    yield case("good", "one node and one group", "ok")
    yield case("other-signer", "signed by a node", "Refused", key=NODE)
    few = changed(right, groups=[MapGroup(5, 3, 2, 1, others)])
    yield case("few-members", "two nodes for three slots", "BadRequest", few)
    wide = changed(right, groups=[MapGroup(5, 3, 0, 1, [OWN])])
    yield case("no-data-shards", "a group without data shards", "BadRequest", wide)


def frame() -> Iterator[Case]:
    def case(name: str, about: str, body: bytes, outcome: str = "ok") -> Case:
        return Case("frame", name, about, {"body": body.hex()}, outcome)

    yield case("good", "a header of three bytes and two of shards", b"\0\0\0\x03abcde")
    yield case("no-shards", "a header alone", b"\0\0\0\x03abc")
    yield case("short", "three bytes", b"\0\0\0", "BadRequest")
    yield case("cut-off", "a header that is longer than the body", b"\0\0\0\x04abc", "BadRequest")
    yield case("huge", "a header that is longer than any may be", b"\xff\xff\xff\xffabc", "BadRequest")


CLUSTER_CASES = (codec, signature, charter, ticket, receipt, request, names, address, cluster_map, frame)
