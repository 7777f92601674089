"""The cluster root's word on who the coordinator is.

A cluster id is BLAKE3 of the root's public key (SPKI DER). The root key lies
offline in the cluster kit; online, the coordinator shows a charter signed by
it: its own key and its term. Whoever knows the cluster id can verify both.
"""

from __future__ import annotations

from typing import Literal

from blake3 import blake3
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from holdfast.protocol.codec import Record, decode
from holdfast.protocol.errors import Refused
from holdfast.protocol.ids import ClusterId, PublicKey
from holdfast.protocol.signing import Signed, check_public_key, verify

__all__ = ["Charter", "cluster_id", "open_charter"]


class Charter(Record):
    """The coordinator's signing key for one term."""

    version: Literal[1]
    term: int
    coordinator: PublicKey


def cluster_id(root: PublicKey) -> ClusterId:
    """The cluster of a root public key."""
    spki = check_public_key(root).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return ClusterId(blake3(spki).digest())


def open_charter(root: PublicKey, signed: Signed, expected: ClusterId) -> Charter:
    """The charter, proven to come from the cluster of that id.

    Raises:
        Refused: the root key is not that cluster's, or the signature does not hold.
        BadRequest: not a charter.
    """
    if cluster_id(root) != expected:
        raise Refused(
            "this is another cluster than the one asked for",
            do="Check the address: the part after '#' is the cluster's id.",
            expected=expected.hex(),
            found=cluster_id(root).hex(),
        )
    verify(root, signed.signature, "charter", expected, signed.payload)
    return decode(signed.payload, Charter)
