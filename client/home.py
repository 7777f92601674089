"""This device's folder: who it is, what it has seen, and a cache of manifest pages.

    account.json    address, account, device, newest head and device list seen, highest term met
    device.key      the device's signing and box keys (0600)
    account.keys    the account's key of every epoch (0600)
    joining.bin     a registration that has not been confirmed yet (0600)
    cache/          manifest pages as they are stored: sealed

The recovery secret is never written here. HOLDFAST_HOME names the folder;
without it, it is where the platform keeps an application's data.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Self

from msgspec import Struct

from holdfast.client.identity import AccountKeys, DeviceKeys
from holdfast.client.page_cache import PageCache
from holdfast.protocol.accounts import NO_DIGEST
from holdfast.protocol.address import Address
from holdfast.protocol.codec import Record, decode, encode
from holdfast.protocol.directory import (
    Lock,
    make_private,
    read_json,
    read_private,
    remove_file,
    write_file,
    write_json,
)
from holdfast.protocol.errors import BadRequest, NoAccount, WrongDirectory
from holdfast.protocol.ids import AccountId, DeviceId, Digest
from holdfast.protocol.signing import Signed

__all__ = ["Home", "Joining", "KnownAccount", "default_home"]

_VERSION: Final = 1
_BEGIN_ELSEWHERE: Final = "Set HOLDFAST_HOME to a folder that can be made and written."
_BEGIN_AGAIN: Final = "Set HOLDFAST_HOME to another folder and begin again."


def default_home() -> Path:
    """HOLDFAST_HOME, or the platform's place for an application's data."""
    named = os.environ.get("HOLDFAST_HOME")
    if named:
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("holdfast", appauthor=False)


class _StoredKeys(Record):
    version: int
    keys: list[tuple[int, bytes]]


class Joining(Record):
    """A registration under way: everything but the recovery secret."""

    version: int
    address: str
    device_name: str
    device_keys: bytes
    account_secret: bytes
    device_list: Signed


class KnownAccount(Struct, frozen=True):
    """What account.json says.

    Attributes:
        head_seq, head_digest: of the newest head this device saw.
        term: the highest of a coordinator it has met.
    """

    address: Address
    account: AccountId
    device: DeviceId
    device_name: str
    device_list_seq: int = 0
    device_list_digest: Digest = NO_DIGEST
    head_seq: int = 0
    head_digest: Digest = NO_DIGEST
    term: int = 0


class Home:
    """One device's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def default(cls) -> Self:
        """See :func:`default_home`."""
        return cls(default_home())

    def lock(self, *, wait: bool = False) -> Lock:
        """Keep other processes from changing the folder; raises Locked."""
        self._make()
        return Lock(self.folder, "the account", wait=wait)

    def _make(self) -> None:
        make_private(self.folder, _BEGIN_ELSEWHERE)

    @property
    def has_account(self) -> bool:
        """Is this device set up?"""
        return (self.folder / "account.json").exists()

    def account(self) -> KnownAccount:
        """The account this device is set up for.

        Raises:
            NoAccount: none. WrongDirectory: another version, or damaged.
        """
        values = read_json(self.folder / "account.json", _VERSION)
        if values is None:
            raise NoAccount(f"there is no account in {self.folder}")
        try:
            address = Address.parse(values["address"])
            if address.cluster is None:
                raise BadRequest("the address does not name its cluster")
            return KnownAccount(
                address,
                AccountId.from_hex(values["account"]),
                DeviceId.from_hex(values["device"]),
                str(values["device_name"]),
                int(values["device_list_seq"]),
                Digest.from_hex(values["device_list_digest"]),
                int(values["head_seq"]),
                Digest.from_hex(values["head_digest"]),
                int(values.get("term", 0)),
            )
        except (KeyError, TypeError, ValueError, BadRequest) as error:
            raise WrongDirectory(f"{self.folder / 'account.json'} is damaged", why=str(error)) from error

    def save_account(self, known: KnownAccount) -> None:
        """Write account.json."""
        write_json(
            self.folder / "account.json",
            {
                "version": _VERSION,
                "address": str(known.address),
                "account": known.account.hex(),
                "device": known.device.hex(),
                "device_name": known.device_name,
                "device_list_seq": known.device_list_seq,
                "device_list_digest": known.device_list_digest.hex(),
                "head_seq": known.head_seq,
                "head_digest": known.head_digest.hex(),
                "term": known.term,
            },
        )

    def set_up(self, known: KnownAccount, device: DeviceKeys, keys: list[AccountKeys]) -> None:
        """Make this device one of the account's: keys first, account.json last."""
        self._make()
        write_file(self.folder / "device.key", device.to_bytes())
        self.save_keys(keys)
        self.save_account(known)
        remove_file(self.folder / "joining.bin")

    def save_keys(self, keys: list[AccountKeys]) -> None:
        """Write the account's keys."""
        stored = _StoredKeys(_VERSION, [(epoch.epoch, epoch.secret) for epoch in keys])
        write_file(self.folder / "account.keys", encode(stored))

    def account_keys(self) -> list[AccountKeys]:
        """The account's keys, oldest epoch first; raises WrongDirectory, NoAccount."""
        raw = read_private(self.folder / "account.keys")
        if raw is None:
            raise NoAccount(f"there are no account keys in {self.folder}")
        try:
            stored = decode(raw, _StoredKeys)
        except BadRequest as error:
            raise WrongDirectory(f"{self.folder / 'account.keys'} is damaged", why=error.why) from error
        if stored.version != _VERSION or not stored.keys:
            raise WrongDirectory(f"{self.folder / 'account.keys'} has another version")
        return [AccountKeys.of(epoch, secret) for epoch, secret in stored.keys]

    def device(self) -> DeviceKeys:
        """This device's keys; raises WrongDirectory, NoAccount."""
        raw = read_private(self.folder / "device.key")
        if raw is None:
            raise NoAccount(f"there is no device key in {self.folder}")
        try:
            return DeviceKeys.from_bytes(raw)
        except BadRequest as error:
            raise WrongDirectory(f"{self.folder / 'device.key'} is damaged", why=error.what) from error

    def joining(self) -> Joining | None:
        """A registration that was begun and not confirmed."""
        path = self.folder / "joining.bin"
        raw = read_private(path)
        if raw is None:
            return None
        try:
            joining = decode(raw, Joining)
        except BadRequest as error:
            raise WrongDirectory(f"{path} is damaged", why=error.why, do=_BEGIN_AGAIN) from error
        if joining.version != _VERSION:
            raise WrongDirectory(f"{path} has another version", do=_BEGIN_AGAIN)
        return joining

    def save_joining(self, joining: Joining) -> None:
        """Remember a registration before it is sent."""
        self._make()
        write_file(self.folder / "joining.bin", encode(joining))

    def forget_joining(self) -> None:
        """The cluster refused it: there is no account to finish."""
        remove_file(self.folder / "joining.bin")

    def cache(self) -> PageCache:
        """The cache of manifest pages."""
        return PageCache(self.folder / "cache")
