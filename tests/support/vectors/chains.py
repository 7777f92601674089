"""How the two chains are read: device lists by the coordinator, heads by a device that knows some."""

from __future__ import annotations

from sqlalchemy import create_engine

from holdfast.client.heads import accept_devices, accept_heads
from holdfast.client.home import KnownAccount
from holdfast.coordinator.catalogue.accounts import register, replace_device_list
from holdfast.coordinator.catalogue.nodes import add_token
from holdfast.coordinator.catalogue.schema import metadata
from holdfast.protocol.accounts import open_device_list, signed_digest
from holdfast.protocol.address import Address
from holdfast.protocol.codec import decode
from holdfast.protocol.ids import AccountId, ClusterId, DeviceId, Digest
from holdfast.protocol.messages.accounts import AccountState
from holdfast.protocol.messages.heads import HeadState
from holdfast.protocol.signing import Signed
from support.vectors.case import Values


def _signed(raw: str) -> Signed:
    return decode(bytes.fromhex(raw), Signed)


def device_list_chain(given: Values) -> Values:
    """What a coordinator that holds ``current`` makes of ``following``."""
    cluster = ClusterId.from_hex(given["cluster"])
    current, following = _signed(given["current"]), _signed(given["following"])
    with create_engine("sqlite://").begin() as connection:
        metadata.create_all(connection)
        invite = Digest(bytes(32))
        add_token(connection, invite, "invite", 1, 0)
        register(connection, invite, current, open_device_list(current, cluster), 0)
        row = replace_device_list(connection, cluster, following, open_device_list(following, cluster))
    return {"seq": row.device_list_seq, "digest": signed_digest(row.device_list).hex()}


def head_chain(given: Values) -> Values:
    """What a device that has seen ``known`` makes of what a coordinator shows."""
    cluster, seen = ClusterId.from_hex(given["cluster"]), given["known"]
    known = KnownAccount(
        Address("http://127.0.0.1:1", cluster),
        AccountId.from_hex(seen["account"]),
        DeviceId(bytes(16)),
        "laptop",
        seen["device_list_seq"],
        Digest.from_hex(seen["device_list_digest"]),
        seen["head_seq"],
        Digest.from_hex(seen["head_digest"]),
    )
    devices = _signed(given["device_list"])
    listed = accept_devices(
        known, AccountState(account=known.account, device_list=devices, quota_bytes=0), cluster
    )
    state = HeadState(
        head=_signed(given["head"]) if given["head"] else None,
        snapshot_list=bytes.fromhex(given["snapshot_list"]),
        links=[_signed(link) for link in given["links"]],
    )
    view = accept_heads(known, listed, devices, state, cluster)
    return {
        "seq": view.seq,
        "digest": view.digest.hex(),
        "snapshots": [snapshot.hex() for snapshot in view.snapshots],
    }
