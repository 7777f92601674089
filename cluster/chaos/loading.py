"""The load: what clients do, one thing after another, drawn by the seed; and what is judged of each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random

from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.cheating import CHEATS
from holdfast.cluster.chaos.client_process import Answer, Request, Verb
from holdfast.cluster.chaos.clients import Account, ChaosClient, Kept
from holdfast.cluster.chaos.contents import PlannedFile, changed_files
from holdfast.cluster.chaos.history import OperationEnded, OperationStarted
from holdfast.cluster.chaos.judging import Judge
from holdfast.cluster.chaos.limits import OPERATION_WITHIN_S

__all__ = ["FULL", "Load"]

_SNAPSHOTS_LEFT_MIN = 2
_CHANGES = {"backup", "stream", "delete", "undelete", "prune"}
_REFUSED_RIGHTLY = {"sweep_refused", "locked", "head_moved", "conflict"}
"""What may be answered without any fault: a prune while something is unsafe, or another device was first."""
FULL = {"no_room", "no_quorum"}
"""What may be answered to who stores while disks are full: all of them, or too many of a group."""


@dataclass(slots=True)
class Load:
    """All clients at work.

    Attributes:
        read_bytes, written_bytes: user bytes moved by operations that succeeded.
        unexplained: what failed though no fault explains it.
    """

    arena: Arena
    judge: Judge
    canary: str
    stopping: bool = False
    read_bytes: int = 0
    written_bytes: int = 0
    _ops: int = 0
    _files: dict[str, list[PlannedFile]] = field(default_factory=dict)

    async def work(self, client: ChaosClient, seed: str) -> None:
        """One client's loop, until the load stops."""
        random = Random(seed)
        load = self.arena.scenario.load
        weights = {
            "backup": load.backup,
            "restore": load.restore,
            "delete": load.delete,
            "prune": load.prune,
            "stream": load.stream,
            "cheat": load.cheat,
        }
        while not self.stopping:
            (verb,) = random.choices(list(weights), list(weights.values()))
            await self._one(client, verb, random)
            await asyncio.sleep(random.uniform(0, 2 * load.pause_s))

    async def _one(self, client: ChaosClient, verb: str, random: Random) -> None:
        account = client.account
        if verb == "restore":
            if kept := account.of("kept"):
                await self.restore(client, random.choice(kept))
        elif verb == "delete":
            free = [kept for kept in account.of("kept") if not kept.readers]
            if len(free) > _SNAPSHOTS_LEFT_MIN:
                await self._delete(client, random.choice(free))
        elif verb == "prune":
            await self.ask(client, "prune")
        elif verb == "cheat":
            await self._cheat(client, random.choice(CHEATS))
        else:
            await self._store(client, account, verb, random)

    async def _store(self, client: ChaosClient, account: Account, verb: str, random: Random) -> None:
        load = self.arena.scenario.load
        before = self._files.get(client.name, [])
        earlier = [file for kept in account.kept.values() for file in kept.files] if load.again else []
        files = changed_files(
            before,
            random,
            self.canary,
            count=load.files,
            kib=load.file_kib,
            earlier=earlier,
            again=load.again,
        )
        if verb == "stream":
            files = [PlannedFile(name="stream", size=files[0].size * 2, seed=files[0].seed)]
        else:
            self._files[client.name] = files
        op = self._next()
        kept = Kept(f"op-{op}", tuple(files), "maybe")
        account.kept[kept.tag] = kept
        answer = await self.ask(
            client, "backup" if verb == "backup" else "stream", kept.tag, tuple(files), op=op
        )
        kept.state = {"ok": "kept", "failed": "never", "unknown": "maybe"}[answer.outcome]  # type: ignore[assignment]
        if answer.outcome == "ok":
            self.written_bytes += answer.bytes

    async def _delete(self, client: ChaosClient, kept: Kept) -> None:
        kept.state = "going"
        answer = await self.ask(client, "delete", kept.tag)
        if answer.outcome != "unknown":
            kept.state = "gone" if answer.outcome == "ok" else "kept"

    async def _cheat(self, client: ChaosClient, how: str) -> None:
        answer = await self.ask(client, "cheat", how)
        if answer.outcome == "ok":
            self.judge.require("c", not answer.wrong, f"this was taken: {'; '.join(answer.wrong)}")

    async def restore(self, client: ChaosClient, kept: Kept, *, must: bool = False) -> bool:
        """Get a snapshot back and compare it; True when every byte came.

        Args:
            must: there is no excuse for failing.
        """
        kept.readers += 1
        try:
            answer = await self.ask(client, "restore", kept.tag, kept.files, must=must)
        finally:
            kept.readers -= 1
        self.judge.require("b", not answer.wrong, f"{kept.tag}: {'; '.join(answer.wrong[:3])}")
        # Whatever is broken: an old list of snapshots is refused, and never taken for the newest.
        stale = answer.unlisted and kept.state == "kept"
        self.judge.require("b", not stale, f"{kept.tag} was acknowledged, and is not among those listed")
        if answer.outcome == "ok":
            self.judge.looked("a")
            self.read_bytes += answer.bytes
        return answer.outcome == "ok"

    def _next(self) -> int:
        self._ops += 1
        return self._ops

    async def ask(
        self,
        client: ChaosClient,
        verb: Verb,
        about: str = "",
        files: tuple[PlannedFile, ...] = (),
        *,
        op: int | None = None,
        code: str = "",
        must: bool = False,
    ) -> Answer:
        """Have a client do something; noted in the history, and judged where it fails."""
        op = op or self._next()
        history = self.arena.history
        history.add(OperationStarted, op=op, client=client.name, kind=verb, about=about)
        excuses, former_reigned = self.arena.excuses, self.arena.former_reigns
        answer = await client.ask(
            Request(op=op, verb=verb, about=about, files=files, code=code), OPERATION_WITHIN_S
        )
        history.add(
            OperationEnded,
            op=op,
            outcome=answer.outcome,
            code=answer.error,
            why=answer.why[:500],
            bytes=answer.bytes,
        )
        self.judge.operations[answer.outcome] += 1
        if former_reigned and self.arena.former_reigns and verb in _CHANGES:
            self.judge.require(
                "j",
                answer.outcome != "ok",
                f"{verb} {about} was acknowledged by a coordinator of a former term",
            )
        self._judge(verb, about, answer, must or self.arena.excuses == excuses == self.arena.excuses_over)
        return answer

    def _judge(self, verb: Verb, about: str, answer: Answer, no_excuse: bool) -> None:
        name = f"{verb} {about}".strip()
        self.judge.require(
            "b", answer.error != "untyped", f"{name} failed with an error nobody foresaw: {answer.why}"
        )
        expected = self.arena.scenario.expect.availability
        if answer.outcome == "ok" or expected not in ("kept", "no room"):
            return
        if expected == "no room" and answer.error in FULL and verb in ("backup", "stream"):
            return
        if no_excuse and answer.error not in _REFUSED_RIGHTLY and answer.error != "killed":
            self.judge.violated("a", f"{name} failed, and no fault explains it: {answer.error}: {answer.why}")
