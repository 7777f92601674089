"""From what a person has (an invite, a recovery code or file) to a device that belongs to an account."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from holdfast.client.home import Home
from holdfast.client.joining import Joined, init_account, recover_account, refuse_second
from holdfast.client.link import Link
from holdfast.client.recovery_code import decode_recovery_code, parse_recovery_file, render_recovery_file
from holdfast.protocol.address import Address, Token
from holdfast.protocol.clock import Source
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import AccountId
from holdfast.protocol.transport import Transport

__all__ = ["init", "recover"]


async def init(
    home: Home,
    invite: str | None,
    *,
    device_name: str,
    show_code: Callable[[str, str], None] | None,
    transport: Transport,
    source: Source,
) -> tuple[Joined, str]:
    """Make a new account; gives its recovery code too, which is empty when an earlier init was finished.

    Args:
        show_code: told (recovery code, recovery file text) before anything is registered.

    Raises:
        BadRequest: no invite. Refused: it is not good (any more).
        Conflict: this device is set up already. Unreachable: no coordinator.
    """
    refuse_second(home)
    if not invite:
        raise BadRequest(
            "a new account needs an invite",
            do="Ask the operator ('holdfast admin invite'), and put it into HOLDFAST_INVITE.",
        )
    codes: list[str] = []

    def keep(code: str, address: Address, account: AccountId) -> None:
        codes.append(code)
        if show_code is not None:
            made = datetime.fromtimestamp(source.now_ms() / 1000, UTC).date().isoformat()
            show_code(code, render_recovery_file(code, str(address), account.short, made))

    joined = await init_account(
        home,
        Token.parse(invite),
        device_name=device_name,
        show_code=keep,
        transport=transport,
        source=source,
    )
    return joined, codes[0] if codes else ""


async def recover(
    home: Home,
    code: str | None,
    recovery_file: str | None,
    address: Address | None,
    *,
    device_name: str,
    confirm_cluster: Callable[[Address], bool] | None,
    transport: Transport,
    source: Source,
) -> tuple[Joined, int]:
    """Make this device one of the account's; gives how many characters of the code were put right too.

    Args:
        code: the 72 characters; or ``recovery_file``: the text of a recovery file.
        address: where the cluster was told to be, if it was.
        confirm_cluster: asked when the address has no cluster id; without it, that is refused.

    Raises:
        WrongKey: the code does not fit. NoAccount: the cluster has no such account.
        Conflict: this device is set up already. Unreachable, Refused: the coordinator.
    """
    if recovery_file is not None:
        parsed = parse_recovery_file(recovery_file)
        code, address = parsed.code, _same_cluster(Address.parse(parsed.address), address)
    if code is None or address is None:
        raise BadRequest(
            "recovering needs the recovery code and the cluster's address",
            do="Give --recovery-file, or set HOLDFAST_COORDINATOR to the address the operator gave you.",
        )
    decoded = decode_recovery_code(code)
    link = await Link.connect(address, transport=transport, source=source)
    if address.cluster is None and not (confirm_cluster is not None and confirm_cluster(link.address)):
        raise BadRequest(
            f"the cluster at {address.url} has the id {link.cluster} and was not confirmed",
            do=f"If that is your cluster, use the address {link.address}.",
        )
    joined = await recover_account(home, link, decoded, device_name=device_name, source=source)
    return joined, decoded.corrected


def _same_cluster(written: Address, given: Address | None) -> Address:
    """The recovery file decides which cluster it is; where that is now may have been told anew.

    Raises:
        BadRequest: they name different clusters.
    """
    if given is None:
        return written
    if None not in (written.cluster, given.cluster) and written.cluster != given.cluster:
        raise BadRequest(
            "the recovery file is another cluster's than HOLDFAST_COORDINATOR names",
            why=f"the file says {written}",
            do="Unset HOLDFAST_COORDINATOR, or give the right one.",
        )
    return Address(given.url, written.cluster or given.cluster)
