"""Cases of the two chains: what may follow a device list, and a head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from holdfast.client.identity import RootKeys
from holdfast.protocol.accounts import (
    NO_DIGEST,
    Device,
    Head,
    KeyRecord,
    SnapshotList,
    list_digest,
    signed_digest,
)
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.ids import Digest, PublicKey, SnapshotId
from holdfast.protocol.signing import Signed, device_id, public_key
from support.vectors.account_cases import the_list
from support.vectors.case import CLUSTER, DEVICE, NODE, ROOT, STRANGER, TIME_MS, Case, changed, signed

FIRST_LIST = signed("device-list", the_list(), ROOT.sign_key)
PHONE = Device(device_id(public_key(NODE)), public_key(NODE), ROOT.box_public, "owner", "phone")
BOTH = [DEVICE.listed("laptop"), PHONE]


def _list(**values: Any) -> Signed:
    """Device list 2; ``values`` override what is right."""
    right: dict[str, Any] = {"seq": 2, "previous": signed_digest(FIRST_LIST), "devices": BOTH}
    return signed("device-list", the_list(**{**right, **values}), ROOT.sign_key)


def device_list_chain() -> Iterator[Case]:
    def case(name: str, about: str, outcome: str, following: Signed, current: Signed = FIRST_LIST) -> Case:
        values = {
            "cluster": CLUSTER.hex(),
            "current": encode(current).hex(),
            "following": encode(following).hex(),
        }
        return Case("device-list-chain", name, about, values, outcome)

    second = _list()
    yield case("follows", "list 2 names list 1", "ok", second)
    yield case("again", "the current list once more", "ok", FIRST_LIST)
    yield case("root-removes", "the root may leave a device out", "ok", _list(devices=[PHONE]))
    third = _list(seq=3, previous=signed_digest(second))
    yield case("gap", "list 3 behind list 1", "Conflict", third)
    yield case("skipped-number", "number 3, with list 1 as its predecessor", "Conflict", _list(seq=3))
    yield case("back", "list 1 behind list 2", "Conflict", FIRST_LIST, second)
    other = _list(devices=[PHONE])
    yield case("second-of-two", "another list 2 behind list 2", "Conflict", other, second)
    yield case("other-previous", "another predecessor", "Conflict", _list(previous=Digest(b"\1" * 32)))
    moved = _list(root_box_key=PublicKey(b"\x0c" * 32))
    yield case("other-root-box", "the root's box key changes", "Refused", moved)
    wraps = the_list().keys[0].wraps
    ahead = _list(epoch=2, keys=[KeyRecord(1, wraps, b""), KeyRecord(2, wraps, b"")])
    behind = _list(seq=3, previous=signed_digest(ahead))
    yield case("epoch-back", "from epoch 2 back to 1", "Refused", behind, ahead)


EXACT = encode(SnapshotList(1, [SnapshotId(b"\x0d" * 32)]))


def _heads(count: int, *, key: Any = DEVICE.sign_key, time_ms: int = TIME_MS) -> list[Signed]:
    """Heads 1 to ``count``, each naming the one before."""
    made: list[Signed] = []
    for seq in range(1, count + 1):
        previous = signed_digest(made[-1]) if made else NO_DIGEST
        head = Head(
            1,
            ROOT.account,
            DEVICE.id,
            seq,
            previous,
            1,
            signed_digest(FIRST_LIST),
            [],
            (time_ms + seq) * 10**6,
            list_digest(EXACT),
        )
        made.append(signed("head", head, key))
    return made


def head_chain() -> Iterator[Case]:
    one, two, three = right = _heads(3)
    _, other_two, other_three = _heads(3, time_ms=TIME_MS + 60_000)

    def case(
        name: str,
        about: str,
        outcome: str,
        seen: Signed | None,
        links: Sequence[Signed],
        *,
        head: Signed | None = three,
        devices: Signed = FIRST_LIST,
        exact: bytes = EXACT,
        **known: Any,
    ) -> Case:
        values = {
            "account": ROOT.account.hex(),
            "device_list_seq": 1,
            "device_list_digest": signed_digest(FIRST_LIST).hex(),
            "head_seq": right.index(seen) + 1 if seen else 0,
            "head_digest": (signed_digest(seen) if seen else NO_DIGEST).hex(),
        }
        given = {
            "cluster": CLUSTER.hex(),
            "known": {**values, **known},
            "device_list": encode(devices).hex(),
            "head": encode(head).hex() if head else None,
            "snapshot_list": exact.hex() if head else "",
            "links": [encode(link).hex() for link in links],
        }
        return Case("head-chain", name, about, given, outcome)

    yield case("new-device", "who has seen nothing follows from head 1", "ok", None, right)
    yield case("since-known", "head 1 is known, 2 and 3 follow", "ok", one, [two, three])
    yield case("nothing-new", "head 3 is known", "ok", three, [])
    yield case("no-head", "an account without snapshots", "ok", None, [], head=None)
    yield case("older", "head 2 is shown, and 3 was seen", "Rollback", three, [], head=two)
    yield case("none-shown", "no head is shown, and 3 was seen", "Rollback", three, [], head=None)
    yield case("two-heads", "another head 3 than was seen", "ForkDetected", three, [], head=other_three)
    yield case("gap", "head 2 is left out", "ForkDetected", one, [three])
    skipping = signed("head", changed(decode(two.payload, Head), seq=3), DEVICE.sign_key)
    yield case("skipped-number", "head 3 names head 1", "ForkDetected", one, [skipping], head=skipping)
    yield case("other-branch", "head 2 follows another head 1", "ForkDetected", one, [other_two, three])
    yield case("links-end-early", "the links do not reach the head", "ForkDetected", one, [two])
    yield case("links-go-on", "the links lead beyond the head", "ForkDetected", one, [two, three], head=two)
    stranger = _heads(2, key=STRANGER)[1]
    yield case("unlisted-link", "a link signed by a stranger", "Refused", one, [stranger, three])
    empty = encode(SnapshotList(1, []))
    yield case(
        "other-snapshots", "a list that the head does not name", "ForkDetected", three, [], exact=empty
    )
    older = {"device_list_seq": 2}
    yield case("older-list", "device list 1, and 2 was seen", "Rollback", three, [], **older)
    forked = {"device_list_digest": "01" * 32}
    yield case("two-lists", "another device list 1 than was seen", "ForkDetected", three, [], **forked)
    mine = {"account": RootKeys.of(b"\x21" * 32).account.hex()}
    yield case("other-account", "another account's device list", "ForkDetected", three, [], **mine)


CHAIN_CASES = (device_list_chain, head_chain)
