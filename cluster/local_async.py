"""The awaited face of :class:`~holdfast.cluster.local.LocalCluster`: the same verbs, run in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from holdfast.cluster.layout import Plan
from holdfast.cluster.limits import HEALTHY_DEADLINE_S, LOG_SHOWN_LINES, STATUS_TIMEOUT_S
from holdfast.cluster.state import LocalStatus

if TYPE_CHECKING:
    from holdfast.cluster.local import LocalCluster, Target

__all__ = ["AsyncLocalCluster"]


class AsyncLocalCluster:
    """What ``async with LocalCluster(...)`` gives. Each verb is documented at its twin.

    Attributes:
        blocking: the twin.
    """

    def __init__(self, cluster: LocalCluster) -> None:
        self.blocking = cluster

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def folder(self) -> Path:
        """Where it lives."""
        return self.blocking.folder

    @property
    def plan(self) -> Plan:
        """Its shape."""
        return self.blocking.plan

    @property
    def numbers(self) -> range:
        """The nodes' numbers, 1..n."""
        return self.blocking.numbers

    @property
    def address(self) -> str:
        """``URL#<cluster id>``."""
        return self.blocking.address

    @property
    def operator_key(self) -> Path:
        """The operator key file."""
        return self.blocking.operator_key

    def node(self, number: int) -> Path:
        """The folder of node 1..n."""
        return self.blocking.node(number)

    def pid(self, target: Target) -> int | None:
        """The process of a member, None when it does not run."""
        return self.blocking.pid(target)

    def logs(self, target: Target, lines: int = LOG_SHOWN_LINES) -> list[str]:
        """The last lines a member printed."""
        return self.blocking.logs(target, lines)

    async def start(self, *targets: Target) -> None:
        """Start these members, or make and start the whole cluster."""
        await asyncio.to_thread(self.blocking.start, *targets)

    async def start_node(self, *targets: Target) -> None:
        """Start members that were killed or stopped."""
        await asyncio.to_thread(self.blocking.start_node, *targets)

    async def close(self) -> None:
        """The end of the ``async with``; not cut short by a cancellation."""
        await asyncio.shield(asyncio.to_thread(self.blocking.close))

    async def down(self, *, delete: bool = False) -> bool:
        """Stop everything, and delete it when asked to."""
        return await asyncio.to_thread(lambda: self.blocking.down(delete=delete))

    async def invite(self, quota_bytes: int = 0) -> str:
        """A fresh invite."""
        return await asyncio.to_thread(self.blocking.invite, quota_bytes)

    async def env(self) -> dict[str, str]:
        """HOLDFAST_COORDINATOR, and a fresh HOLDFAST_INVITE."""
        return await asyncio.to_thread(self.blocking.env)

    async def kill(self, *targets: Target) -> None:
        """SIGKILL."""
        await asyncio.to_thread(self.blocking.kill, *targets)

    async def stop(self, *targets: Target) -> None:
        """SIGTERM."""
        await asyncio.to_thread(self.blocking.stop, *targets)

    async def pause(self, *targets: Target) -> None:
        """SIGSTOP."""
        await asyncio.to_thread(self.blocking.pause, *targets)

    async def resume(self, *targets: Target) -> None:
        """SIGCONT."""
        await asyncio.to_thread(self.blocking.resume, *targets)

    async def add_node(self, zone: str = "") -> int:
        """One more node; gives its number."""
        return await asyncio.to_thread(self.blocking.add_node, zone)

    async def heal(self, deadline: float = HEALTHY_DEADLINE_S) -> None:
        """Resume and start everything, wait until healthy."""
        await asyncio.to_thread(self.blocking.heal, deadline)

    async def status(self, timeout_s: float = STATUS_TIMEOUT_S) -> LocalStatus:
        """Processes, and what the coordinator says of them."""
        return await asyncio.to_thread(self.blocking.status, timeout_s)

    async def wait_healthy(self, deadline: float = HEALTHY_DEADLINE_S) -> LocalStatus:
        """Wait until every node is up."""
        return await asyncio.to_thread(self.blocking.wait_healthy, deadline)

    async def wait_until(
        self, reached: Callable[[LocalStatus], bool], what: str, deadline: float = HEALTHY_DEADLINE_S
    ) -> LocalStatus:
        """Wait for a condition on the status (called in a thread)."""
        return await asyncio.to_thread(self.blocking.wait_until, reached, what, deadline)
