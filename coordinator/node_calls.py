"""What the coordinator asks of nodes: signed with its own key, over HTTP like anybody's."""

from __future__ import annotations

from typing import Any, TypeVar

from holdfast.coordinator.catalogue.nodes import NodeRow
from holdfast.coordinator.identity import CoordinatorIdentity
from holdfast.coordinator.limits import NODE_CALL_TIMEOUT_S
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.requests import Signer
from holdfast.protocol.signing import key_id
from holdfast.protocol.transport import Transport, body_digest

__all__ = ["NodeCalls"]

T = TypeVar("T")


class NodeCalls:
    """Requests of the coordinator (role "coordinator") to nodes."""

    def __init__(self, transport: Transport, identity: CoordinatorIdentity) -> None:
        self._transport = transport
        self._signer = Signer("coordinator", b"", key_id(identity.public), identity.key, identity.cluster)

    async def ask(
        self,
        node: NodeRow,
        method: str,
        target: str,
        message: Any,
        answer: type[T],
        *,
        timeout_s: float = NODE_CALL_TIMEOUT_S,
    ) -> T:
        """One message there, one back. Whatever is asked of a node may be asked again.

        Raises:
            Unreachable: no answer. HoldfastError: what the node refuses.
        """
        return await self.ask_encoded(node, method, target, encode(message), answer, timeout_s=timeout_s)

    async def ask_encoded(
        self, node: NodeRow, method: str, target: str, message: bytes, answer: type[T], *, timeout_s: float
    ) -> T:
        """:meth:`ask` with a message that is encoded already."""
        told = await self._transport.send(
            method,
            node.url,
            target,
            [message],
            signer=self._signer,
            receiver=node.id,
            digest=body_digest(message),
            reads=True,
            timeout_s=timeout_s,
        )
        return decode(told, answer)
