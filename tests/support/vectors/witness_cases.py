"""Cases of witnesses: their statements, what a new device makes of them, and the facts that nodes keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.client.identity import RootKeys, first_device_list
from holdfast.protocol.accounts import NO_DIGEST
from holdfast.protocol.charter import Charter
from holdfast.protocol.ids import Digest
from holdfast.protocol.messages.witness import AccountFacts, WitnessStatement
from holdfast.protocol.signing import node_id, public_key
from support.vectors.case import (
    ACCOUNT_KEY,
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
    signed_hex,
)

OWN = node_id(public_key(NODE))


def statement() -> Iterator[Case]:
    right = WitnessStatement(
        1, OWN, ROOT.account, 7, Digest(b"\x11" * 32), 6, Digest(b"\x12" * 32), TIME_MS, b"\x13" * 16
    )

    def case(name: str, about: str, outcome: str, told: Any = right, key: Any = NODE, **given: Any) -> Case:
        values = {
            "cluster": CLUSTER.hex(),
            "node": OWN.hex(),
            "node_key": public_key(NODE).hex(),
            "signed": signed_hex("witness", told, key),
        }
        return Case("witness-statement", name, about, {**values, **given}, outcome)

    none = changed(right, seq=0, head=NO_DIGEST, asked_head=NO_DIGEST)
    yield case("good", "a witness's word on head 6, with head 7 as the newest", "ok")
    yield case("none", "it keeps no head of the account", "ok", none)
    yield case("other-signer", "signed by somebody else", "Refused", key=STRANGER)
    yield case(
        "other-node", "names another node", "Refused", changed(right, node=node_id(public_key(STRANGER)))
    )
    yield case("other-cluster", "of another cluster", "Refused", cluster="66" * 32)
    yield case("not-its-key", "a key that is not the node's", "BadRequest", node="77" * 16)
    yield case("none-with-head", "no number, and yet a head", "BadRequest", changed(right, seq=0))
    yield case("head-without-hash", "a number, and no head", "BadRequest", changed(right, head=NO_DIGEST))
    yield case("negative", "a number below 0", "BadRequest", changed(right, seq=-1))


def verdict() -> Iterator[Case]:
    def case(
        name: str, about: str, having: str, newer: str, silent: str, outcome: str = "Unwitnessed", of: int = 5
    ) -> Case:
        """Which of the witnesses (their numbers as digits) keep it, show a newer one, say nothing."""
        values = {"witnesses": of, "having": having, "newer": newer, "silent": silent}
        return Case("witness-verdict", name, about, values, outcome)

    yield case("all", "everybody keeps it, and nothing newer", "01234", "", "", "ok")
    yield case("two-away", "two of five do not answer", "012", "", "34", "ok")
    yield case("three-away", "too many do not answer", "01", "", "234")
    yield case("pending", "a head on its way, which two have already", "01234", "34", "", "ok")
    yield case("pending-and-away", "one has a newer one, two are silent: a majority could", "012", "2", "34")
    yield case("outdated", "a majority keeps something newer", "01234", "234", "", "Rollback")
    yield case("outdated-and-gone", "the same, and nobody keeps this one", "", "234", "", "Rollback")
    yield case("unknown", "everybody answers, nobody keeps it", "", "", "")
    yield case("minority", "two of five keep it", "01", "", "")
    yield case("one", "the only witness keeps it", "0", "", "", "ok", 1)
    yield case("one-away", "the only witness is silent", "", "", "0", "Unwitnessed", 1)
    yield case("nobody", "a head that names no witness", "", "", "", "ok", 0)


def facts() -> Iterator[Case]:
    listed = first_device_list(ROOT, DEVICE, "laptop", CLUSTER, ACCOUNT_KEY)
    other_root = RootKeys.of(b"\x21" * 32)
    other = first_device_list(other_root, DEVICE, "laptop", CLUSTER, ACCOUNT_KEY)
    right = AccountFacts(1, 3, ROOT.account, listed, 10**9, 4)
    charter = signed_hex("charter", Charter(1, 3, public_key(COORDINATOR)), CLUSTER_KEY)

    def case(name: str, about: str, outcome: str, told: Any = right, key: Any = COORDINATOR) -> Case:
        values = {
            "cluster": CLUSTER.hex(),
            "root": public_key(CLUSTER_KEY).hex(),
            "charter": charter,
            "signed": signed_hex("account", told, key),
        }
        # The device list in it holds HPKE ciphertexts.
        return Case("account-facts", name, about, values, outcome, kept=True)

    yield case("good", "what a coordinator says of an account", "ok")
    yield case("other-signer", "signed by somebody else", "Refused", key=STRANGER)
    yield case("other-term", "of another term than the charter", "Refused", changed(right, term=2))
    yield case(
        "other-account", "another account's device list", "BadRequest", changed(right, device_list=other)
    )
    yield case("negative", "a quota below 0", "BadRequest", changed(right, quota_bytes=-1))


WITNESS_CASES = (statement, verdict, facts)
