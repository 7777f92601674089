"""The cluster's keys and the coordinator's: made once, kept in files of mode 0600.

    cluster-kit.pem   the root: an Ed25519 key and its self-signed X.509 certificate; to be kept offline
    coordinator.key   the online key that signs tickets and maps
    charter.bin       the root's word on that key and its term
    operator.key      what operators sign with

The cluster id is BLAKE3 of the root's public key (SPKI DER). Running needs no
root key: the kit may (and should) be moved away after the first start.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from holdfast.protocol import signing
from holdfast.protocol.address import Address
from holdfast.protocol.charter import Charter, cluster_id, open_charter
from holdfast.protocol.clock import Source
from holdfast.protocol.codec import Record, decode, encode
from holdfast.protocol.directory import read_private, remove_file, write_file
from holdfast.protocol.errors import BadRequest, WrongDirectory
from holdfast.protocol.ids import ClusterId, PublicKey
from holdfast.protocol.requests import Signer
from holdfast.protocol.signing import Signed, sign

__all__ = [
    "IDENTITY_FILES",
    "CoordinatorIdentity",
    "found_anew",
    "hand_over_operator_key",
    "load_or_make",
    "read_identity",
    "read_kit",
    "read_operator_key",
    "settle_identity",
]

IDENTITY_FILES: Final = (
    "cluster-kit.pem",
    "coordinator.key",
    "operator.seed",
    "charter.bin",
    "operator.key",
)
"""What :func:`load_or_make` and :func:`hand_over_operator_key` keep in the coordinator's folder."""
_KIT_WORDS = b"""Holdfast cluster kit.

Keep this file offline (paper, a stick in a drawer) and take it off this machine. It is the root of the
cluster: with it and the nodes a lost coordinator can be rebuilt; whoever has it can pose as the coordinator.
It cannot decrypt any backup: only each owner's recovery code can.

"""


@dataclass(frozen=True, repr=False)
class CoordinatorIdentity:
    """Who this coordinator is."""

    cluster: ClusterId
    root: PublicKey
    charter: Signed
    term: int
    key: Ed25519PrivateKey
    operator: PublicKey

    @cached_property
    def public(self) -> PublicKey:
        """The coordinator's public key: how signers name it. Every ticket needs it."""
        return signing.public_key(self.key)


class _Charter(Record):
    """charter.bin: the root's public key and its signed charter."""

    version: int
    root: PublicKey
    operator: PublicKey
    charter: Signed


def load_or_make(folder: Path, source: Source) -> tuple[CoordinatorIdentity, bool]:
    """The identity in a folder, made on the first start (then the second value is True).

    A start that died halfway is finished: the kit comes first, everything else follows from it,
    and the charter comes last. So there is never a second cluster identity in one folder.

    Raises:
        WrongDirectory: files are damaged or do not belong together.
    """
    stored = read_private(folder / "charter.bin")
    if stored is None:
        _make(folder, source)
        stored = read_private(folder / "charter.bin")
        assert stored is not None
        return _load(folder, stored), True
    return _load(folder, stored), False


def _load(folder: Path, stored: bytes) -> CoordinatorIdentity:
    seed = read_private(folder / "coordinator.key")
    try:
        kept = decode(stored, _Charter)
        cluster = cluster_id(kept.root)
        charter = open_charter(kept.root, kept.charter, cluster)
        key = signing.load_signing_key(seed or b"")
    except BadRequest as error:
        raise WrongDirectory(f"the coordinator's files in {folder} are damaged", why=error.what) from error
    if charter.coordinator != signing.public_key(key):
        raise WrongDirectory(f"coordinator.key in {folder} is not the one its charter names")
    return CoordinatorIdentity(cluster, kept.root, kept.charter, charter.term, key, kept.operator)


def _make(folder: Path, source: Source) -> None:
    root = _kit_key(folder, source)
    keys = {}
    for name in ("coordinator.key", "operator.seed"):
        seed = read_private(folder / name)
        if seed is None or len(seed) != 32:
            seed = source.random_bytes(32)
            write_file(folder / name, seed)
        keys[name] = signing.load_signing_key(seed)
    root_public = signing.public_key(root)
    payload = encode(Charter(1, 1, signing.public_key(keys["coordinator.key"])))
    signed = Signed(payload, sign(root, "charter", cluster_id(root_public), payload))
    operator = signing.public_key(keys["operator.seed"])
    write_file(folder / "charter.bin", encode(_Charter(1, root_public, operator, signed)))


