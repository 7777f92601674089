"""Accounts: registration, device lists, quota."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sqlalchemy import Connection, bindparam, func, insert, select, update

from holdfast.coordinator.catalogue.nodes import use_token
from holdfast.coordinator.catalogue.prepared import Prepared
from holdfast.coordinator.catalogue.schema import accounts
from holdfast.coordinator.limits import ENVELOPES_REMEMBERED_MAX, REMEMBERED_ENVELOPE_BYTES_MAX
from holdfast.protocol.accounts import DeviceList, open_device_list, signed_digest
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import Conflict, NoAccount, Refused
from holdfast.protocol.ids import AccountId, ClusterId, Digest
from holdfast.protocol.signing import Signed

__all__ = [
    "AccountRow",
    "account_row",
    "all_accounts",
    "count_accounts",
    "find_account",
    "register",
    "replace_device_list",
]


# Every command begins with it.
_BY_ID: Final = Prepared(
    select(
        accounts.c.number,
        accounts.c.device_list,
        accounts.c.device_list_seq,
        accounts.c.quota_bytes,
        accounts.c.used_bytes,
        accounts.c.sweep_generation,
        accounts.c.head_seq,
    ).where(accounts.c.id == bindparam("id"))
)


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as the catalogue knows it; ``number`` is its short name in other tables."""

    number: int
    id: AccountId
    device_list: Signed
    device_list_seq: int
    quota_bytes: int
    used_bytes: int
    sweep_generation: int
    head_seq: int


@lru_cache(maxsize=ENVELOPES_REMEMBERED_MAX)
def _decoded_before(stored: bytes) -> Signed:
    """A device list's envelope: every request of an account reads it, and it hardly ever changes."""
    return decode(stored, Signed)


def find_account(connection: Connection, account: AccountId) -> AccountRow | None:
    """The account, or None."""
    row = _BY_ID.row(connection, id=bytes(account))
    if row is None:
        return None
    number, stored, *rest = row
    is_small = len(stored) <= REMEMBERED_ENVELOPE_BYTES_MAX
    return AccountRow(number, account, _decoded_before(stored) if is_small else decode(stored, Signed), *rest)


def account_row(connection: Connection, account: AccountId) -> AccountRow:
    """The account; raises NoAccount."""
    found = find_account(connection, account)
    if found is None:
        raise NoAccount(f"account {account.short} is not known to this cluster")
    return found


def register(
    connection: Connection, invite: Digest, signed: Signed, listed: DeviceList, now_ms: int
) -> AccountRow:
    """Make an account with an invite; the same account with the same invite again is fine.

    Raises:
        Refused: the invite is not good for it.
        Conflict: the account exists with another first device list.
    """
    quota = use_token(connection, invite, "invite", listed.account, now_ms)
    known = find_account(connection, listed.account)
    if known is not None:
        if known.device_list_seq == 1 and known.device_list != signed:
            raise Conflict(
                f"account {listed.account.short} exists already",
                do="Use 'holdfast recover' to set this device up for it.",
            )
        return known
    connection.execute(
        insert(accounts).values(
            id=bytes(listed.account),
            device_list=encode(signed),
            device_list_seq=listed.seq,
            quota_bytes=quota,
            used_bytes=0,
            sweep_generation=0,
            head_seq=0,
        )
    )
    return account_row(connection, listed.account)


def replace_device_list(
    connection: Connection, cluster: ClusterId, signed: Signed, listed: DeviceList
) -> AccountRow:
    """Compare-and-swap of the device list on (seq, previous hash); posting the current one again is fine.

    Raises:
        Conflict: it does not follow the current list.
        Refused: it changes the root's keys.
        NoAccount: there is no such account.
    """
    current = account_row(connection, listed.account)
    if current.device_list == signed:
        return current
    before = open_device_list(current.device_list, cluster)
    if listed.seq != before.seq + 1 or listed.previous != signed_digest(current.device_list):
        raise Conflict(
            f"the account's device list is at number {before.seq} now",
            do="Fetch it again and make the change on top of it.",
            seq=before.seq,
        )
    if listed.root_box_key != before.root_box_key or listed.epoch < before.epoch:
        raise Refused("a device list can neither change the root's keys nor go back in epochs")
    connection.execute(
        update(accounts)
        .where(accounts.c.number == current.number)
        .values(device_list=encode(signed), device_list_seq=listed.seq)
    )
    return account_row(connection, listed.account)


def all_accounts(connection: Connection) -> list[AccountId]:
    """Every account."""
    return [AccountId(found) for found in connection.execute(select(accounts.c.id)).scalars()]


def count_accounts(connection: Connection) -> int:
    """How many accounts there are."""
    return int(connection.execute(select(func.count()).select_from(accounts)).scalar() or 0)
