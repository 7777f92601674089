"""An account's device list and heads: what is signed, and what is refused.

Both are chains: each record carries its number and the hash of the exact
signed bytes of the one before. The rules that need no key live here, so that
coordinator, node and client refuse the same things (docs/FORMAT.md, "Device
list" and "Head").
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

from holdfast.protocol.codec import Record, decode, decode_plain, encode
from holdfast.protocol.errors import BadRequest, ForkDetected, Refused, Rollback
from holdfast.protocol.ids import AccountId, ClusterId, DeviceId, Digest, NodeId, PublicKey, SnapshotId
from holdfast.protocol.limits import (
    DEVICE_LIST_BYTES_MAX,
    DEVICES_MAX,
    HEAD_BYTES_MAX,
    KEY_RECORDS_MAX,
    LABEL_BYTES_MAX,
    NONCE_BYTES,
    SNAPSHOTS_MAX,
    WITNESSES_MAX,
)
from holdfast.protocol.signing import Signed, account_id, check_public_key, device_id, verify
from holdfast.protocol.stripes import digest_of

__all__ = [
    "NO_DIGEST",
    "Device",
    "DeviceList",
    "Enrolment",
    "Head",
    "KeyRecord",
    "KeyWrap",
    "SnapshotList",
    "Witness",
    "check_snapshot_list",
    "list_digest",
    "listed_ids",
    "open_device_list",
    "open_enrolment",
    "open_head",
    "open_snapshot_list",
    "signed_digest",
]

_LISTS_REMEMBERED: Final = 64
_LIST_REMEMBERED_BYTES_MAX: Final = 16 * 1024
"""Of some twenty devices; longer lists, which would take much memory, are opened each time."""

NO_DIGEST = Digest(bytes(32))
"""The previous hash of the first record of a chain."""


class Device(Record):
    """One device that may act for the account. Only owners exist until roles come in."""

    id: DeviceId
    sign_key: PublicKey
    box_key: PublicKey
    role: Literal["owner"]
    name: str


class KeyWrap(Record):
    """An account key, HPKE-sealed to one box key. ``recipient`` is empty for the root's."""

    recipient: bytes
    sealed: bytes


class KeyRecord(Record):
    """How one epoch's account key is handed out.

    ``previous`` is A_(e-1) sealed under A_e, empty at epoch 1.
    """

    epoch: int
    wraps: list[KeyWrap]
    previous: bytes


class DeviceList(Record):
    """Who may act for an account, and who may read: numbered, linked, signed by root."""

    version: Literal[1]
    account: AccountId
    root_key: PublicKey
    root_box_key: PublicKey
    seq: int
    previous: Digest
    epoch: int
    devices: list[Device]
    keys: list[KeyRecord]

    def device(self, wanted: DeviceId) -> Device | None:
        """The listed device of that id."""
        return next((device for device in self.devices if device.id == wanted), None)


class Witness(Record):
    """A node that keeps the account's heads, with the key it vouches by."""

    node: NodeId
    key: PublicKey


class Head(Record):
    """The pointer to an account's newest snapshot list."""

    version: Literal[1]
    account: AccountId
    device: DeviceId
    seq: int
    previous: Digest
    device_list_seq: int
    device_list: Digest
    witnesses: list[Witness]
    time_ns: int
    snapshots: Digest


class SnapshotList(Record):
    """The ordered ids of an account's snapshot records, oldest first."""

    version: Literal[1]
    snapshots: list[SnapshotId]


def signed_digest(signed: Signed) -> Digest:
    """The hash by which the next record of a chain names this one: over payload and signature."""
    return digest_of(encode(signed))


def list_digest(snapshot_list: bytes) -> Digest:
    """The digest of a snapshot list's exact bytes."""
    return digest_of(snapshot_list)


def open_device_list(signed: Signed, cluster: ClusterId) -> DeviceList:
    """The device list in an envelope, root signature and inner consistency verified.

    Raises:
        Refused: the signature does not hold, or the account id is not the root key's.
        BadRequest: not a device list, or out of bounds.
    """
    if len(signed.payload) > DEVICE_LIST_BYTES_MAX:
        raise BadRequest(f"a device list has at most {DEVICE_LIST_BYTES_MAX} bytes")
    if len(signed.payload) <= _LIST_REMEMBERED_BYTES_MAX:
        return _opened_before(signed, cluster)
    return _open_device_list(signed, cluster)


