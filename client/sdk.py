"""The SDK, asynchronous: :class:`AsyncClient`. ``holdfast.client.sync.Client`` has the same names.

    async with AsyncClient.from_env() as client:
        snapshot = await client.backup("/home/me/Documents", tags=["daily"])
        report = await client.restore(snapshot, "/tmp/back")

Errors are those of ``holdfast.protocol.errors`` and mirror the command line's
exit codes. A client may be used by several tasks at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from holdfast.client.entries import Entry, check_path
from holdfast.client.exclude import Excluder
from holdfast.client.home import Home
from holdfast.client.loading import load_ahead
from holdfast.client.manifest import UnreadablePage, read_manifest
from holdfast.client.progress import OnProgress
from holdfast.client.sealing import SealedChunk
from holdfast.client.session import Session
from holdfast.client.snapshots import Snapshot, checked_tags, find_snapshot, snapshots_of
from holdfast.client.walk import components, normal_roots
from holdfast.protocol.address import Address
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.ids import AccountId
from holdfast.protocol.messages.accounts import AccountStatus
from holdfast.protocol.secret import Secret
from holdfast.protocol.transport import Transport

# What only some verbs need is loaded by them: a command starts that much sooner.
if TYPE_CHECKING:
    from holdfast.client.check import CheckReport
    from holdfast.client.forgetting import ForgetReport, Forgotten
    from holdfast.client.placing import Overwrite
    from holdfast.client.restore import RestoreReport
    from holdfast.client.retention import GroupBy, RetentionPolicy
    from holdfast.client.sweeping import PruneReport

__all__ = ["AsyncClient", "Initialised", "Recovered"]

PathLike = str | bytes | os.PathLike[str]


class Initialised(Secret, frozen=True):
    """A new account. ``recovery_code`` is told this once; empty when an earlier init was finished."""

    account: AccountId
    address: Address
    recovery_code: str
    resumed: bool

    def __repr__(self) -> str:
        return f"Initialised({self.account}, {self.address}, recovery code hidden)"


class Recovered(Struct, frozen=True):
    """This device belongs to the account again.

    Attributes:
        corrected: how many characters of the code were put right.
        snapshot: the newest snapshot, if there is any; ``head_seq`` its head's number.
        witnesses: how many of how many witnesses confirmed that head; None: it names none.
    """

    account: AccountId
    address: Address
    corrected: int
    head_seq: int
    snapshot: Snapshot | None
    witnesses: tuple[int, int] | None = None


class AsyncClient:
    """One device's access to one account. Use it as an async context manager.

    Args:
        home: the device's folder; default HOLDFAST_HOME or the platform's place.
        coordinator: the cluster's address (URL or URL#<cluster id>); default: the one remembered.
        source: time and randomness.
    """

    def __init__(
        self, home: Path | str | None = None, *, coordinator: str | None = None, source: Source = SYSTEM
    ) -> None:
        self._home = Home(Path(home)) if home is not None else Home.default()
        self._coordinator = Address.parse(coordinator) if coordinator else None
        self._source = source
        self._transport = Transport(source=source)
        self._session: Session | None = None
        self._opening = asyncio.Lock()

    @classmethod
    def from_env(cls, *, source: Source = SYSTEM) -> Self:
        """From HOLDFAST_HOME and HOLDFAST_COORDINATOR."""
        return cls(coordinator=os.environ.get("HOLDFAST_COORDINATOR") or None, source=source)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    @property
    def wire_bytes(self) -> int:
        """Bytes of request and answer bodies so far, both ways."""
        return self._transport.bytes_sent + self._transport.bytes_received

    async def _opened(self) -> Session:
        async with self._opening:
            if self._session is None:
                self._session = await Session.open(
                    self._home, transport=self._transport, source=self._source, coordinator=self._coordinator
                )
            return self._session

    # The account

    async def init(
        self,
        invite: str | None = None,
        *,
        device_name: str | None = None,
        show_code: Callable[[str, str], None] | None = None,
    ) -> Initialised:
        """Make a new account.

        Args:
            invite: the invite's text; default HOLDFAST_INVITE.
            show_code: told (recovery code, recovery file text) before anything is registered, so that
                it can be kept first.

        Raises:
            BadRequest: no invite. Refused: it is not good (any more).
            Conflict: this device is set up already. Unreachable: no coordinator.
        """
        from holdfast.client.setting_up import init

        joined, code = await init(
            self._home,
            invite or os.environ.get("HOLDFAST_INVITE"),
            device_name=device_name or socket.gethostname(),
            show_code=show_code,
            transport=self._transport,
            source=self._source,
        )
        return Initialised(joined.account, joined.address, code, joined.resumed)

    async def recover(
        self,
        code: str | None = None,
        *,
        recovery_file: str | None = None,
        device_name: str | None = None,
        confirm_cluster: Callable[[Address], bool] | None = None,
    ) -> Recovered:
        """Set this device up with the recovery code alone.

        Args:
            code: the 72 characters; or ``recovery_file``: the text of a recovery file.
            confirm_cluster: asked when the address has no cluster id; without it, that is refused.

        Raises:
            WrongKey: the code does not fit. NoAccount: the cluster has no such account.
            Conflict: this device is set up already. Unreachable, Refused: the coordinator.
        """
        from holdfast.client.setting_up import recover

        joined, corrected = await recover(
            self._home,
            code,
            recovery_file,
            self._coordinator,
            device_name=device_name or socket.gethostname(),
            confirm_cluster=confirm_cluster,
            transport=self._transport,
            source=self._source,
        )
        session = await self._opened()
        head = await session.head()
        newest = await snapshots_of(session, head.snapshots[-1:])
        return Recovered(
            joined.account,
            joined.address,
            corrected,
            head.seq,
            newest[0] if newest else None,
            head.confirmed,
        )

    async def status(self) -> AccountStatus:
        """Numbers and the verdict: is everything safe?"""
        session = await self._opened()
        await session.head()
        return await session.link.account_status()

    # Backing up

    async def backup(
        self,
        *paths: PathLike,
        tags: Iterable[str] = (),
        exclude: Iterable[str] = (),
        one_file_system: bool = False,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Snapshot:
        """Back up files and folders; returns when the snapshot exists on a write quorum of nodes.

        Files that cannot be read are in ``Snapshot.skipped``. With ``dry_run`` nothing is sent, and the
        snapshot returned does not exist (its id is all zeros).

        Args:
            on_progress: called from a worker thread, at most ten times a second.

        Raises:
            BadRequest: a path or pattern is wrong. NoRoom, NoQuorum, QuotaExceeded: nowhere to store it.
            Unreachable, OutcomeUnknown: the coordinator went away; running it again is safe.
        """
        from holdfast.client.backup_result import BackupPlan

        plan = BackupPlan(normal_roots(paths), Excluder(exclude), one_file_system, dry_run)
        labels = checked_tags(tags)
        load_ahead("holdfast.client.beginning", "holdfast.client.posting")
        session = await self._opened()
        if dry_run:
            from holdfast.client.posting import rehearse

            return await rehearse(session, plan, labels, on_progress)
        from holdfast.client.beginning import begin_backup

        async with begin_backup(session) as (uploader, head):
            from holdfast.client.backup import run_backup
            from holdfast.client.posting import find_parent, post_snapshot

            parent = await find_parent(session, head, plan.roots)
            result = await run_backup(
                plan,
                session.current_keys,
                uploader,
                parent_pages=parent.pages if parent else (),
                load=session.pages,
                on_progress=on_progress,
                on_page=lambda chunk: _keep_page(session, chunk),
                source=self._source,
            )
            return await post_snapshot(session, uploader, head, parent, plan.roots, labels, result)

    async def backup_stream(
        self, name: str | bytes, portions: AsyncIterator[bytes], *, tags: Iterable[str] = ()
    ) -> Snapshot:
        """Back up one stream as a snapshot of one file called ``name`` (a relative path).

        Raises:
            BadRequest: the name is not a plain relative path. Else as :meth:`backup`.
        """
        from holdfast.client.backup import run_stream_backup
        from holdfast.client.beginning import begin_backup
        from holdfast.client.posting import post_snapshot

        path = os.fsencode(name).lstrip(b"/")
        try:
            check_path(path)
        except HoldfastError as error:
            raise BadRequest("a stream's name must be a plain relative path", why=error.why) from None
        session = await self._opened()
        async with begin_backup(session) as (uploader, head):
            result = await run_stream_backup(
                path, portions, session.current_keys, uploader, source=self._source
            )
            roots = [b"/" + path]
            return await post_snapshot(session, uploader, head, None, roots, checked_tags(tags), result)

    # Forgetting

    async def forget(
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
        """Take snapshots off the list: those named, or all that a policy does not keep.

        What they hold stays stored until :meth:`prune`, and can be undeleted until the trash is emptied.

        Args:
            device, path, tags: the policy looks at snapshots of these only; all others stay.
            group_by: the policy counts within each group.
            allow_remove_all: let a policy leave nothing of a group.

        Raises:
            BadRequest: neither or both are given; the policy is empty, or would leave nothing of a group.
            NotFound: there is no such snapshot. NoQuorum: too few nodes are up to change anything.
        """
        from holdfast.client.forgetting import by_name, by_policy, forget

        if bool(snapshots) == (policy is not None):
            raise BadRequest("forget needs either snapshots or a policy", do="Give one of the two.")
        chosen = (
            by_policy(
                policy,
                device=device,
                path=path,
                tags=checked_tags(tags),
                group_by=group_by,
                allow_remove_all=allow_remove_all,
            )
            if policy is not None
            else by_name(snapshots)
        )
        return await forget(await self._opened(), chosen, dry_run=dry_run)

    async def prune(self, *, dry_run: bool = False, on_progress: OnProgress | None = None) -> PruneReport:
        """Move what no snapshot reaches to the trash; after the trash hold its room is free again.

        Safe beside running backups of any device; what they may need stays until they have ended.

        Args:
            on_progress: told how many snapshots' lists of files have been read.

        Raises:
            Locked: another device of the account is pruning.
            SweepRefused: it would not be safe now, and why.
            TooFewShards, IntegrityFailure: a snapshot's list of files cannot be read; it is named.
        """
        from holdfast.client.sweeping import prune

        return await prune(await self._opened(), dry_run=dry_run, on_progress=on_progress)

    async def forgotten(self) -> list[Forgotten]:
        """Snapshots that were forgotten, the latest first (at most 1,024), and whether they may come back."""
        from holdfast.client.forgetting import forgotten_snapshots

        return await forgotten_snapshots(await self._opened())

    async def undelete(self, snapshot: Snapshot | str) -> Snapshot:
        """Bring a forgotten snapshot back, by (the beginning of) its id; "latest": the one forgotten last.

        Raises:
            NotFound: it was never there, or its record is gone. BadRequest: several fit.
            Conflict: it is not forgotten; or something that it holds was erased meanwhile.
        """
        from holdfast.client.forgetting import undelete

        wanted = snapshot if isinstance(snapshot, str) else snapshot.id.hex()
        return await undelete(await self._opened(), wanted)

    # Looking

    async def snapshots(self) -> list[Snapshot]:
        """All snapshots of the account, oldest first.

        Raises:
            Rollback, ForkDetected: the coordinator shows less than this device has seen.
        """
        session = await self._opened()
        head = await session.head()
        return await snapshots_of(session, head.snapshots)

    async def find(
        self, wanted: str = "latest", *, device: str | None = None, path: str | None = None
    ) -> Snapshot:
        """The snapshot with this id's beginning, or the latest; raises NotFound, BadRequest."""
        session = await self._opened()
        listed = (await session.head()).snapshots
        return await find_snapshot(session, listed, wanted, device=device, path=path)

    async def _chosen(self, snapshot: Snapshot | str) -> Snapshot:
        return await self.find(snapshot) if isinstance(snapshot, str) else snapshot

    async def entries(
        self, snapshot: Snapshot | str = "latest", prefix: str | bytes = b""
    ) -> AsyncIterator[Entry]:
        """The entries of a snapshot at and below a path, in order.

        Raises:
            TooFewShards, IntegrityFailure: a manifest page cannot be had.
        """
        session = await self._opened()
        chosen = await self._chosen(snapshot)
        wanted = components(os.fsencode(prefix))
        async for entry in read_manifest(chosen.pages, session.pages):
            if isinstance(entry, UnreadablePage) or entry.kind == "more":
                continue
            if components(entry.path)[: len(wanted)] == wanted:
                yield entry

    # Restoring

    async def restore(
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
        """Restore a snapshot below ``target``; goes on with the files it can produce.

        Args:
            path: restore what lies in this path of the snapshot, directly below the target.
            verify: read every file again from disk and compare.

        Raises:
            NoRoom: the target's disk is full. NotFound: nothing matches. Locked: another restore runs there.
        """
        load_ahead("holdfast.client.download", "holdfast.client.restore")
        session = await self._opened()
        chosen = await self._chosen(snapshot)

        from holdfast.client.restore import RestorePlan, run_restore

        plan = RestorePlan(os.fspath(target), os.fsencode(path), include, overwrite, verify)
        return await run_restore(
            plan,
            chosen.pages,
            session.pages,
            session.downloader,
            session.sealing_keys,
            on_progress=on_progress,
        )

    async def read_stream(self, snapshot: Snapshot | str, name: str | bytes) -> AsyncIterator[bytes]:
        """The bytes of one file of a snapshot, in order, a few mebibytes in memory at a time.

        Raises:
            NotFound: there is no such file. BadRequest: it is sparse: restore it.
            TooFewShards, IntegrityFailure: it cannot be had (any more).
        """
        from holdfast.client.streaming import read_file

        session = await self._opened()
        chosen = await self._chosen(snapshot)
        async with aclosing(read_file(session, chosen, os.fsencode(name).strip(b"/"))) as portions:
            async for portion in portions:
                yield portion

    async def check(
        self,
        snapshot: Snapshot | str = "latest",
        *,
        read_data: bool = False,
        sample: float = 0.0,
        on_progress: OnProgress | None = None,
    ) -> CheckReport:
        """Verify that a snapshot can be restored.

        Args:
            read_data: fetch and open every chunk; ``sample``: this percentage of them.
        """
        from holdfast.client.check import run_check

        if not 0 <= sample <= 100:
            raise BadRequest("a sample is 0 to 100 percent")
        session = await self._opened()
        chosen = await self._chosen(snapshot)
        return await run_check(
            chosen.pages,
            session.pages,
            session.downloader,
            session.sealing_keys,
            session.find_missing,
            percent=100.0 if read_data else sample,
            seed=self._source.random_bytes(16),
            on_progress=on_progress,
        )


def _keep_page(session: Session, chunk: SealedChunk) -> None:
    session.cache.put(chunk.chunk_id, chunk.sealed)
