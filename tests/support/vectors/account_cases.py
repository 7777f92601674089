"""Cases of an account's own records: recovery code, keys, device lists, heads, snapshot records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reedsolo import RSCodec

from holdfast.client.identity import first_device_list
from holdfast.client.recovery_code import encode_recovery_code
from holdfast.client.sealing import PlainId
from holdfast.client.snapshot_record import ChunkRef, SnapshotRecord, seal_record, snapshot_id
from holdfast.protocol.accounts import (
    NO_DIGEST,
    Device,
    DeviceList,
    Enrolment,
    Head,
    KeyRecord,
    KeyWrap,
    SnapshotList,
    list_digest,
    signed_digest,
)
from holdfast.protocol.codec import encode
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, Digest, PublicKey, SnapshotId
from holdfast.protocol.signing import Signed, device_id, public_key
from support.vectors.case import (
    ACCOUNT_KEY,
    CLUSTER,
    DEVICE,
    KEYS,
    NODE,
    ROOT,
    SECRET,
    STRANGER,
    TIME_MS,
    Case,
    changed,
    flipped,
    signed,
    signed_hex,
)

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def recovery_code() -> Iterator[Case]:
    code = encode_recovery_code(SECRET)
    plain = code.replace("-", "")

    def case(name: str, about: str, text: str, outcome: str = "ok") -> Case:
        return Case("recovery-code", name, about, {"code": text}, outcome)

    def wrong(*places: int, unreadable: tuple[int, ...] = ()) -> str:
        characters = list(plain)
        for at in places:
            characters[at] = "0" if characters[at] != "0" else "1"
        for at in unreadable:
            characters[at] = "?"
        return "".join(characters)

    spaced = " ".join(plain[i : i + 4].lower() for i in range(0, 72, 4)) + "\n"
    yield case("good", "as it was written", code)
    yield case("typed", "lower case, other spaces, no dashes", spaced)
    yield case("look-alikes", "O for 0, I and L for 1", code.replace("0", "O").replace("1", "l"))
    yield case("one-wrong", "one wrong character", wrong(5))
    yield case("four-wrong", "four wrong characters, far apart", wrong(0, 16, 32, 48))
    yield case("four-unreadable", "four unreadable characters", wrong(unreadable=(1, 9, 40, 71)))
    yield case("unreadable-and-wrong", "two unreadable, one wrong", wrong(33, unreadable=(1, 9)))
    yield case("many-wrong", "ten wrong characters", wrong(*range(0, 70, 7)), "WrongKey")
    twenty = tuple(range(0, 60, 3))
    yield case("many-unreadable", "twenty unreadable characters", wrong(unreadable=twenty), "WrongKey")
    yield case("short", "71 characters", plain[:-1], "WrongKey")
    yield case("long", "73 characters", plain + "0", "WrongKey")
    yield case("doubled", "the code twice", plain * 2, "WrongKey")
    yield case("foreign-letter", "a letter that the alphabet has not", "U" + plain[1:], "WrongKey")
    yield case("empty", "nothing", "", "WrongKey")
    raw = _raw_code(code)
    yield case("wrong-check", "right parity over a wrong check", _parity(raw[:33] + bytes(4)), "WrongKey")
    yield case("other-version", "right parity over version 2", _parity(b"\2" + raw[1:37]), "WrongKey")


def _raw_code(code: str) -> bytes:
    number = 0
    for character in code.replace("-", ""):
        number = number * 32 + _ALPHABET.index(character)
    return number.to_bytes(45, "big")


def _parity(head: bytes) -> str:
    number = int.from_bytes(RSCodec(8, nsize=45).encode(head), "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(355, -1, -5))


def keys() -> Iterator[Case]:
    yield Case("keys", "root", "what follows from a recovery secret", {"recovery_secret": SECRET.hex()})
    yield Case("keys", "account", "what follows from an account key", {"account_key": ACCOUNT_KEY.hex()})
    listed = encode(first_device_list(ROOT, DEVICE, "laptop", CLUSTER, ACCOUNT_KEY)).hex()

    def case(name: str, about: str, box: bytes, recipient: bytes, outcome: str = "ok") -> Case:
        values = {
            "cluster": CLUSTER.hex(),
            "device_list": listed,
            "box_private_key": box.hex(),
            "recipient": recipient.hex(),
        }
        return Case("keys", name, about, values, outcome, kept=True)

    box = DEVICE.box_key.private_bytes_raw()
    yield case("device-opens", "a listed device opens the account key", box, DEVICE.id)
    yield case("root-opens", "the root opens the account key", ROOT.box_key.private_bytes_raw(), b"")
    yield case("stranger", "a key that nothing was sealed to", b"\x22" * 32, DEVICE.id, "WrongKey")
    yield case("no-recipient", "a device that the list has no key for", box, bytes(16), "WrongKey")


def the_list(**values: Any) -> DeviceList:
    """List 1 with one device, its key wraps made up; ``values`` override what is right."""
    wraps = [KeyWrap(b"", b"sealed to the root"), KeyWrap(DEVICE.id, b"sealed to the device")]
    listed = DeviceList(
        1,
        ROOT.account,
        ROOT.public,
        ROOT.box_public,
        1,
        NO_DIGEST,
        1,
        [DEVICE.listed("laptop")],
        [KeyRecord(1, wraps, b"")],
    )
    made: DeviceList = changed(listed, **values)
    return made


def device_list() -> Iterator[Case]:
    def case(
        name: str,
        about: str,
        outcome: str = "BadRequest",
        *,
        key: Any = ROOT.sign_key,
        cluster: ClusterId = CLUSTER,
        **values: Any,
    ) -> Case:
        made = signed_hex("device-list", the_list(**values), key, cluster)
        return Case("device-list", name, about, {"cluster": CLUSTER.hex(), "signed": made}, outcome)

    device = DEVICE.listed("laptop")
    second = Device(device_id(public_key(NODE)), public_key(NODE), device.box_key, "owner", "phone")
    previous = signed_digest(signed("device-list", the_list(), ROOT.sign_key))
    weak = PublicKey((1).to_bytes(32, "little"))
    yield case("first", "list 1 with one device", "ok")
    both = [device, second]
    yield case("second", "list 2 adds a device", "ok", seq=2, previous=previous, devices=both)
    yield case("other-signer", "signed by a device, not by the root", "Refused", key=DEVICE.sign_key)
    yield case("other-cluster", "for another cluster", "Refused", cluster=ClusterId(b"\xff" * 32))
    yield case("other-account", "not the root key's account", "Refused", account=AccountId(b"\1" * 32))
    yield case("seq-zero", "list 0", seq=0)
    yield case("no-predecessor", "list 2 without a predecessor", seq=2)
    yield case("first-with-predecessor", "list 1 with a predecessor", previous=previous)
    yield case("no-device", "no device", devices=[])
    yield case("twice", "a device listed twice", devices=[device, device])
    yield case("other-id", "an id that is not its key's", devices=[changed(device, id=second.id)])
    yield case("no-name", "a device without a name", devices=[changed(device, name="")])
    wraps = the_list().keys[0].wraps
    yield case("epochs", "epoch 2 with one key record", epoch=2)
    yield case("epoch-zero", "epoch 0, and nothing that opens", epoch=0, keys=[])
    yield case("epoch-huge", "an epoch that nobody can count up to", epoch=2**62)
    yield case("epoch-other", "a key record for another epoch", keys=[KeyRecord(2, wraps, b"")])
    yield case(
        "long-name", "a device's name of 257 bytes", devices=[changed(device, name="\u00e4" * 128 + "n")]
    )
    hidden = changed(device, sign_key=weak, id=device_id(weak))
    yield case("weak-key", "a device key of small order", devices=[hidden])


def enrolment() -> Iterator[Case]:
    asked = Enrolment(1, ROOT.account, ROOT.public, b"\x0b" * 16, public_key(NODE), PublicKey(b"\x0c" * 32))

    def case(
        name: str, about: str, outcome: str, record: Enrolment = asked, key: Any = ROOT.sign_key
    ) -> Case:
        values = {"cluster": CLUSTER.hex(), "signed": signed_hex("enrol", record, key)}
        return Case("enrolment", name, about, values, outcome)

    yield case("good", "the root enrols a device", "ok")
    yield case("other-signer", "signed by the device itself", "Refused", key=NODE)
    stolen = changed(asked, account=AccountId(b"\1" * 32))
    yield case("other-account", "for an account that is not the root's", "Refused", stolen)
    yield case("short-nonce", "a nonce of 15 bytes", "BadRequest", changed(asked, nonce=b"\x0b" * 15))
    weak = changed(asked, sign_key=PublicKey(bytes(32)))
    yield case("weak-key", "a device key of small order", "BadRequest", weak)


def head() -> Iterator[Case]:
    first_list = signed("device-list", the_list(), ROOT.sign_key)
    second_list = signed("device-list", the_list(seq=2, previous=signed_digest(first_list)), ROOT.sign_key)
    snapshots = encode(SnapshotList(1, [SnapshotId(b"\x0d" * 32), SnapshotId(b"\x0e" * 32)]))
    right = Head(
        1,
        ROOT.account,
        DEVICE.id,
        1,
        NO_DIGEST,
        1,
        signed_digest(first_list),
        [],
        TIME_MS * 10**6,
        list_digest(snapshots),
    )

    def case(
        name: str,
        about: str,
        outcome: str = "ok",
        *,
        key: Any = DEVICE.sign_key,
        devices: Signed = first_list,
        oldest: int = 0,
        listed: bytes = snapshots,
        **values: Any,
    ) -> Case:
        given = {
            "cluster": CLUSTER.hex(),
            "device_list": encode(devices).hex(),
            "oldest_list_seq": oldest,
            "signed": signed_hex("head", changed(right, **values), key),
            "snapshot_list": listed.hex(),
        }
        return Case("head", name, about, given, outcome)

    previous = signed_digest(signed("head", right, DEVICE.sign_key))
    other_device = device_id(public_key(NODE))
    yield case("first", "head 1")
    yield case("second", "head 2 names head 1", seq=2, previous=previous)
    yield case("older-list", "a head may rest on an earlier device list", devices=second_list)
    yield case("other-signer", "signed by a key that is not listed", "Refused", key=STRANGER)
    yield case("unlisted-device", "by a device that is not listed", "Refused", device=other_device)
    yield case("other-account", "another account's head", "Refused", account=AccountId(b"\1" * 32))
    yield case("unknown-list", "on a device list that is not known", "Refused", device_list_seq=2)
    forked = Digest(b"\1" * 32)
    yield case("other-list", "on another device list of that number", "ForkDetected", device_list=forked)
    yield case("old-list", "on an older list than one seen", "Rollback", devices=second_list, oldest=2)
    yield case("seq-zero", "head 0", "BadRequest", seq=0)
    yield case("no-predecessor", "head 2 without a predecessor", "BadRequest", seq=2)
    empty = encode(SnapshotList(1, []))
    yield case("other-snapshots", "a list that the head does not name", "ForkDetected", listed=empty)
    twice = encode(SnapshotList(1, [SnapshotId(b"\x0d" * 32)] * 2))
    repeated = list_digest(twice)
    yield case("snapshot-twice", "a snapshot listed twice", "BadRequest", listed=twice, snapshots=repeated)


def snapshot_record() -> Iterator[Case]:
    ref = ChunkRef(PlainId(b"\x10" * 32), ChunkId(b"\x11" * 32), 1234, 1)
    record = SnapshotRecord(
        1,
        TIME_MS * 10**6,
        DEVICE.id,
        "laptop",
        [b"/home/ada"],
        ["letters"],
        [ref],
        3,
        4,
        5000,
        6000,
        0,
        b"",
        "holdfast",
    )
    right = seal_record(KEYS, CLUSTER, ROOT.account, record)

    def case(
        name: str, about: str, outcome: str = "IntegrityFailure", *, sealed: bytes = right, **given: Any
    ) -> Case:
        values = {
            "account_key": ACCOUNT_KEY.hex(),
            "cluster": CLUSTER.hex(),
            "account": ROOT.account.hex(),
            "id": snapshot_id(sealed).hex(),
            "sealed": sealed.hex(),
        }
        return Case("snapshot-record", name, about, {**values, **given}, outcome, kept=True)

    yield case("good", "a record that opens", "ok")
    yield case("other-id", "not the record of that id", id="00" * 32)
    yield case("flipped", "one bit differs", sealed=flipped(right, -1))
    yield case("other-version", "version 2", sealed=b"\2" + right[1:])
    yield case("other-key", "another account's key", account_key="33" * 32)
    yield case("other-account", "moved to another account", account="44" * 32)
    yield case("other-cluster", "moved to another cluster", cluster="55" * 32)


ACCOUNT_CASES = (recovery_code, keys, device_list, enrolment, head, snapshot_record)
