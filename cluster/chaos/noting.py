"""What users of an open cluster do with it, for its report: how long it took, and what came of it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from holdfast.client.restore_window import RestoreReport
from holdfast.client.sdk import AsyncClient
from holdfast.client.snapshots import Snapshot
from holdfast.cluster.chaos.history import History, OperationEnded, OperationStarted
from holdfast.cluster.chaos.loading import Load
from holdfast.protocol.errors import HoldfastError, OutcomeUnknown

__all__ = ["NotedClient", "Noting"]

_KINDS = {
    "init": "init",
    "recover": "recover",
    "backup": "backup",
    "backup_stream": "stream",
    "restore": "restore",
    "forget": "delete",
    "undelete": "undelete",
    "prune": "prune",
    "check": "check",
}
"""Verbs of the SDK, as a history names them."""


class Noting:
    """Notes operations in a history. Any thread may."""

    def __init__(self, history: History, load: Load) -> None:
        self._history = history
        self._load = load
        self._numbers = count(1)

    @contextmanager
    def operation(self, kind: str, *, client: str = "") -> Iterator[list[Any]]:
        """What happens inside is one operation; put its result into the list that is given, if it has one."""
        op, came = next(self._numbers), list[Any]()
        self._history.add(OperationStarted, op=op, client=client, kind=kind)
        try:
            yield came
        except OutcomeUnknown as error:
            self._history.add(OperationEnded, op=op, outcome="unknown", code=error.code, why=str(error))
            raise
        except HoldfastError as error:
            self._history.add(OperationEnded, op=op, outcome="failed", code=error.code, why=str(error))
            raise
        except BaseException as error:
            self._history.add(OperationEnded, op=op, outcome="unknown", why=repr(error)[:500])
            raise
        self._ended(op, came[0] if came else None)

    def _ended(self, op: int, result: object) -> None:
        size = 0
        if isinstance(result, RestoreReport):
            size = result.bytes
            self._load.read_bytes += size
            if not result.complete:
                error = result.failed[0][1] if result.failed else result.unreadable[0][2]
                self._history.add(
                    OperationEnded, op=op, outcome="failed", code=error.code, why=str(error), bytes=size
                )
                return
        elif isinstance(result, Snapshot):
            size = result.bytes
            self._load.written_bytes += size
        self._history.add(OperationEnded, op=op, outcome="ok", bytes=size)


class NotedClient(AsyncClient):
    """An :class:`holdfast.client.AsyncClient` whose operations are in the report of a cluster.

    Args:
        name: as the report calls it.
    """

    def __init__(self, home: Path | str, *, coordinator: str, name: str, noting: Noting) -> None:
        super().__init__(home, coordinator=coordinator)
        self._name = name
        self._noting = noting


def _noted(verb: str, kind: str) -> Callable[..., Awaitable[Any]]:
    plain = getattr(AsyncClient, verb)

    @functools.wraps(plain)
    async def noted(self: NotedClient, *args: Any, **more: Any) -> Any:
        with self._noting.operation(kind, client=self._name) as came:
            came.append(await plain(self, *args, **more))
        return came[0]

    return noted


for _verb, _kind in _KINDS.items():
    setattr(NotedClient, _verb, _noted(_verb, _kind))
