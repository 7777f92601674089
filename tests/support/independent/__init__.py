"""A reader of Holdfast's formats written from docs/FORMAT.md alone, one function for each topic's vectors.

Nothing of Holdfast is imported here, only public primitives; the shapes of records and messages are read
out of the specification's own text. What comes out is what a vector expects; a refusal carries the
error's name.
"""

from __future__ import annotations

from collections.abc import Callable

from support.independent import account, cluster, content, witness
from support.independent.primitives import RefusedAs, Values

__all__ = ["TOPICS", "RefusedAs"]

TOPICS: dict[str, Callable[[Values], Values]] = {
    "account-facts": witness.account_facts,
    "address": cluster.address,
    "charter": cluster.charter,
    "codec": cluster.codec,
    "cutting": content.cutting,
    "device-list": account.device_list,
    "device-list-chain": account.device_list_chain,
    "enrolment": account.enrolment,
    "erasure": content.erasure,
    "frame": cluster.frame,
    "head": account.head,
    "head-chain": account.head_chain,
    "keys": account.keys,
    "manifest": content.manifest,
    "map": cluster.cluster_map,
    "names": cluster.names,
    "padme": content.padme,
    "receipt": cluster.receipt,
    "recovery-code": account.recovery_code,
    "request": cluster.request,
    "sealing": content.sealing,
    "shard-record": content.shard_record,
    "signature": cluster.signature,
    "snapshot-record": account.snapshot_record,
    "ticket": cluster.ticket,
    "witness-statement": witness.statement,
    "witness-verdict": witness.verdict,
}
