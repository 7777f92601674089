"""Witnesses of heads, reigns of coordinators, and what nodes keep to rebuild a coordinator from.

Node, asked by a coordinator:

- ``POST /v1/reign``           Reign -> Reigned; signed by the key that the charter inside names
- ``POST /v1/witness/keep``    KeepHead -> HeadKept; signed by the coordinator this node follows
- ``POST /v1/kept/accounts``   ReadAccounts -> AccountsKept; so are the following
- ``POST /v1/kept/heads``      ReadHeads -> HeadsKept
- ``POST /v1/kept/records``    ReadRecords -> RecordsKept

Node, asked by anybody:

- ``GET  /v1/reign``           Reigned (unsigned)
- ``POST /v1/witness``         AskWitness -> Witnessed; signed by a device that the device list in it lists

A node keeps what it is given even when it is no witness of the account any more.
"""

from __future__ import annotations

from typing import Literal

from holdfast.protocol.codec import Message, Record
from holdfast.protocol.ids import AccountId, Digest, NodeId, PublicKey, SnapshotId
from holdfast.protocol.signing import Signed

__all__ = [
    "AccountFacts",
    "AccountsKept",
    "AskWitness",
    "HeadKept",
    "HeadsKept",
    "KeepHead",
    "KeptAccount",
    "KeptHead",
    "KeptMap",
    "ReadAccounts",
    "ReadHeads",
    "ReadRecords",
    "RecordsKept",
    "Reign",
    "Reigned",
    "WitnessStatement",
    "Witnessed",
]


class WitnessStatement(Record):
    """A node's word (kind "witness") on the heads it keeps of an account.

    Attributes:
        seq, head: number and signed digest of the newest head it keeps; 0 and zeros: none.
        asked_seq, asked_head: the number it was asked for, and the digest it keeps there (zeros: none).
        nonce: of whoever asked.
    """

    version: Literal[1]
    node: NodeId
    account: AccountId
    seq: int
    head: Digest
    asked_seq: int
    asked_head: Digest
    time_ms: int
    nonce: bytes


class AccountFacts(Record):
    """What a rebuilt coordinator has to know of an account (kind "account", by the coordinator)."""

    version: Literal[1]
    term: int
    account: AccountId
    device_list: Signed
    quota_bytes: int
    sweep_generation: int


class KeptAccount(Record):
    """Facts as a node keeps them, with the charter of the coordinator that signed them."""

    version: Literal[1]
    facts: Signed
    charter: Signed


class KeptHead(Record):
    """A head as a node keeps it, with its exact snapshot list."""

    version: Literal[1]
    head: Signed
    snapshot_list: bytes


class KeptMap(Record):
    """The newest cluster map a node has met, with the charter of the coordinator that signed it."""

    version: Literal[1]
    map: Signed
    charter: Signed


class Reign(Message):
    """Who coordinates, by the root's word; where it serves ("": not yet); the newest map, if there is one."""

    root: PublicKey
    charter: Signed
    url: str
    map: Signed | None


class Reigned(Message):
    """The highest term this node has met (0: none), and its charter; ``map``: see HeadKept."""

    term: int
    charter: Signed | None
    map: bytes


class KeepHead(Message):
    """Facts of an account, and a head with its list and the records that are new in it.

    Attributes:
        facts: kind "account".
        head: None: the facts alone.
        device_list: the list that the head was verified by, which may be older than the one in ``facts``.
        records: sealed snapshot records; each proves itself by its id.
    """

    facts: Signed
    head: Signed | None
    device_list: Signed
    snapshot_list: bytes
    records: list[bytes]


class HeadKept(Message):
    """Durable. The statement's nonce is empty.

    Attributes:
        since: number of the oldest head of the unbroken run that ends with the newest (0: none).
        lacking: records that the newest list names and that are not here; at most RECORDS_FETCH_MAX.
        map: BLAKE3 of the payload of the cluster map that is kept here; empty: none.
    """

    statement: Signed
    since: int
    lacking: list[SnapshotId]
    map: bytes


class AskWitness(Message):
    """What do you know of this account's heads? The device list proves who asks."""

    device_list: Signed
    seq: int
    nonce: bytes


class Witnessed(Message):
    """``head``: the newest one kept, where its number is higher than the one asked for."""

    statement: Signed
    head: Signed | None


class ReadAccounts(Message):
    """Accounts kept, by id, behind ``after`` (empty: from the first)."""

    after: bytes


class AccountsKept(Message):
    """In order; none: that was all. ``map`` comes with the first answer."""

    accounts: list[KeptAccount]
    map: KeptMap | None


class ReadHeads(Message):
    """Heads of one account with numbers above ``after``."""

    account: AccountId
    after: int


class HeadsKept(Message):
    """In order; none: that was all."""

    heads: list[KeptHead]


class ReadRecords(Message):
    """Sealed snapshot records of one account, by id, behind ``after`` (empty: from the first)."""

    account: AccountId
    after: bytes


class RecordsKept(Message):
    """In order of their ids; none: that was all."""

    records: list[bytes]
