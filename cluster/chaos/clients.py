"""The clients of a run: their processes, and what each account must hold.

What was acknowledged is remembered here; :class:`Account` says what may be visible and what must
be. A client is asked for one thing at a time; when its process dies or does not answer in time,
the outcome is unknown.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from holdfast.cluster.chaos.client_process import Answer, Request
from holdfast.cluster.chaos.contents import PlannedFile
from holdfast.cluster.processes import clean_environment

__all__ = ["Account", "ChaosClient", "Kept"]

_LINE_BYTES_MAX = 16 * 1024 * 1024

State = Literal["kept", "maybe", "never", "going", "gone"]
"""Of a snapshot: acknowledged; of unknown outcome; failed; its deletion is of unknown outcome; deleted."""


@dataclass(slots=True)
class Kept:
    """A snapshot that an operation made, or tried to make.

    Attributes:
        tag: "op-17".
        files: what it holds.
        readers: operations that read it now; it is not deleted meanwhile.
    """

    tag: str
    files: tuple[PlannedFile, ...]
    state: State
    readers: int = 0


@dataclass(slots=True)
class Account:
    """What an account's clients were told.

    Attributes:
        code: its recovery code.
        kept: by tag, in the order of their operations.
    """

    code: str = ""
    kept: dict[str, Kept] = field(default_factory=dict)

    def of(self, *states: State) -> list[Kept]:
        """Snapshots in any of these states."""
        return [kept for kept in self.kept.values() if kept.state in states]

    def settle(self, listed: frozenset[str]) -> list[str]:
        """Compare with what is visible, and know from now on what was unknown; gives what is wrong."""
        wrong = []
        for kept in self.kept.values():
            is_there = kept.tag in listed
            if kept.state == "kept" and not is_there:
                wrong.append(f"{kept.tag} was acknowledged, and is not there")
            elif kept.state == "never" and is_there:
                wrong.append(f"{kept.tag} failed, and is there all the same")
            elif kept.state == "gone" and is_there:
                wrong.append(f"{kept.tag} was forgotten, and is there again")
            elif kept.state == "maybe":
                kept.state = "kept" if is_there else "never"
            elif kept.state == "going":
                kept.state = "kept" if is_there else "gone"
        wrong += [f"{tag} is there, and nobody made it" for tag in sorted(listed - self.kept.keys())]
        return wrong


class ChaosClient:
    """One client process.

    Args:
        name: on the network.
        folder: its own.
        environment: how it reaches the cluster.
    """

    def __init__(
        self, name: str, folder: Path, canary: str, environment: Mapping[str, str], account: Account
    ) -> None:
        self.name = name
        self.account = account
        self._folder = folder
        self._canary = canary
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None
        self._held = asyncio.Event()
        self._held.set()

    @property
    def pid(self) -> int | None:
        """Its pid, while it runs."""
        if self._process is None or self._process.returncode is not None:
            return None
        return self._process.pid

    async def _start(self) -> asyncio.subprocess.Process:
        await self._held.wait()
        if self._process is None or self._process.returncode is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "log").open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",
                    "-m",
                    "holdfast.cluster.chaos.client_process",
                    str(self._folder),
                    self._canary,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    limit=_LINE_BYTES_MAX,
                    start_new_session=True,
                    cwd="/",
                    env=clean_environment() | self._environment,
                )
        return self._process

    async def ask(self, asked: Request, within_s: float) -> Answer:
        """Have it do something; unknown when it dies meanwhile, or takes too long (then it is killed)."""
        process = await self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                process.stdin.write(msgspec.json.encode(asked) + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError:
            await self.kill()
            return Answer(op=asked.op, outcome="unknown", error="hung", why=f"no end within {within_s:.0f} s")
        except ConnectionError:
            line = b""
        if not line:
            await process.wait()
            return Answer(op=asked.op, outcome="unknown", error="killed", why="the client was killed")
        return msgspec.json.decode(line, type=Answer)

    async def kill(self) -> None:
        """SIGKILL; it starts again when it is asked next, unless it is held."""
        if self.pid is not None:
            assert self._process is not None
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def hold(self) -> None:
        """It does not start again until :meth:`release`."""
        self._held.clear()

    def release(self) -> None:
        """It may start again."""
        self._held.set()

    def pause(self) -> None:
        """SIGSTOP."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGCONT)

    async def close(self) -> None:
        """End it: its input ends."""
        if self._process is None or self._process.returncode is not None:
            return
        assert self._process.stdin is not None
        self.resume()
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
