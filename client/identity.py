"""An account's keys: from the recovery secret to what seals a chunk.

    R (32 bytes, only in the recovery code)
      HKDF-SHA512 "holdfast/v1/root-sign" -> root Ed25519        -> account id
      HKDF-SHA512 "holdfast/v1/root-box"  -> root X25519
    A_e (32 random bytes, epoch e), HPKE-sealed to root-box and to each device's box key
      HKDF-SHA512, one label each -> K_id, K_chunk, K_cut, K_read, K_file, K_page

HPKE is RFC 9180 base mode with X25519, HKDF-SHA512 and AES-256-GCM; the info
string binds cluster, account, epoch and recipient. R never stays on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.client.primitives import box_key_of
from holdfast.client.sealing import SealingKeys
from holdfast.protocol import signing
from holdfast.protocol.accounts import (
    NO_DIGEST,
    Device,
    DeviceList,
    Enrolment,
    KeyRecord,
    KeyWrap,
    signed_digest,
)
from holdfast.protocol.clock import Source
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import BadRequest, IntegrityFailure, WrongKey
from holdfast.protocol.ids import AccountId, ClusterId, DeviceId, PublicKey
from holdfast.protocol.secret import Secret
from holdfast.protocol.signing import Signed, sign

__all__ = [
    "HPKE",
    "AccountKeys",
    "DeviceKeys",
    "RootKeys",
    "add_device",
    "enrolment",
    "first_device_list",
    "open_account_keys",
]

HPKE: Final = Suite(KEM.X25519, KDF.HKDF_SHA512, AEAD.AES_256_GCM)


def _derive(secret: bytes, label: str, length: int = 32) -> bytes:
    return HKDF(SHA512(), length, salt=None, info=f"holdfast/v1/{label}".encode()).derive(secret)


class RootKeys(Secret, frozen=True):
    """The account's root: made of the recovery secret when needed, then let go."""

    sign_key: Ed25519PrivateKey
    box_key: X25519PrivateKey

    @classmethod
    def of(cls, secret: bytes) -> RootKeys:
        """The root keys of a recovery secret."""
        return cls(
            signing.generate_signing_key(_derive(secret, "root-sign")),
            box_key_of(_derive(secret, "root-box")),
        )

    @property
    def public(self) -> PublicKey:
        """The root's Ed25519 public key."""
        return signing.public_key(self.sign_key)

    @property
    def box_public(self) -> PublicKey:
        """The root's X25519 public key."""
        return PublicKey(self.box_key.public_key().public_bytes_raw())

    @property
    def account(self) -> AccountId:
        """The account these keys are the root of."""
        return signing.account_id(self.public)


class DeviceKeys(Secret, frozen=True):
    """One device's own keys: signing, and receiving account keys."""

    sign_key: Ed25519PrivateKey
    box_key: X25519PrivateKey

    @classmethod
    def generate(cls, source: Source) -> DeviceKeys:
        """New keys."""
        return cls.from_bytes(source.random_bytes(32) + source.random_bytes(32))

    @classmethod
    def from_bytes(cls, raw: bytes) -> DeviceKeys:
        """Stored keys; raises BadRequest on a wrong length."""
        if len(raw) != 64:
            raise BadRequest("a device key file has 64 bytes of keys")
        return cls(signing.load_signing_key(raw[:32]), box_key_of(raw[32:]))

    def to_bytes(self) -> bytes:
        """64 bytes for storing (0600)."""
        return self.sign_key.private_bytes_raw() + self.box_key.private_bytes_raw()

    @property
    def id(self) -> DeviceId:
        """The device's id."""
        return signing.device_id(signing.public_key(self.sign_key))

    def listed(self, name: str) -> Device:
        """How the device list names it."""
        box = PublicKey(self.box_key.public_key().public_bytes_raw())
        return Device(self.id, signing.public_key(self.sign_key), box, "owner", name)


