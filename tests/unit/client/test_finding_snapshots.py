"""Which snapshot is meant, and how few records are opened to find out."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from holdfast.client.heads import HeadView
from holdfast.client.posting import find_parent
from holdfast.client.session import Session
from holdfast.client.snapshot_record import SnapshotRecord
from holdfast.client.snapshots import find_snapshot
from holdfast.protocol.errors import BadRequest, NotFound
from holdfast.protocol.ids import DeviceId, SnapshotId

LAPTOP, PHONE = DeviceId(b"l" * 16), DeviceId(b"p" * 16)
NAMES = {LAPTOP: "laptop", PHONE: "phone"}


def number_of(snapshot: SnapshotId) -> int:
    return int.from_bytes(snapshot[-4:], "big")


def listed(count: int) -> list[SnapshotId]:
    """Ids whose beginnings differ: the number stands at both ends."""
    return [SnapshotId(n.to_bytes(4, "big") + bytes(24) + n.to_bytes(4, "big")) for n in range(count)]


class Recorded:
    """Stands for a session of a laptop: every record can be had, and is counted.

    Args:
        phones: numbers of the snapshots that are the phone's.
    """

    def __init__(self, phones: Container[int] = (0,)) -> None:
        self.device = SimpleNamespace(id=LAPTOP)
        self.phones = phones
        self.opened: list[int] = []
        self.fetched = 0

    async def records(self, wanted: Sequence[SnapshotId]) -> list[SnapshotRecord]:
        return list(await self.records_backwards(wanted))[::-1]

    async def records_backwards(self, wanted: Sequence[SnapshotId]) -> Iterator[SnapshotRecord]:
        self.fetched += len(wanted)
        return self.opening(wanted)

    def opening(self, wanted: Sequence[SnapshotId]) -> Iterator[SnapshotRecord]:
        for snapshot in reversed(wanted):
            self.opened.append(number_of(snapshot))
            yield self.record(number_of(snapshot))

    def record(self, number: int) -> SnapshotRecord:
        device = PHONE if number in self.phones else LAPTOP
        return SnapshotRecord(
            1, number, device, NAMES[device], [b"/home"], [], [], 0, 0, 0, 0, 0, b"", "0.1.0"
        )


async def found(session: Recorded, wanted: str, count: int = 500, **narrowed: str) -> int:
    chosen = await find_snapshot(cast(Session, session), listed(count), wanted, **narrowed)
    return number_of(chosen.id)


async def test_the_latest_of_very_many_is_found_among_the_last_few() -> None:
    session = Recorded()
    assert await found(session, "latest") == 499
    assert session.fetched <= 16 and session.opened == [499]


async def test_the_latest_of_another_device_is_found_however_old_it_is() -> None:
    session = Recorded()
    assert await found(session, "latest", device="phone") == 0
    assert sorted(session.opened) == list(range(500)), "each was looked at, and none twice"


async def test_of_a_named_one_its_own_record_is_opened_alone() -> None:
    session = Recorded()
    assert await found(session, "00000123") == 0x123
    assert session.opened == [0x123]


@pytest.mark.parametrize(
    ("wanted", "narrowed", "error"),
    [
        ("latest", {"device": "tablet"}, NotFound),
        ("latest", {"path": "/srv"}, NotFound),
        ("ffff", {}, NotFound),
        ("0000001", {}, BadRequest),
        ("", {}, BadRequest),
        ("yesterday", {}, BadRequest),
    ],
)
async def test_what_is_not_there_or_not_clear_is_said(
    wanted: str, narrowed: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await found(Recorded(), wanted, **narrowed)


async def test_an_account_without_snapshots_says_so() -> None:
    with pytest.raises(NotFound):
        await found(Recorded(), "latest", count=0)


async def compared_with(session: Recorded, root: bytes = b"/home", count: int = 500) -> int | None:
    head = cast(HeadView, SimpleNamespace(snapshots=listed(count)))
    found = await find_parent(cast(Session, session), head, [root])
    return None if found is None else number_of(found.id)


async def test_a_backup_is_compared_with_the_newest_and_opens_no_other() -> None:
    session = Recorded()
    assert await compared_with(session) == 499
    assert session.opened == [499] and session.fetched <= 16


async def test_a_backup_is_compared_with_its_own_device_s_first() -> None:
    assert await compared_with(Recorded(phones=range(460, 500))) == 459


async def test_where_only_another_device_has_backed_it_up_its_newest_will_do() -> None:
    session = Recorded(phones=range(500))
    assert await compared_with(session) == 499
    assert len(session.opened) <= 64, "nobody looks through years of another device's snapshots"


async def test_what_nobody_has_backed_up_yet_is_compared_with_nothing() -> None:
    assert await compared_with(Recorded(), b"/srv") is None
    assert await compared_with(Recorded(), count=0) is None
