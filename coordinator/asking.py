"""An operator's questions to the coordinator: signed with the operator key, over HTTP like anybody's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from holdfast.coordinator.identity import read_operator_key
from holdfast.protocol.address import Address, Token
from holdfast.protocol.charter import open_charter
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.limits import TOKEN_LIFETIME_S_DEFAULT
from holdfast.protocol.messages.admin import ClusterStatus, MakeInvite, MakeNodeToken, TokenMade
from holdfast.protocol.messages.cluster import ClusterInfo
from holdfast.protocol.transport import Transport

__all__ = ["MadeToken", "cluster_status", "invite_token", "node_token"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class MadeToken:
    """A one-time token's text, and until when it is good (ms since the epoch)."""

    text: str
    expires_ms: int

    def __repr__(self) -> str:
        return f"MadeToken(expires_ms={self.expires_ms}, text hidden)"


async def _ask(
    key_file: Path, coordinator: str | None, method: str, target: str, message: object, answer: type[T]
) -> tuple[T, Address]:
    """One operator request; gives the answer and the cluster's address.

    Raises:
        BadRequest: no operator key there, or it is another cluster's.
        Unreachable, Refused: the coordinator.
    """
    address, signer = read_operator_key(key_file)
    if coordinator:
        given = Address.parse(coordinator)
        if given.cluster not in (None, address.cluster):
            raise BadRequest("the operator key is another cluster's than the coordinator's address names")
        address = Address(given.url, address.cluster)
    assert address.cluster is not None
    async with Transport() as transport:
        info = await transport.call("GET", address.url, "/v1/cluster", answer=ClusterInfo, reads=True)
        charter = open_charter(info.root_key, info.charter, address.cluster)
        told = await transport.call(
            method, address.url, target, message, answer=answer, signer=signer, receiver=charter.coordinator
        )
    return told, address


async def invite_token(
    key_file: Path,
    coordinator: str | None = None,
    *,
    quota_bytes: int = 0,
    lifetime_s: int = TOKEN_LIFETIME_S_DEFAULT,
) -> MadeToken:
    """An invite for one account."""
    message = MakeInvite(quota_bytes=quota_bytes, lifetime_s=lifetime_s)
    made, address = await _ask(key_file, coordinator, "POST", "/v1/admin/invites", message, TokenMade)
    return MadeToken(Token(address, made.secret).text(), made.expires_ms)


async def node_token(
    key_file: Path, coordinator: str | None = None, *, lifetime_s: int = TOKEN_LIFETIME_S_DEFAULT
) -> MadeToken:
    """A join token for one node."""
    message = MakeNodeToken(lifetime_s=lifetime_s)
    made, address = await _ask(key_file, coordinator, "POST", "/v1/admin/node-tokens", message, TokenMade)
    return MadeToken(Token(address, made.secret).text(), made.expires_ms)


async def cluster_status(key_file: Path, coordinator: str | None = None) -> ClusterStatus:
    """The whole cluster at a glance."""
    told, _ = await _ask(key_file, coordinator, "GET", "/v1/admin/status", None, ClusterStatus)
    return told
