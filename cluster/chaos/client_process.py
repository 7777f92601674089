"""A client of a chaos run, in a process of its own: a line of JSON in, a line of JSON out.

It knows what every snapshot must hold, because contents follow from seeds, and compares every
byte that it gets back. It ends with its parent: its standard input is closed then.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from holdfast.client.home import Home
from holdfast.client.sdk import AsyncClient
from holdfast.client.snapshots import Snapshot
from holdfast.cluster.chaos.cheating import Cheat
from holdfast.cluster.chaos.contents import PlannedFile, content_of
from holdfast.cluster.chaos.history import Outcome
from holdfast.cluster.chaos.typed import Part
from holdfast.protocol.address import Address
from holdfast.protocol.errors import HoldfastError, NotFound, OutcomeUnknown

__all__ = ["Answer", "Request", "main"]

Verb = Literal[
    "init", "recover", "backup", "stream", "restore", "delete", "undelete", "prune", "list", "cheat"
]
_STREAM_PORTION: Final = 256 * 1024


class Request(Part, kw_only=True):
    """Do something.

    Attributes:
        about: the tag of the snapshot it makes, or is about; how to cheat.
        files: what the snapshot holds, or must hold.
        code: for recover.
    """

    op: int
    verb: Verb
    about: str = ""
    files: tuple[PlannedFile, ...] = ()
    code: str = ""


class Answer(Part, kw_only=True):
    """What came of it.

    Attributes:
        wrong: what was handed out and is not what was stored, or was taken and had to be refused.
        unlisted: the snapshot that it was asked about is not among those that are visible.
        listed: tags of the snapshots that are visible (verb list).
        secrets: what servers must never see, in hex (verb init); code: the recovery code.
    """

    op: int
    outcome: Outcome
    error: str = ""
    why: str = ""
    bytes: int = 0
    wrong: tuple[str, ...] = ()
    unlisted: bool = False
    listed: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    code: str = ""


class _Client:
    """
    Args:
        folder: its own: home/, source/, back/.
        canary: in every file and name.
    """

    def __init__(self, folder: Path, canary: str) -> None:
        self._folder = folder
        self._canary = canary
        self._sdk: AsyncClient | None = None
        self._cheat: Cheat | None = None

    def _opened(self) -> AsyncClient:
        if self._sdk is None:
            address = os.environ["HOLDFAST_COORDINATOR"]
            self._sdk = AsyncClient(self._folder / "home", coordinator=address)
        return self._sdk

    async def close(self) -> None:
        if self._sdk is not None:
            await self._sdk.close()
            self._sdk = None
        if self._cheat is not None:
            await self._cheat.close()
            self._cheat = None

    async def answer(self, asked: Request) -> Answer:
        """Do it; whatever happens becomes an answer."""
        try:
            if asked.verb == "cheat":
                return await self._cheat_with(asked)
            done = await getattr(self, f"_{asked.verb}")(asked)
        except OutcomeUnknown as error:
            return Answer(op=asked.op, outcome="unknown", error=error.code, why=str(error))
        except HoldfastError as error:
            return Answer(op=asked.op, outcome="failed", error=error.code, why=str(error))
        except Exception as error:  # an error nobody foresaw is what such a run looks for
            return Answer(op=asked.op, outcome="failed", error="untyped", why=repr(error))
        return Answer(op=asked.op, outcome="ok", **done) if isinstance(done, dict) else done

    async def _init(self, asked: Request) -> dict[str, Any]:
        made = await self._opened().init(device_name="chaos")
        secrets = [keys.secret.hex() for keys in Home(self._folder / "home").account_keys()]
        return {"secrets": tuple(secrets), "code": made.recovery_code}

    async def _recover(self, asked: Request) -> dict[str, Any]:
        await self._opened().recover(asked.code, device_name="chaos too", confirm_cluster=lambda _: True)
        return {}

    # Storing

    def _lay_out(self, files: Sequence[PlannedFile]) -> int:
        """Make the source folder hold exactly these files; what is the same already stays untouched."""
        source = self._folder / "source"
        source.mkdir(exist_ok=True)
        wanted = {file.name: content_of(file, self._canary) for file in files}
        for path in sorted(source.rglob("*"), reverse=True):
            if path.is_file() and str(path.relative_to(source)) not in wanted:
                path.unlink()
        for name, content in wanted.items():
            path = source / name
            path.parent.mkdir(exist_ok=True)
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
        return sum(map(len, wanted.values()))

    async def _backup(self, asked: Request) -> dict[str, Any]:
        size = await asyncio.to_thread(self._lay_out, asked.files)
        await self._opened().backup(self._folder / "source", tags=[asked.about])
        return {"bytes": size}

    async def _stream(self, asked: Request) -> dict[str, Any]:
        (file,) = asked.files
        content = content_of(file, self._canary)

        async def portions() -> AsyncIterator[bytes]:
            for start in range(0, len(content), _STREAM_PORTION):
                yield content[start : start + _STREAM_PORTION]

        await self._opened().backup_stream(file.name, portions(), tags=[asked.about])
        return {"bytes": len(content)}

    # Getting back

    async def _found(self, tag: str) -> Snapshot:
        for snapshot in await self._opened().snapshots():
            if tag in snapshot.tags:
                return snapshot
        raise NotFound(f"no snapshot has the tag {tag}")

    async def _restore(self, asked: Request) -> Answer:
        try:
            snapshot = await self._found(asked.about)
        except NotFound as error:
            return Answer(op=asked.op, outcome="failed", error=error.code, why=str(error), unlisted=True)
        # Another device of the account may have made it, from a folder of its own.
        source = os.fsencode(snapshot.paths[0]).lstrip(b"/")
        is_stream = not snapshot.paths[0].endswith("/source")
        target = self._folder / "back"
        shutil.rmtree(target, ignore_errors=True)
        try:
            report = await self._opened().restore(snapshot, target, path=b"" if is_stream else source)
            wrong, size = await asyncio.to_thread(self._compare, target, asked.files, report.complete)
        finally:
            shutil.rmtree(target, ignore_errors=True)
        if report.complete or wrong:
            return Answer(op=asked.op, outcome="ok", bytes=size, wrong=tuple(wrong))
        first = report.failed[0][1] if report.failed else report.unreadable[0][2]
        return Answer(op=asked.op, outcome="failed", error=first.code, why=str(first), bytes=size)

    def _compare(
        self, target: Path, files: Sequence[PlannedFile], is_complete: bool
    ) -> tuple[list[str], int]:
        """(what is wrong, bytes that are right). Where not all came back, what is there must be right."""
        wrong, size = [], 0
        wanted = {file.name: file for file in files}
        there = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
        wrong += [f"{name} was never in this snapshot" for name in sorted(there - wanted.keys())]
        for name, file in wanted.items():
            if name not in there:
                if is_complete:
                    wrong.append(f"{name} is not there, and nobody said so")
                continue
            content = (target / name).read_bytes()
            size += len(content)
            if content != content_of(file, self._canary):
                wrong.append(f"{name} has other bytes")
        return wrong, size

    # Letting go

    async def _delete(self, asked: Request) -> dict[str, Any]:
        await self._opened().forget(await self._found(asked.about))
        return {}

    async def _undelete(self, asked: Request) -> dict[str, Any]:
        await self._opened().undelete("latest")
        return {}

    async def _prune(self, asked: Request) -> dict[str, Any]:
        await self._opened().prune()
        return {}

    async def _cheat_with(self, asked: Request) -> Answer:
        if self._cheat is None:
            self._cheat = Cheat(self._folder / "home", Address.parse(os.environ["HOLDFAST_COORDINATOR"]))
        taken = await self._cheat.attempt(asked.about)
        return Answer(op=asked.op, outcome="ok", wrong=(taken,) if taken else ())

    async def _list(self, asked: Request) -> dict[str, Any]:
        listed = await self._opened().snapshots()
        return {"listed": tuple(tag for snapshot in listed for tag in snapshot.tags)}


async def _serve(folder: Path, canary: str) -> None:
    client = _Client(folder, canary)
    decoder = msgspec.json.Decoder(Request)
    try:
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            answer = await client.answer(decoder.decode(line))
            sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
            sys.stdout.buffer.flush()
    finally:
        await client.close()


def main(arguments: Sequence[str]) -> None:
    """``FOLDER CANARY``"""
    from holdfast.protocol.terminal import configure_logging, run

    configure_logging(False, "warning")
    folder, canary = arguments
    run(lambda: _serve(Path(folder), canary), transfers=True)


if __name__ == "__main__":
    main(sys.argv[1:])
