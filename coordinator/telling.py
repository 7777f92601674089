"""Having every node told who reigns, and by which map (coordinator.reigning): when, and who is waited for.

Each node is told by one task of its own at most. One that does not answer soon gives its place to
others, and is waited for beside them; those of which nothing is heard, or that did not hear it when they were
told last, have places of their own: most of them keep whoever asks waiting.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from holdfast.coordinator.limits import PLACE_KEPT_S, REIGN_RETRY_S, TELL_SOON_S
from holdfast.coordinator.reigning import tell_node, to_hear
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import NodeId

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = ["end_telling", "keep_told", "tell_nodes"]

_log = structlog.get_logger()


async def keep_told(desk: Desk) -> None:
    """One turn: tell every node that has not heard it, without waiting for any.

    Also those that do not report here: they may follow another coordinator. One that ceases to report is told
    again: that is how a coordinator that runs on learns of its successor. Whoever did not hear it is
    left alone for a while.
    """
    reigning, live, now_s = desk.reigning, desk.live, desk.source.monotonic()
    for node, task in list(reigning.telling.items()):
        if task.done():
            del reigning.telling[node]
            task.result()  # what nobody foresaw ends the coordinator, as in any turn
    for known in (reigning.told, reigning.retry_s):
        for gone in known.keys() - live.nodes.keys():
            known.pop(gone)
    for node in _late(desk):
        if reigning.retry_s.get(node, now_s) <= now_s:
            _tell(desk, node)


async def tell_nodes(desk: Desk, within_s: float = TELL_SOON_S) -> None:
    """Tell all nodes now, also those that did not hear it a moment ago.

    Waits until they have heard it, or did not, and after so many seconds for nobody. Those that are silent
    and did not answer last time are not waited for.
    """
    reigning, live = desk.reigning, desk.live
    until_s = desk.source.monotonic() + within_s
    absent = {node for node in live.nodes if live.state(node) != "up" and node in reigning.retry_s}
    late = _late(desk)
    for _ in range(2):  # a task that was under way may have told what was there before
        tasks = {node: _tell(desk, node) for node in late}
        waited = {task for node, task in tasks.items() if node not in absent}
        if not waited:
            return
        _, slow = await asyncio.wait(waited, timeout=max(0.0, until_s - desk.source.monotonic()))
        if slow:
            return
        late = [node for node in _late(desk) if node not in reigning.retry_s]


async def end_telling(desk: Desk) -> None:
    """Nobody is told any more."""
    tasks = list(desk.reigning.telling.values())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _late(desk: Desk) -> list[NodeId]:
    """Who was not told yet what it should have been by now."""
    return [node for node in desk.live.nodes if desk.reigning.told.get(node) != to_hear(desk, node)]


def _tell(desk: Desk, node: NodeId) -> asyncio.Task[None]:
    """The task that tells it: the one under way, or a new one. One that came to grief ends the next turn."""
    task = desk.reigning.telling.get(node)
    if task is None or (task.done() and (task.cancelled() or task.exception() is None)):
        task = desk.reigning.telling[node] = asyncio.create_task(_told(desk, node))
        task.add_done_callback(_look_at)
    return task


async def _told(desk: Desk, node: NodeId) -> None:
    """Tell it, as soon as there is a place; keep the place only for as long as whoever answers takes."""
    reigning = desk.reigning
    answers = desk.live.state(node) == "up" and node not in reigning.retry_s
    async with reigning.places if answers else reigning.places_behind:
        call = asyncio.create_task(tell_node(desk, node))
        try:
            await asyncio.wait({call}, timeout=PLACE_KEPT_S)
        except asyncio.CancelledError:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            raise
    try:
        await call
    except HoldfastError as error:
        _log.debug("a node did not hear who reigns", node=node.short, why=str(error))
        reigning.retry_s[node] = desk.source.monotonic() + REIGN_RETRY_S
    else:
        reigning.retry_s.pop(node, None)


def _look_at(telling: asyncio.Task[None]) -> None:
    """What nobody foresaw is told, and keeps nobody from joining."""
    if not telling.cancelled() and telling.exception() is not None:
        _log.error("telling a node who reigns came to grief", exc_info=telling.exception())
