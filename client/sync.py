"""The SDK, synchronous: :class:`Client`, with the names of AsyncClient and no awaiting.

    with Client.from_env() as client:
        snapshot = client.backup("/home/me/Documents")
        client.restore(snapshot, "/tmp/back")

It runs an AsyncClient on an event loop in a thread of its own; calls from several
threads are fine and run side by side.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from holdfast.client.check import CheckReport
from holdfast.client.entries import Entry
from holdfast.client.forgetting import ForgetReport, Forgotten
from holdfast.client.placing import Overwrite
from holdfast.client.progress import OnProgress
from holdfast.client.restore import RestoreReport
from holdfast.client.retention import GroupBy, RetentionPolicy
from holdfast.client.sdk import AsyncClient, Initialised, PathLike, Recovered
from holdfast.client.snapshots import Snapshot
from holdfast.client.sweeping import PruneReport
from holdfast.protocol.address import Address
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.messages.accounts import AccountStatus

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """See :class:`holdfast.client.AsyncClient`; same arguments, results and errors."""

    def __init__(
        self, home: Path | str | None = None, *, coordinator: str | None = None, source: Source = SYSTEM
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="holdfast client", daemon=True)
        self._thread.start()

        async def make() -> AsyncClient:
            return AsyncClient(home, coordinator=coordinator, source=source)

        try:
            self._client = self._run(make())
        except BaseException:
            self._stop()
            raise

    @classmethod
    def from_env(cls, *, source: Source = SYSTEM) -> Self:
        """From HOLDFAST_HOME and HOLDFAST_COORDINATOR."""
        return cls(coordinator=os.environ.get("HOLDFAST_COORDINATOR") or None, source=source)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise BadRequest("this client is closed", do="Make a new one.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            # Let the upload or restore clean up behind itself before this thread goes on.
            future.cancel()
            concurrent.futures.wait([future])
            raise

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread; closing twice is fine."""
        if not self._loop.is_closed():
            self._run(self._end())
            self._stop()

    async def _end(self) -> None:
        await self._client.close()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    def init(
        self,
        invite: str | None = None,
        *,
        device_name: str | None = None,
        show_code: Callable[[str, str], None] | None = None,
    ) -> Initialised:
        """Make a new account."""
        return self._run(self._client.init(invite, device_name=device_name, show_code=show_code))

    def recover(
        self,
        code: str | None = None,
        *,
        recovery_file: str | None = None,
        device_name: str | None = None,
        confirm_cluster: Callable[[Address], bool] | None = None,
    ) -> Recovered:
        """Set this device up with the recovery code alone."""
        return self._run(
            self._client.recover(
                code, recovery_file=recovery_file, device_name=device_name, confirm_cluster=confirm_cluster
            )
        )

    def status(self) -> AccountStatus:
        """Numbers and the verdict."""
        return self._run(self._client.status())

    def backup(
        self,
        *paths: PathLike,
        tags: Iterable[str] = (),
        exclude: Iterable[str] = (),
        one_file_system: bool = False,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Snapshot:
        """Back up files and folders."""
        return self._run(
            self._client.backup(
                *paths,
                tags=tags,
                exclude=exclude,
                one_file_system=one_file_system,
                dry_run=dry_run,
                on_progress=on_progress,
            )
        )

    def backup_stream(
        self, name: str | bytes, portions: Iterable[bytes], *, tags: Iterable[str] = ()
    ) -> Snapshot:
        """Back up one stream as a snapshot of one file; ``portions`` is read in a thread of its own."""

        async def fed() -> AsyncIterator[bytes]:
            iterator = iter(portions)
            while (portion := await asyncio.to_thread(next, iterator, None)) is not None:
                yield portion

        return self._run(self._client.backup_stream(name, fed(), tags=tags))

    def forget(
        self,
        *snapshots: Snapshot | str,
        policy: RetentionPolicy | None = None,
        device: str | None = None,
        path: str | None = None,
        tags: Iterable[str] = (),
        group_by: Iterable[GroupBy] = ("device", "paths"),
        allow_remove_all: bool = False,
        dry_run: bool = False,
    ) -> ForgetReport:
        """Take snapshots off the list: those named, or all that a policy does not keep."""
        return self._run(
            self._client.forget(
                *snapshots,
                policy=policy,
                device=device,
                path=path,
                tags=tags,
                group_by=group_by,
                allow_remove_all=allow_remove_all,
                dry_run=dry_run,
            )
        )

    def prune(self, *, dry_run: bool = False, on_progress: OnProgress | None = None) -> PruneReport:
        """Move what no snapshot reaches to the trash."""
        return self._run(self._client.prune(dry_run=dry_run, on_progress=on_progress))

    def forgotten(self) -> list[Forgotten]:
        """Snapshots that were forgotten, the latest first, and whether they may come back."""
        return self._run(self._client.forgotten())

    def undelete(self, snapshot: Snapshot | str) -> Snapshot:
        """Bring a forgotten snapshot back."""
        return self._run(self._client.undelete(snapshot))

    def snapshots(self) -> list[Snapshot]:
        """All snapshots, oldest first."""
        return self._run(self._client.snapshots())

    def find(self, wanted: str = "latest", *, device: str | None = None, path: str | None = None) -> Snapshot:
        """The snapshot with this id's beginning, or the latest."""
        return self._run(self._client.find(wanted, device=device, path=path))

    def entries(self, snapshot: Snapshot | str = "latest", prefix: str | bytes = b"") -> Iterator[Entry]:
        """The entries of a snapshot at and below a path, in order."""
        return self._drain(self._client.entries(snapshot, prefix))

    def read_stream(self, snapshot: Snapshot | str, name: str | bytes) -> Iterator[bytes]:
        """The bytes of one file of a snapshot, in order."""
        return self._drain(self._client.read_stream(snapshot, name))

    def _drain(self, source: AsyncIterator[T]) -> Iterator[T]:
        async def some() -> list[T]:
            found: list[T] = []
            async for value in source:
                found.append(value)
                if len(found) >= (1 if isinstance(value, bytes) else 1000):
                    break
            return found

        while found := self._run(some()):
            yield from found

    def restore(
        self,
        snapshot: Snapshot | str,
        target: str | os.PathLike[str],
        *,
        path: str | bytes = b"",
        include: Sequence[str] = (),
        verify: bool = False,
        overwrite: Overwrite = "never",
        on_progress: OnProgress | None = None,
    ) -> RestoreReport:
        """Restore a snapshot below ``target``."""
        return self._run(
            self._client.restore(
                snapshot,
                target,
                path=path,
                include=include,
                verify=verify,
                overwrite=overwrite,
                on_progress=on_progress,
            )
        )

    def check(
        self,
        snapshot: Snapshot | str = "latest",
        *,
        read_data: bool = False,
        sample: float = 0.0,
        on_progress: OnProgress | None = None,
    ) -> CheckReport:
        """Verify that a snapshot can be restored."""
        return self._run(
            self._client.check(snapshot, read_data=read_data, sample=sample, on_progress=on_progress)
        )
