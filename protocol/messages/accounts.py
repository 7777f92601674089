"""Accounts and devices: invites, registration, enrolment, device lists.

Paths (POST, msgpack):

- ``/v1/accounts``            Register -> Registered; signed by the first device (role "device")
- ``/v1/enrolments``          (unsigned) EnrolmentBegin -> EnrolmentNonce
- ``/v1/enrolments/open``     (unsigned) EnrolmentOpen -> AccountState: root proves itself over the nonce
- ``/v1/devices``             NewDeviceList -> AccountState; signed by a device listed in it
- ``/v1/account``  (GET)      AccountState; signed by a listed device
- ``/v1/account/status`` (GET) AccountStatus; signed by a listed device
"""

from __future__ import annotations

from holdfast.protocol.codec import Message
from holdfast.protocol.ids import AccountId
from holdfast.protocol.signing import Signed

__all__ = [
    "AccountState",
    "AccountStatus",
    "EnrolmentBegin",
    "EnrolmentNonce",
    "EnrolmentOpen",
    "NewDeviceList",
    "NodeBrief",
    "Register",
    "Registered",
    "StripeCounts",
]


class Register(Message):
    """A new account: an invite's secret and the first, root-signed device list (seq 1).

    Idempotent: the same invite with the same account succeeds again.
    """

    invite: bytes
    device_list: Signed


class Registered(Message):
    """The account exists; its quota in bytes of sealed chunks (0: none)."""

    account: AccountId
    quota_bytes: int


class EnrolmentBegin(Message):
    """Ask for a nonce to prove the root key with. Says nothing about whether the account exists."""

    account: AccountId


class EnrolmentNonce(Message):
    """The nonce, good once and for a few minutes."""

    nonce: bytes
    expires_ms: int


class EnrolmentOpen(Message):
    """``protocol.accounts.Enrolment`` signed by the account's root key (kind "enrol")."""

    enrolment: Signed


class NewDeviceList(Message):
    """The next device list of the account: seq + 1, naming the hash of the current one."""

    device_list: Signed


class AccountState(Message):
    """What a device needs to act: the current device list."""

    account: AccountId
    device_list: Signed
    quota_bytes: int


class StripeCounts(Message):
    """Stripes by spare shards (shards present and on nodes that are up, minus k).

    ``by_spare`` keys are decimal numbers as text; "-1" counts all that cannot be read now.
    ``after_worst_zone``: the same, were the zone lost that hurts each stripe most.
    """

    total: int
    by_spare: dict[str, int]
    after_worst_zone: dict[str, int]

    def shown(self) -> dict[str, int | dict[str, int]]:
        """For machine-readable output."""
        return {
            "total": self.total,
            "by_spare": self.by_spare,
            "after_worst_zone": self.after_worst_zone,
        }


class NodeBrief(Message):
    """A node as an account owner may see it."""

    id: str
    zone: str
    state: str


class AccountStatus(Message):
    """``GET /v1/account/status``."""

    quota_bytes: int
    used_bytes: int
    chunks: int
    snapshots: int
    head_seq: int
    devices: int
    verdict: str
    sentence: str
    stripes: StripeCounts
    nodes: list[NodeBrief]
