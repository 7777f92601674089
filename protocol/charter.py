"""The cluster root's word on who the coordinator is.

A cluster id is BLAKE3 of the root's public key (SPKI DER). The root key lies
offline in the cluster kit; online, the coordinator shows a charter signed by
it: its own key and its term. Whoever knows the cluster id can verify both.
"""

from __future__ import annotations

from typing import Final, Literal

from blake3 import blake3

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


_SPKI_OF_ED25519: Final = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of a key in its SubjectPublicKeyInfo (RFC 8410, section 4). Written out
here: the library's serialisers, with every other kind of key, would be loaded for this alone."""


def cluster_id(root: PublicKey) -> ClusterId:
    """The cluster of a root public key."""
    check_public_key(root)
    return ClusterId(blake3(_SPKI_OF_ED25519 + root).digest())


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
