"""What the input of the witnesses' topics means."""

from __future__ import annotations

from holdfast.protocol.accounts import Witness
from holdfast.protocol.charter import open_charter
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import Rollback, Unwitnessed
from holdfast.protocol.ids import ClusterId, NodeId, PublicKey
from holdfast.protocol.signing import Signed
from holdfast.protocol.witnessing import Seen, judge, open_facts, open_statement
from support.vectors.case import Values


def _signed(given: Values, name: str) -> Signed:
    return decode(bytes.fromhex(given[name]), Signed)


def witness_statement(given: Values) -> Values:
    witness = Witness(NodeId.from_hex(given["node"]), PublicKey.from_hex(given["node_key"]))
    told = open_statement(_signed(given, "signed"), ClusterId.from_hex(given["cluster"]), witness)
    return {"seq": told.seq, "head": told.head.hex(), "asked_head": told.asked_head.hex()}


def witness_verdict(given: Values) -> Values:
    nodes = [NodeId(bytes([number]) * 16) for number in range(given["witnesses"])]
    seen = {
        node: Seen(str(number) in given["having"], str(number) in given["newer"])
        for number, node in enumerate(nodes)
        if str(number) not in given["silent"]
    }
    found = judge(nodes, seen)
    if found == "outdated":
        raise Rollback("the witnesses keep a newer head")
    if found == "unsure":
        raise Unwitnessed("too few witnesses confirm the head")
    return {"having": sum(each.has_it for each in seen.values())}


def account_facts(given: Values) -> Values:
    cluster = ClusterId.from_hex(given["cluster"])
    charter = open_charter(PublicKey.from_hex(given["root"]), _signed(given, "charter"), cluster)
    told = open_facts(_signed(given, "signed"), cluster, charter)
    return {
        "account": told.account.hex(),
        "quota_bytes": told.quota_bytes,
        "generation": told.sweep_generation,
    }
