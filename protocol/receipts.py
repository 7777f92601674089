"""Receipts: a node's signed word that named shards are durable on it.

Issued after the commit that made them durable, valid for one upload alone,
checked by the client at once and by the coordinator in the commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from holdfast.protocol.codec import Record, decode, encode
from holdfast.protocol.errors import Refused
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, Digest, NodeId, PublicKey, StoreId, UploadId
from holdfast.protocol.signing import Signed, node_id, verify

__all__ = ["Receipt", "ReceiptEntry", "encode_receipt", "open_receipt", "open_receipt_of_any"]


class ReceiptEntry(Record):
    """One durable shard. ``generation`` is the upload that stored the stripe."""

    chunk: ChunkId
    generation: UploadId
    slot: int
    digest: Digest


class Receipt(Record):
    """What a node vouches for; ``store_counter`` is the store's durable commit counter after it."""

    version: Literal[1]
    node: NodeId
    account: AccountId
    upload: UploadId
    term: int
    group: int
    group_version: int
    time_ms: int
    store: StoreId
    store_counter: int
    entries: list[ReceiptEntry]


def encode_receipt(receipt: Receipt) -> bytes:
    """The payload to sign."""
    return encode(receipt)


def open_receipt(signed: Signed, cluster: ClusterId, node_key: PublicKey) -> Receipt:
    """The receipt in an envelope, verified as of the node with this key.

    Raises:
        Refused: the signature does not hold or it names another node.
        BadRequest: not a receipt.
    """
    verify(node_key, signed.signature, "receipt", cluster, signed.payload)
    return _of(decode(signed.payload, Receipt), node_key)


def open_receipt_of_any(signed: Signed, cluster: ClusterId, keys: Mapping[NodeId, PublicKey]) -> Receipt:
    """The receipt in an envelope, verified as of the node that it names.

    Raises:
        Refused: it names none of these, or the signature does not hold.
        BadRequest: not a receipt.
    """
    receipt = decode(signed.payload, Receipt)
    key = keys.get(receipt.node)
    if key is None:
        raise Refused(f"a receipt is from node {receipt.node.short}, which is not in this cluster")
    verify(key, signed.signature, "receipt", cluster, signed.payload)
    return _of(receipt, key)


def _of(receipt: Receipt, key: PublicKey) -> Receipt:
    if receipt.node != node_id(key):
        raise Refused("a receipt names another node than the one that signed it")
    return receipt