def read_kit(path: Path) -> Ed25519PrivateKey:
    """The root key in a cluster kit.

    Raises:
        WrongDirectory: there is no such file, or it is not one, or damaged.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    kept = read_private(path)
    if kept is None:
        raise WrongDirectory(f"there is no cluster kit at {path}", do="Bring the kit from where it is kept.")
    start = kept.find(b"-----BEGIN PRIVATE KEY-----")
    end = kept.find(b"-----END PRIVATE KEY-----")
    if start < 0 or end < 0:
        raise WrongDirectory(f"{path} is not a cluster kit", do="Bring the kit from where it is kept.")
    try:
        loaded = load_pem_private_key(kept[start : end + len(b"-----END PRIVATE KEY-----\n")], None)
    except ValueError as error:
        raise WrongDirectory(f"{path} is damaged", why=str(error)) from error
    if not isinstance(loaded, Ed25519PrivateKey):
        raise WrongDirectory(f"{path} holds a key of another kind")
    return loaded


def found_anew(
    folder: Path, root: Ed25519PrivateKey, term: int, source: Source, operator: PublicKey | None = None
) -> CoordinatorIdentity:
    """A new key and charter for a folder, under a term that no coordinator of the cluster had yet.

    The charter is not written: :func:`settle_identity` does that, when all else is in the folder.

    Args:
        operator: whose key stays good; None: a new one is made, and handed over at the first start.
    """
    seed = source.random_bytes(32)
    write_file(folder / "coordinator.key", seed)
    if operator is None:
        operator_seed = source.random_bytes(32)
        write_file(folder / "operator.seed", operator_seed)
        operator = signing.public_key(signing.load_signing_key(operator_seed))
    key, root_public = signing.load_signing_key(seed), signing.public_key(root)
    cluster = cluster_id(root_public)
    payload = encode(Charter(1, term, signing.public_key(key)))
    charter = Signed(payload, sign(root, "charter", cluster, payload))
    return CoordinatorIdentity(cluster, root_public, charter, term, key, operator)


def settle_identity(folder: Path, identity: CoordinatorIdentity) -> None:
    """Write the charter: from now on the folder is a coordinator's."""
    write_file(
        folder / "charter.bin", encode(_Charter(1, identity.root, identity.operator, identity.charter))
    )


def read_identity(stored: bytes) -> tuple[PublicKey, PublicKey, Charter]:
    """(root, operator, charter) of a charter.bin that lies elsewhere.

    Raises:
        BadRequest, Refused: it is none.
    """
    kept = decode(stored, _Charter)
    return kept.root, kept.operator, open_charter(kept.root, kept.charter, cluster_id(kept.root))


def _kit_key(folder: Path, source: Source) -> Ed25519PrivateKey:
    """The root key of the kit, which is made when there is none."""
    path = folder / "cluster-kit.pem"
    if path.exists():
        return read_kit(path)
    root = signing.generate_signing_key(source.random_bytes(32))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Holdfast cluster root")])
    now = datetime.fromtimestamp(source.now_ms() / 1000, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(root.public_key())
        .serial_number(int.from_bytes(source.random_bytes(16), "big") >> 1 or 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * 100))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .sign(root, None)
    )
    write_file(
        path,
        _KIT_WORDS
        + root.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM),
    )
    return root


_OPERATOR_LINE = "holdfast operator key v1"


def hand_over_operator_key(folder: Path, address: Address) -> None:
    """Write operator.key, which carries the cluster's address too; again when that has changed.

    Its seed lies in a file of its own only until the first operator.key is written. An operator
    who has taken operator.key away keeps the only copy: none is made again.
    """
    seed = read_private(folder / "operator.seed")
    kept = read_private(folder / "operator.key")
    if seed is None and kept is not None:
        seed = _operator_seed(folder / "operator.key", kept)
    if seed is None:
        return
    text = f"{_OPERATOR_LINE}\n{address}\n{base64.b64encode(seed).decode()}\n".encode()
    if kept != text:
        write_file(folder / "operator.key", text)
    remove_file(folder / "operator.seed")


def _operator_seed(path: Path, kept: bytes) -> bytes:
    try:
        return base64.b64decode(kept.split(b"\n")[2], validate=True)
    except (IndexError, ValueError):
        raise WrongDirectory(f"{path} is damaged", do="Put the operator's own copy in its place.") from None


def read_operator_key(path: Path) -> tuple[Address, Signer]:
    """The address in an operator key file, and a signer for it.

    Raises:
        BadRequest: there is no such file, or it is not one.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(
            f"cannot read the operator key {path}",
            why=str(error),
            do="It is written as operator.key into the coordinator's folder on its first start.",
        ) from error
    if len(lines) != 3 or lines[0] != _OPERATOR_LINE:
        raise BadRequest(f"{path} is not an operator key")
    address = Address.parse(lines[1])
    if address.cluster is None:
        raise BadRequest(f"{path} does not name its cluster")
    try:
        key = signing.load_signing_key(base64.b64decode(lines[2], validate=True))
    except ValueError as error:
        raise BadRequest(f"{path} is damaged") from error
    return address, Signer("operator", b"", signing.key_id(signing.public_key(key)), key, address.cluster)
