"""Named steps of the protocol at which tests end, freeze or delay a process.

A step is a place between two things that must not be torn apart: a shard is durable and its
receipt is not sent, a row is written and not committed. :func:`reached` costs one comparison with None
unless the environment names a file (``HOLDFAST_FAILPOINTS``), which only cluster/chaos and
tests do. The file may change while the process runs; each line arms one step:

    <step> <nth> kill|stop|delay:<ms>

When the step is reached the nth time since it was armed, the process notes so in ``<file>.hits``
(durably: a test must know that it happened) and does it, once.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Event, Lock
from typing import Final

__all__ = ["STEPS", "VARIABLE", "Failpoints", "reached"]

VARIABLE: Final = "HOLDFAST_FAILPOINTS"

STEPS: Final[dict[str, str]] = {
    # node
    "node.join.joined": "the coordinator has registered the node; the node has not noted who it is",
    "node.put.admitted": "a batch is received and verified; nothing is written",
    "node.put.written": "the batch is in the transaction; it is not committed",
    "node.put.committed": "the batch is durable; nobody has been told",
    "node.put.acknowledging": "the receipt is signed; it is not sent",
    "node.mark.written": "a deletion order's marks are in the transaction; it is not committed",
    "node.mark.committed": "the marks are durable; the order is not answered",
    "node.erase.written": "shards are erased in the transaction; it is not committed",
    "node.erase.committed": "shards are erased",
    "node.quarantine.written": "damaged shards are moved aside in the transaction; it is not committed",
    "node.compact.copied": "a store's copy has everything; it is not durable",
    "node.compact.durable": "a store's copy is durable; the old file is in its place",
    "node.compact.replaced": "a store's copy is in its place; it is not open",
    "node.head.kept": "a witness keeps a head; the coordinator has not been told",
    "node.rebuild.pulled": "shards of other slots are here; nothing is rebuilt",
    "node.rebuild.stored": "rebuilt shards are durable; the coordinator has not been told",
    # coordinator
    "coordinator.backup.begun": "a backup's upload is in the catalogue; the client has not been told",
    "coordinator.upload.opened": "another upload is in the catalogue; the client has not been told",
    "coordinator.claim.committed": "claimed chunks are pinned; the client has not been told",
    "coordinator.commit.written": "rows of chunks are in the transaction; it is not committed",
    "coordinator.commit.committed": "rows of chunks are durable; the client has not been told",
    "coordinator.snapshot.taken": "a small backup's chunks and head are durable; no witness has the head",
    "coordinator.snapshot.committed": "a small backup is durable and witnessed; the client has not been told",
    "coordinator.head.waiting": "a head is taken and durable; no witness has it",
    "coordinator.head.agreed": "a majority of its witnesses keeps a head; the catalogue has not noted it",
    "coordinator.head.written": "a head is in the transaction; it is not committed",
    "coordinator.head.committed": "a head is durable; the client has not been told",
    "coordinator.move.assigned": "a slot has a new holder in the catalogue; nothing is filled",
    "coordinator.move.proving": "a node's slots are noted as to be proven and filled; nothing is filled",
    "coordinator.move.flipped": "a filled slot has only its new holder in the catalogue",
    "coordinator.repair.rebuilt": "a node says that it has rebuilt shards; the catalogue has not noted it",
    "coordinator.sweep.sealed": "a sweep is sealed in the catalogue; the client has not been told",
    "coordinator.trash.moved": "some chunks are in the trash",
    "coordinator.trash.emptied": "some chunks have left the trash, and wait for deletion orders",
    "coordinator.order.made": "a deletion order has its number in the catalogue; it is not sent",
    "coordinator.order.answered": "a node has answered an order; the catalogue has not noted it",
    # client
    "client.upload.opened": "the upload is open; nothing is sent",
    "client.put.acknowledged": "a batch is at its write quorum; it is not committed",
    "client.commit.answered": "a batch is committed; the client goes on",
    "client.head.posting": "everything is committed; no head names it",
    "client.head.answered": "the head is there; nobody was told",
    "client.sweep.marked": "the live set is sent; it is not sealed",
    "client.sweep.sealed": "the sweep is sealed; nobody was told",
}
"""Every step and what it stands between: the kill-at-every-step tests are made from this table."""


class Failpoints:
    """What one process's file arms. Several threads may come to steps at once.

    Args:
        path: the file; it may come, change and go at any time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._seen: tuple[int, int] | None = None
        self._armed: dict[str, tuple[int, str]] = {}
        self._counts: dict[str, int] = {}

    def reached(self, step: str) -> None:
        """A step is reached: do what the file says."""
        with self._lock:
            self._read_again()
            armed = self._armed.get(step)
            if armed is None:
                return
            self._counts[step] = self._counts.get(step, 0) + 1
            if self._counts[step] != armed[0]:
                return
            del self._armed[step]
            self._note(step)
        _do(armed[1])

    def _read_again(self) -> None:
        try:
            told = self._path.stat()
        except OSError:
            self._seen, self._armed = None, {}
            return
        seen = (told.st_ino, told.st_mtime_ns)
        if seen == self._seen:
            return
        self._seen, self._counts, self._armed = seen, {}, {}
        for line in self._path.read_text().splitlines():
            step, nth, action = line.split()
            self._armed[step] = (int(nth), action)

    def _note(self, step: str) -> None:
        handle = os.open(f"{self._path}.hits", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, f"{step} {os.getpid()}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)


def _do(action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        Event().wait(float(action.removeprefix("delay:")) / 1000)


_ARMED: Failpoints | None = Failpoints(Path(os.environ[VARIABLE])) if VARIABLE in os.environ else None


def reached(step: str) -> None:
    """The process is at this step of :data:`STEPS`. Free unless the environment arms steps."""
    if _ARMED is not None:
        _ARMED.reached(step)