def _open_device_list(signed: Signed, cluster: ClusterId) -> DeviceList:
    listed = decode(signed.payload, DeviceList)
    if account_id(listed.root_key) != listed.account:
        raise Refused("the device list's account is not its root key's")
    verify(listed.root_key, signed.signature, "device-list", cluster, signed.payload)
    if listed.seq < 1 or (listed.seq == 1) != (listed.previous == NO_DIGEST):
        raise BadRequest("a device list starts at 1, and only the first has no predecessor")
    if not 1 <= len(listed.devices) <= DEVICES_MAX or len(listed.keys) > KEY_RECORDS_MAX:
        raise BadRequest(f"a device list has 1 to {DEVICES_MAX} devices")
    # Counted first: an epoch is any number, and nobody makes us count up to it.
    if listed.epoch < 1 or len(listed.keys) != listed.epoch:
        raise BadRequest("a device list has one key record for each epoch, in order")
    if any(record.epoch != at for at, record in enumerate(listed.keys, 1)):
        raise BadRequest("a device list has one key record for each epoch, in order")
    seen: set[DeviceId] = set()
    for device in listed.devices:
        check_public_key(device.sign_key)
        if device.id != device_id(device.sign_key) or device.id in seen:
            raise BadRequest("a listed device's id is not its key's, or is listed twice")
        if not device.name or len(device.name.encode()) > LABEL_BYTES_MAX:
            raise BadRequest(f"a device's name has 1 to {LABEL_BYTES_MAX} bytes")
        seen.add(device.id)
    return listed


_opened_before = lru_cache(maxsize=_LISTS_REMEMBERED)(_open_device_list)
"""What holds of a list follows from its bytes, signature included: the very same need not be proven again.
What is refused is not remembered."""


def open_head(
    signed: Signed,
    cluster: ClusterId,
    devices: DeviceList,
    devices_digest: Digest,
    *,
    oldest_list_seq: int = 0,
) -> Head:
    """The head in an envelope, verified against the account's device list.

    Args:
        devices: the newest device list known.
        devices_digest: its :func:`signed_digest`.
        oldest_list_seq: the device-list number of the newest head already seen.

    Raises:
        Refused: the signer is not listed or the signature does not hold.
        Rollback: it rests on an older device list than one already seen.
        ForkDetected: it names another device list at that number.
        BadRequest: not a head, or out of bounds.
    """
    if len(signed.payload) > HEAD_BYTES_MAX:
        raise BadRequest(f"a head has at most {HEAD_BYTES_MAX} bytes")
    head = decode(signed.payload, Head)
    if head.account != devices.account:
        raise Refused("the head is another account's")
    signer = devices.device(head.device)
    if signer is None:
        raise Refused(f"device {head.device.short} is not on the account's device list")
    verify(signer.sign_key, signed.signature, "head", cluster, signed.payload)
    if head.seq < 1 or (head.seq == 1) != (head.previous == NO_DIGEST):
        raise BadRequest("heads start at 1, and only the first has no predecessor")
    if len(head.witnesses) > WITNESSES_MAX:
        raise BadRequest(f"a head names at most {WITNESSES_MAX} witnesses")
    if head.device_list_seq > devices.seq:
        raise Refused("the head rests on a device list that is not known", do="Fetch the device list again.")
    if head.device_list_seq == devices.seq and head.device_list != devices_digest:
        raise ForkDetected("the head names another device list than the one known under that number")
    if head.device_list_seq < oldest_list_seq:
        raise Rollback("the head rests on an older device list than one already seen")
    return head


def listed_ids(exact: bytes) -> list[bytes]:
    """The ids of a list that was opened before it was stored, as they are: nothing is proven again."""
    ids: list[bytes] = decode_plain(exact)[1]
    return ids


def open_snapshot_list(exact: bytes, head: Head) -> SnapshotList:
    """The snapshot list a head points to.

    Raises:
        ForkDetected: it is not the list the head names.
        BadRequest: not a snapshot list, or it repeats a snapshot.
    """
    return SnapshotList(1, [SnapshotId(snapshot) for snapshot in check_snapshot_list(exact, head)])


def check_snapshot_list(exact: bytes, head: Head) -> list[bytes]:
    """As :func:`open_snapshot_list`, for who only compares the ids: without an object of its own for each."""
    if list_digest(exact) != head.snapshots:
        raise ForkDetected("the snapshot list is not the one its head names")
    _, listed = decode(exact, tuple[Literal[1], list[bytes]])
    if any(len(snapshot) != SnapshotId.SIZE for snapshot in listed):
        raise BadRequest(f"a snapshot's id has {SnapshotId.SIZE} bytes")
    if len(listed) > SNAPSHOTS_MAX or len(set(listed)) != len(listed):
        raise BadRequest(f"a snapshot list has at most {SNAPSHOTS_MAX} snapshots, each once")
    return listed


class Enrolment(Record):
    """Proof that whoever enrols a device holds the account's root key, over the server's nonce."""

    version: Literal[1]
    account: AccountId
    root_key: PublicKey
    nonce: bytes
    sign_key: PublicKey
    box_key: PublicKey


def open_enrolment(signed: Signed, cluster: ClusterId) -> Enrolment:
    """The enrolment in an envelope, root signature verified; whether the nonce is good is the caller's.

    Raises:
        Refused: the account is not the root key's, or the signature does not hold.
        BadRequest: not an enrolment.
    """
    asked = decode(signed.payload, Enrolment)
    if account_id(asked.root_key) != asked.account:
        raise Refused("the enrolment's account is not its root key's")
    verify(asked.root_key, signed.signature, "enrol", cluster, signed.payload)
    if len(asked.nonce) != NONCE_BYTES:
        raise BadRequest("the enrolment's nonce has the wrong length")
    check_public_key(asked.sign_key)
    return asked
