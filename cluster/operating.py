"""Asking the coordinator with the operator key that lies in its folder.

The callers are plain blocking code, which may itself run inside somebody's
event loop: each question gets a short loop of its own, in a thread of its own
when there is a loop already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from holdfast.cluster.limits import ASK_TIMEOUT_S, INVITE_LIFETIME_S, TOKEN_LIFETIME_S
from holdfast.coordinator.identity import read_operator_key
from holdfast.protocol.address import Address, Token
from holdfast.protocol.charter import open_charter
from holdfast.protocol.clock import Source
from holdfast.protocol.messages.admin import ClusterStatus, MakeInvite, MakeNodeToken, TokenMade
from holdfast.protocol.messages.cluster import ClusterInfo
from holdfast.protocol.transport import Transport

__all__ = ["Operator"]

T = TypeVar("T")


class Operator:
    """The operator of one local cluster.

    Raises (every method but :attr:`address`):
        Unreachable: the coordinator does not answer.
        HoldfastError: the refusal it sent.
    """

    def __init__(self, coordinator_folder: Path, source: Source) -> None:
        self.address, self._signer = read_operator_key(coordinator_folder / "operator.key")
        self._source = source

    def status(self, timeout_s: float = ASK_TIMEOUT_S) -> ClusterStatus:
        """Nodes, groups and the verdict."""
        return _run(self._ask("GET", "/v1/admin/status", None, ClusterStatus, timeout_s))

    def invite(self, quota_bytes: int = 0, lifetime_s: int = INVITE_LIFETIME_S) -> str:
        """An invite's text: one account may register with it."""
        message = MakeInvite(quota_bytes=quota_bytes, lifetime_s=lifetime_s)
        return self._token(_run(self._ask("POST", "/v1/admin/invites", message, TokenMade, ASK_TIMEOUT_S)))

    def node_token(self) -> str:
        """A token's text: one node may join with it."""
        message = MakeNodeToken(lifetime_s=TOKEN_LIFETIME_S)
        return self._token(_run(self._ask("POST", "/v1/admin/node-tokens", message, TokenMade, ASK_TIMEOUT_S)))

    def _token(self, made: TokenMade) -> str:
        return Token(self.address, made.secret).text()

    async def _ask(self, method: str, target: str, message: object, answer: type[T], timeout_s: float) -> T:
        address: Address = self.address
        assert address.cluster is not None, "an operator key names its cluster"
        async with Transport(source=self._source, timeout_s=timeout_s) as transport:
            info = await transport.call("GET", address.url, "/v1/cluster", answer=ClusterInfo, reads=True)
            charter = open_charter(info.root_key, info.charter, address.cluster)
            return await transport.call(
                method,
                address.url,
                target,
                message,
                answer=answer,
                signer=self._signer,
                receiver=charter.coordinator,
                reads=method == "GET",
            )


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
