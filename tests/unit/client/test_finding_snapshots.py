"""Which snapshot is meant, and how few records are opened to find out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

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
    """Stands for a session: every record can be had, and is counted. The first one is the phone's."""

    def __init__(self) -> None:
        self.opened: list[int] = []

    async def records(self, wanted: Sequence[SnapshotId]) -> list[SnapshotRecord]:
        numbers = [number_of(snapshot) for snapshot in wanted]
        self.opened += numbers
        return [self.record(number) for number in numbers]

    def record(self, number: int) -> SnapshotRecord:
        device = PHONE if number == 0 else LAPTOP
        return SnapshotRecord(
            1, number, device, NAMES[device], [b"/home"], [], [], 0, 0, 0, 0, 0, b"", "0.1.0"
        )


async def found(session: Recorded, wanted: str, count: int = 500, **narrowed: str) -> int:
    chosen = await find_snapshot(cast(Session, session), listed(count), wanted, **narrowed)
    return number_of(chosen.id)


async def test_the_latest_of_very_many_is_found_among_the_last_few() -> None:
    session = Recorded()
    assert await found(session, "latest") == 499
    assert len(session.opened) <= 16


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
