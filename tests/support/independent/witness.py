"""The independent reader: witnesses' statements and verdicts, and facts of accounts."""

from __future__ import annotations

from support.independent.account import open_list
from support.independent.primitives import Values, decode, named, need, opened, raw

__all__ = ["account_facts", "statement", "verdict"]


def statement(given: Values) -> Values:
    key, cluster = raw(given, "node_key"), raw(given, "cluster")
    need(named("node", key, 16).hex() == given["node"], "BadRequest")
    told = opened(raw(given, "signed"), "witness", "WitnessStatement", cluster, key)
    need(told["node"].hex() == given["node"], "Refused")
    need(told["seq"] >= 0 and (told["seq"] == 0) == (told["head"] == bytes(32)), "BadRequest")
    return {"seq": told["seq"], "head": told["head"].hex(), "asked_head": told["asked_head"].hex()}


def verdict(given: Values) -> Values:
    n, c, x, u = given["witnesses"], *(len(given[name]) for name in ("having", "newer", "silent"))
    is_majority = (lambda count: 2 * count > n) if n else (lambda count: True)
    need(not (x and is_majority(x)), "Rollback")
    need(is_majority(c) and (x == 0 or not is_majority(x + u)), "Unwitnessed")
    return {"having": c}


def account_facts(given: Values) -> Values:
    cluster = raw(given, "cluster")
    charter = opened(raw(given, "charter"), "charter", "Charter", cluster, raw(given, "root"))
    told = opened(raw(given, "signed"), "account", "AccountFacts", cluster, charter["coordinator"])
    need(told["term"] == charter["term"], "Refused")
    listed = open_list(_again(told["device_list"]), cluster)
    need(listed["account"] == told["account"], "BadRequest")
    need(told["quota_bytes"] >= 0 and told["sweep_generation"] >= 0, "BadRequest")
    return {
        "account": told["account"].hex(),
        "quota_bytes": told["quota_bytes"],
        "generation": told["sweep_generation"],
    }


def _again(signed: Values) -> bytes:
    import msgpack

    made: bytes = msgpack.packb([signed["payload"], signed["signature"]])
    assert decode("Signed", made)
    return made
