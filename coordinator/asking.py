"""An operator's questions to the coordinator: signed with the operator key, over HTTP like anybody's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from holdfast.coordinator.identity import read_operator_key
from holdfast.coordinator.limits import SCRUB_LOOK_S
from holdfast.protocol.address import Address, Token
from holdfast.protocol.charter import open_charter
from holdfast.protocol.errors import BadRequest, NoRoom
from holdfast.protocol.limits import AUDIT_CHUNKS_MAX, QUARANTINE_SHOWN_MAX, TOKEN_LIFETIME_S_DEFAULT
from holdfast.protocol.messages.admin import (
    ClusterStatus,
    MakeInvite,
    MakeNodeToken,
    Moving,
    Rebalance,
    SetStanding,
    TokenMade,
)
from holdfast.protocol.messages.audit import AskAudit, Audits
from holdfast.protocol.messages.cluster import ClusterInfo
from holdfast.protocol.messages.compact import AskCompact, Compacted
from holdfast.protocol.messages.scrub import AskQuarantine, AskScrub, QuarantineShown, Scrubbed
from holdfast.protocol.transport import Transport

__all__ = [
    "MadeToken",
    "audit",
    "cluster_status",
    "compact_node",
    "invite_token",
    "node_token",
    "read_quarantine",
    "rebalance",
    "scrub_node",
    "set_standing",
]

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
            method,
            address.url,
            target,
            message,
            answer=answer,
            signer=signer,
            receiver=charter.coordinator,
            reads=method == "GET",
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


async def set_standing(
    key_file: Path,
    coordinator: str | None = None,
    *,
    node: str,
    standing: Literal["joined", "draining", "removed", "trusted"],
    dry_run: bool = False,
) -> Moving:
    """Empty a node, keep it after all, let it go, or trust it again; ``node`` is the beginning of its id."""
    message = SetStanding(node=node, standing=standing, dry_run=dry_run)
    told, _ = await _ask(key_file, coordinator, "POST", "/v1/admin/standing", message, Moving)
    return told


async def scrub_node(
    key_file: Path, coordinator: str | None = None, *, node: str, wait: bool = False
) -> Scrubbed:
    """Have a node (the beginning of its id) reread its shards now; ``wait``: until it is done."""
    target = "/v1/admin/scrub"
    told, _ = await _ask(key_file, coordinator, "POST", target, AskScrub(node=node, start=True), Scrubbed)
    asked_ms = told.started_ms
    # Asked for again until this pass, or a later one, has ended.
    while wait and (told.running or told.ended_ms < asked_ms or told.unreported):
        await asyncio.sleep(SCRUB_LOOK_S)
        told, _ = await _ask(
            key_file, coordinator, "POST", target, AskScrub(node=node, start=False), Scrubbed
        )
    return told


async def compact_node(
    key_file: Path, coordinator: str | None = None, *, node: str, wait: bool = False
) -> Compacted:
    """Have a node (the beginning of its id) give room back to its disk; ``wait``: until it is done.

    Raises:
        NoRoom: its disk has too little for the copy (only with ``wait``).
    """
    target = "/v1/admin/compact"
    told, _ = await _ask(key_file, coordinator, "POST", target, AskCompact(node=node, start=True), Compacted)
    while wait and told.running:
        await asyncio.sleep(SCRUB_LOOK_S)
        again = AskCompact(node=node, start=False)
        told, _ = await _ask(key_file, coordinator, "POST", target, again, Compacted)
    if wait and told.trouble:
        raise NoRoom(f"node {node} could not compact its store", why=told.trouble)
    return told


async def read_quarantine(
    key_file: Path, coordinator: str | None = None, *, node: str = ""
) -> QuarantineShown:
    """What one node, or every node, keeps aside."""
    message = AskQuarantine(node=node, most=QUARANTINE_SHOWN_MAX)
    told, _ = await _ask(key_file, coordinator, "POST", "/v1/admin/quarantine", message, QuarantineShown)
    return told


async def audit(key_file: Path, coordinator: str | None = None, *, chunks: int) -> list[Audits]:
    """Challenge the holders of so many stripes (0: only what is known), a bounded number at a time."""
    told: list[Audits] = []
    while chunks > 0 or not told:
        message = AskAudit(chunks=min(chunks, AUDIT_CHUNKS_MAX))
        told.append((await _ask(key_file, coordinator, "POST", "/v1/admin/audit", message, Audits))[0])
        chunks -= message.chunks
    return told


async def rebalance(key_file: Path, coordinator: str | None = None, *, dry_run: bool = False) -> Moving:
    """Move slots from the fullest to the emptiest nodes."""
    message = Rebalance(dry_run=dry_run)
    told, _ = await _ask(key_file, coordinator, "POST", "/v1/admin/rebalance", message, Moving)
    return told
