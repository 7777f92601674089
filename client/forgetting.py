"""Leaving snapshots out of the list, and taking them back in.

Forgetting posts a head whose list lacks them; nothing else happens to what they reach until
it is swept (client.sweeping), and until the trash hold is over it can be undone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from holdfast.client.head_posting import LostAnswer, change_list
from holdfast.client.heads import HeadView
from holdfast.client.posting import claim_reached, in_new_uploads
from holdfast.client.retention import Decision, GroupBy, RetentionPolicy, apply_policy, require_something_kept
from holdfast.client.session import Session
from holdfast.client.snapshots import Snapshot, choose, is_of, snapshots_of
from holdfast.client.upload import Uploader
from holdfast.protocol.errors import BadRequest, Conflict, HoldfastError, NotFound
from holdfast.protocol.ids import ChunkId, SnapshotId
from holdfast.protocol.limits import LOCATE_CHUNKS_MAX, SNAPSHOTS_MAX

__all__ = [
    "ForgetReport",
    "Forgotten",
    "by_name",
    "by_policy",
    "forget",
    "forgotten_snapshots",
    "undelete",
]


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What was left out of the list (or would be, in a dry run).

    Attributes:
        decisions: by group, with the reason for each snapshot kept; empty when snapshots were named.
        removed: oldest first.
    """

    removed: tuple[Snapshot, ...]
    kept: int
    decisions: tuple[Decision, ...] = field(default=(), repr=False)
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A snapshot that is not listed any more.

    Attributes:
        forgotten: when the head that left it out was posted.
        restorable: whether everything that holds its list of files is still stored; the files
            themselves are looked at when it is undeleted.
    """

    snapshot: Snapshot
    forgotten: datetime
    restorable: bool


Choose = Callable[[list[Snapshot]], tuple[list[Snapshot], list[Decision]]]
"""Of all listed snapshots, oldest first: (what to forget, why the others stay)."""


def by_name(wanted: Sequence[Snapshot | str]) -> Choose:
    """Forget exactly these; what another device forgot meanwhile is fine.

    Raises (when asked):
        NotFound, BadRequest: one of them is not there, or not clear.
    """
    named: set[SnapshotId] = set()

    def chosen(listed: list[Snapshot]) -> tuple[list[Snapshot], list[Decision]]:
        if not named:
            found = {(choose(listed, one) if isinstance(one, str) else one).id for one in wanted}
            absent = found - {snapshot.id for snapshot in listed}
            if absent:
                raise NotFound(
                    f"there is no snapshot {min(absent).short}", do="'holdfast snapshots' lists them."
                )
            named.update(found)
        return [snapshot for snapshot in listed if snapshot.id in named], []

    return chosen


def by_policy(
    policy: RetentionPolicy,
    *,
    device: str | None,
    path: str | None,
    tags: Sequence[str],
    group_by: Iterable[GroupBy],
    allow_remove_all: bool,
) -> Choose:
    """Forget what a policy lets go, of the snapshots that fit device, path and all tags; the others stay.

    Raises (when asked):
        BadRequest: the policy is empty, or a group would lose all its snapshots and that is not allowed.
    """
    groups = tuple(group_by)

    def chosen(listed: list[Snapshot]) -> tuple[list[Snapshot], list[Decision]]:
        fitting = [
            snapshot
            for snapshot in listed
            if is_of(snapshot, device=device, path=path) and set(tags) <= set(snapshot.tags)
        ]
        decisions = apply_policy(fitting, policy, group_by=groups)
        if not allow_remove_all:
            require_something_kept(decisions)
        return [snapshot for decision in decisions for snapshot in decision.remove], decisions

    return chosen


async def forget(session: Session, chosen: Choose, *, dry_run: bool = False) -> ForgetReport:
    """Post a head without the snapshots that ``chosen`` names; it is asked anew when the head moved.

    Raises:
        HoldfastError: what ``chosen`` raises. Conflict: other devices were faster again and again.
    """
    removed: dict[SnapshotId, Snapshot] = {}
    decisions: list[Decision] = []

    async def without(view: HeadView) -> Sequence[SnapshotId]:
        nonlocal decisions
        listed = await snapshots_of(session, view.snapshots)
        if removed and not any(snapshot.id in removed for snapshot in listed):
            return view.snapshots  # an earlier answer was lost: it is done
        going, decisions = chosen(listed)
        removed.clear()
        removed.update((snapshot.id, snapshot) for snapshot in going)
        return [snapshot for snapshot in view.snapshots if snapshot not in removed]

    head = await session.head()
    left = await without(head)
    if not dry_run and removed:
        lost = LostAnswer()

        async def post(uploader: Uploader, view: HeadView) -> HeadView:
            # The list only grows shorter: all that it names is in a head read after the upload opened.
            return await _change(session, uploader, view, without, lost)

        left = (await in_new_uploads(session, post, lost)).snapshots
    return ForgetReport(
        tuple(sorted(removed.values(), key=lambda snapshot: snapshot.time)),
        len(left),
        tuple(decisions),
        dry_run,
    )


async def _change(
    session: Session,
    uploader: Uploader,
    view: HeadView,
    change: Callable[[HeadView], Awaitable[Sequence[SnapshotId]]],
    lost: LostAnswer,
) -> HeadView:
    return await change_list(
        session.link,
        view,
        session.head,
        session.saw,
        change,
        device=session.device.id,
        key=session.device.sign_key,
        records=[],
        upload=uploader.upload,
        time_ns=session.source.now_ns(),
        lost=lost,
    )


async def forgotten_snapshots(session: Session) -> list[Forgotten]:
    """Snapshots that were forgotten and whose records are still there, the latest forgotten first.

    Raises:
        IntegrityFailure: a record is not what its id says.
    """
    await session.head()
    told = await session.link.forgotten()
    opened = await snapshots_of(session, [entry.snapshot for entry in told.snapshots])
    stored = await _stored(session, [page.chunk for snapshot in opened for page in snapshot.pages])
    return [
        Forgotten(
            snapshot,
            datetime.fromtimestamp(entry.posted_ms / 1000, UTC),
            all(page.chunk in stored for page in snapshot.pages),
        )
        for entry, snapshot in zip(told.snapshots, opened, strict=True)
    ]


async def _stored(session: Session, wanted: Iterable[ChunkId]) -> set[ChunkId]:
    """Those of the chunks that the catalogue knows."""
    ids = list(dict.fromkeys(wanted))
    found: set[ChunkId] = set()
    for start in range(0, len(ids), LOCATE_CHUNKS_MAX):
        portion = ids[start : start + LOCATE_CHUNKS_MAX]
        located = await session.link.locate(portion)
        found.update(chunk for chunk, row in zip(portion, located.chunks, strict=True) if row is not None)
    return found


async def undelete(session: Session, wanted: str) -> Snapshot:
    """Bring a forgotten snapshot back into the list, in its place by time.

    Args:
        wanted: the beginning of its id, or "latest": the one forgotten last.

    Raises:
        NotFound: no such snapshot was forgotten. BadRequest: several fit.
        Conflict: some of what it reaches was erased meanwhile.
    """
    candidates = await forgotten_snapshots(session)
    try:
        if wanted == "latest":
            if not candidates:
                raise NotFound("no snapshot of this account was forgotten")
            snapshot = candidates[0].snapshot
        else:
            snapshot = choose([one.snapshot for one in candidates], wanted)
    except NotFound as error:
        listed = await snapshots_of(session, (await session.head()).snapshots)
        if any(one.id.hex().startswith(wanted) for one in listed):
            raise Conflict(
                f"snapshot {wanted} is not forgotten", do="There is nothing to undelete."
            ) from error
        raise NotFound(
            error.what, do="'holdfast undelete --list' shows what was forgotten and can still come back."
        ) from error
    times = {one.id: one.time for one in await snapshots_of(session, (await session.head()).snapshots)}

    async def with_it(view: HeadView) -> Sequence[SnapshotId]:
        if snapshot.id in view.snapshots:
            return view.snapshots
        if len(view.snapshots) >= SNAPSHOTS_MAX:
            raise BadRequest(f"an account has at most {SNAPSHOTS_MAX} snapshots")
        fresh = [one for one in view.snapshots if one not in times]
        times.update((one.id, one.time) for one in await snapshots_of(session, fresh))
        place = bisect_right(view.snapshots, snapshot.time, key=lambda one: times[one])
        return [*view.snapshots[:place], snapshot.id, *view.snapshots[place:]]

    lost = LostAnswer()

    async def post(uploader: Uploader, view: HeadView) -> None:
        await claim_reached(session, uploader, [snapshot])
        await _change(session, uploader, view, with_it, lost)

    try:
        await in_new_uploads(session, post, lost)
    except HoldfastError as error:
        if not isinstance(error, Conflict) or "chunks" not in error.details:
            raise
        raise Conflict(
            f"snapshot {snapshot.id.short} cannot come back: {error.what}",
            why=error.why,
            do="'holdfast undelete --list' shows what still can.",
            **error.details,
        ) from error
    return snapshot
