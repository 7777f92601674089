"""Making an account, and making a new device one of an account's.

``init`` shows the recovery code before it registers: a code without an account is
harmless, an account without a code is not. What registers is written down first
(without the recovery secret), so that an init that died halfway is finished by
running it again. Where the cluster said no, there is no account and never was one
by that code: what was written down is removed, and the next try makes a new code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.client.home import Home, Joining, KnownAccount
from holdfast.client.identity import (
    AccountKeys,
    DeviceKeys,
    RootKeys,
    add_device,
    enrolment,
    first_device_list,
    open_account_keys,
)
from holdfast.client.link import Link
from holdfast.client.recovery_code import RecoveredCode, encode_recovery_code
from holdfast.protocol.accounts import open_device_list, signed_digest
from holdfast.protocol.address import Address, Token
from holdfast.protocol.clock import Source
from holdfast.protocol.errors import BadRequest, Conflict, OutcomeUnknown, Refused
from holdfast.protocol.ids import AccountId, DeviceId
from holdfast.protocol.limits import LABEL_BYTES_MAX
from holdfast.protocol.messages.accounts import Register
from holdfast.protocol.requests import Signer
from holdfast.protocol.signing import Signed
from holdfast.protocol.transport import Transport

__all__ = ["Joined", "init_account", "recover_account"]

_ENROL_TRIES_MAX = 8


@dataclass(frozen=True, slots=True)
class Joined:
    """This device is set up. ``resumed``: an earlier init was finished, its code is the valid one."""

    account: AccountId
    device: DeviceId
    address: Address
    resumed: bool = False


def _name_of(device_name: str) -> str:
    name = device_name.strip() or "device"
    if len(name.encode(errors="surrogatepass")) > LABEL_BYTES_MAX or not name.isprintable():
        raise BadRequest(
            f"{name[:40]!r} is not a device's name",
            why=f"it has at most {LABEL_BYTES_MAX} bytes of printable text",
            do="Choose another with --device-name.",
        )
    return name


def refuse_second(home: Home) -> None:
    """One folder is one device of one account; raises Conflict."""
    if home.has_account:
        known = home.account()
        raise Conflict(
            f"{home.folder} is set up for account {known.account.short} already",
            do="Set HOLDFAST_HOME to another folder for another account.",
        )


async def init_account(
    home: Home,
    invite: Token,
    *,
    device_name: str,
    show_code: Callable[[str, Address, AccountId], None],
    transport: Transport,
    source: Source,
) -> Joined:
    """Make a new account with an invite.

    Args:
        show_code: shows or stores the recovery code; called before anything is registered, and not
            at all when an earlier init is finished.

    Raises:
        Conflict: this folder has an account. Refused: the invite is not good.
        Unreachable: the coordinator does not answer.
    """
    with home.lock():
        refuse_second(home)
        link = await Link.connect(invite.address, transport=transport, source=source)
        joining = home.joining()
        resumed = joining is not None and Address.parse(joining.address).cluster == link.cluster
        if joining is None or not resumed:
            secret, account_secret = source.random_bytes(32), source.random_bytes(32)
            root, device = RootKeys.of(secret), DeviceKeys.generate(source)
            name = _name_of(device_name)
            first = first_device_list(root, device, name, link.cluster, account_secret)
            show_code(encode_recovery_code(secret), link.address, root.account)
            joining = Joining(1, str(link.address), name, device.to_bytes(), account_secret, first)
            home.save_joining(joining)
        try:
            return await _register(home, link, invite, joining, resumed)
        except (Refused, BadRequest, Conflict) as error:
            # What was refused after an answer was lost says nothing of that: it may be registered.
            if not resumed and not isinstance(error.__cause__, OutcomeUnknown):
                home.forget_joining()
            raise


async def _register(home: Home, link: Link, invite: Token, joining: Joining, resumed: bool) -> Joined:
    device = DeviceKeys.from_bytes(joining.device_keys)
    listed = open_device_list(joining.device_list, link.cluster)
    link.signed_by(Signer("device", listed.account, device.id, device.sign_key, link.cluster))
    await link.register(Register(invite=invite.secret, device_list=joining.device_list))
    known = KnownAccount(
        link.address,
        listed.account,
        device.id,
        joining.device_name,
        listed.seq,
        signed_digest(joining.device_list),
    )
    home.set_up(known, device, [AccountKeys.of(1, joining.account_secret)])
    return Joined(listed.account, device.id, link.address, resumed)


async def recover_account(
    home: Home, link: Link, code: RecoveredCode, *, device_name: str, source: Source
) -> Joined:
    """Make this device one of the account's that the recovery code belongs to.

    Raises:
        NoAccount: the cluster has no such account. Conflict: this folder has an account.
        WrongKey: the account's keys do not open.
    """
    with home.lock():
        refuse_second(home)
        root, device = RootKeys.of(code.secret), DeviceKeys.generate(source)
        name = _name_of(device_name)
        nonce = await link.enrolment_nonce(root.account)
        state = await link.enrolment_open(enrolment(root, device, link.cluster, nonce))
        link.signed_by(Signer("device", root.account, device.id, device.sign_key, link.cluster))
        signed = await _list_device(link, state.device_list, root, device, name)
        listed = open_device_list(signed, link.cluster)
        keys = open_account_keys(listed, link.cluster, device.box_key, device.id)
        known = KnownAccount(link.address, root.account, device.id, name, listed.seq, signed_digest(signed))
        home.set_up(known, device, keys)
        return Joined(root.account, device.id, link.address)


async def _list_device(link: Link, current: Signed, root: RootKeys, device: DeviceKeys, name: str) -> Signed:
    """Append this device to the list; another device may be doing the same."""
    for _ in range(_ENROL_TRIES_MAX):
        listed = open_device_list(current, link.cluster)
        if listed.account != root.account:
            raise BadRequest("the coordinator gave another account's device list")
        keys = open_account_keys(listed, link.cluster, root.box_key, b"")
        following = add_device(root, current, listed, device, name, link.cluster, keys)
        try:
            await link.new_device_list(following)
            return following
        except Conflict:
            nonce = await link.enrolment_nonce(root.account)
            current = (await link.enrolment_open(enrolment(root, device, link.cluster, nonce))).device_list
    raise Conflict("other devices kept being added at the same time", do="Run 'holdfast recover' again.")