class AccountKeys(Secret, frozen=True):
    """Everything derived from one epoch's account key A_e."""

    epoch: int
    secret: bytes
    sealing: SealingKeys
    cut_key: bytes
    read_key: X25519PrivateKey
    file_key: bytes
    page_key: bytes

    @classmethod
    def of(cls, epoch: int, secret: bytes) -> AccountKeys:
        """The keys of A_e (32 bytes)."""
        if len(secret) != 32:
            raise IntegrityFailure("an account key has the wrong length")
        return cls(
            epoch,
            secret,
            SealingKeys(epoch, _derive(secret, "id"), _derive(secret, "chunk-key", 64)),
            _derive(secret, "cut"),
            box_key_of(_derive(secret, "read")),
            _derive(secret, "file"),
            _derive(secret, "page"),
        )


def _wrap_info(cluster: ClusterId, account: AccountId, epoch: int, recipient: bytes) -> bytes:
    return b"holdfast/v1/account-key\0" + cluster + account + epoch.to_bytes(4, "big") + recipient


def _wrap(
    secret: bytes, box: PublicKey, cluster: ClusterId, account: AccountId, epoch: int, recipient: bytes
) -> KeyWrap:
    public = X25519PublicKey.from_public_bytes(bytes(box))
    return KeyWrap(recipient, HPKE.encrypt(secret, public, _wrap_info(cluster, account, epoch, recipient)))


def first_device_list(
    root: RootKeys, device: DeviceKeys, name: str, cluster: ClusterId, account_secret: bytes
) -> Signed:
    """Device list number 1: one device, epoch 1, the account key sealed to root and device."""
    listed = device.listed(name)
    wraps = [
        _wrap(account_secret, root.box_public, cluster, root.account, 1, b""),
        _wrap(account_secret, listed.box_key, cluster, root.account, 1, listed.id),
    ]
    first = DeviceList(
        1, root.account, root.public, root.box_public, 1, NO_DIGEST, 1, [listed], [KeyRecord(1, wraps, b"")]
    )
    return _signed_by_root(root, first, cluster)


def add_device(
    root: RootKeys,
    current: Signed,
    listed: DeviceList,
    device: DeviceKeys,
    name: str,
    cluster: ClusterId,
    keys: Sequence[AccountKeys],
) -> Signed:
    """The next device list, with one more device that may open every epoch's key."""
    added = device.listed(name)
    records = []
    for record, epoch_keys in zip(listed.keys, keys, strict=True):
        wrap = _wrap(epoch_keys.secret, added.box_key, cluster, listed.account, record.epoch, added.id)
        kept = [old for old in record.wraps if old.recipient != added.id]
        records.append(KeyRecord(record.epoch, [*kept, wrap], record.previous))
    others = [old for old in listed.devices if old.id != added.id]
    following = DeviceList(
        1,
        listed.account,
        listed.root_key,
        listed.root_box_key,
        listed.seq + 1,
        signed_digest(current),
        listed.epoch,
        [*others, added],
        records,
    )
    return _signed_by_root(root, following, cluster)


def _signed_by_root(root: RootKeys, listed: DeviceList, cluster: ClusterId) -> Signed:
    payload = encode(listed)
    return Signed(payload, sign(root.sign_key, "device-list", cluster, payload))


def open_account_keys(
    listed: DeviceList, cluster: ClusterId, box_key: X25519PrivateKey, recipient: bytes
) -> list[AccountKeys]:
    """Every epoch's keys, oldest first, opened with a box key.

    Args:
        recipient: the device's id, or empty for the root's box key.

    Raises:
        WrongKey: the device list holds no account key for it, or one that does not open.
    """
    opened = []
    for record in listed.keys:
        wrap = next((wrap for wrap in record.wraps if wrap.recipient == recipient), None)
        if wrap is None:
            raise WrongKey("the account's device list has no key for this device")
        try:
            secret = HPKE.decrypt(
                wrap.sealed, box_key, _wrap_info(cluster, listed.account, record.epoch, recipient)
            )
        except (InvalidTag, ValueError):
            raise WrongKey("the account key does not open with this device's key") from None
        opened.append(AccountKeys.of(record.epoch, secret))
    return opened


def enrolment(root: RootKeys, device: DeviceKeys, cluster: ClusterId, nonce: bytes) -> Signed:
    """Proof towards the coordinator that whoever enrols this device holds the recovery code."""
    listed = device.listed("-")
    payload = encode(Enrolment(1, root.account, root.public, nonce, listed.sign_key, listed.box_key))
    return Signed(payload, sign(root.sign_key, "enrol", cluster, payload))
