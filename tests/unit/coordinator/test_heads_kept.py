"""Heads: one chain for each account; the coordinator takes the next link and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text
from support.coordinator_service import HandClock, Office, Person, office, snapshot, upload_id

from holdfast.client.identity import DeviceKeys
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import (
    BadRequest,
    Conflict,
    ForkDetected,
    HeadMoved,
    QuotaExceeded,
    Refused,
    Rollback,
    UploadEnded,
)
from holdfast.protocol.ids import SnapshotId, UploadId
from holdfast.protocol.limits import HEAD_NEW_RECORDS_MAX, RECORDS_FETCH_MAX
from holdfast.protocol.messages.heads import HeadState, PostHead
from holdfast.protocol.signing import Signed

(FIRST, FIRST_RECORD), (SECOND, SECOND_RECORD), (THIRD, THIRD_RECORD) = (snapshot(n) for n in (1, 2, 3))


@dataclass
class Ada:
    """Ada, with an upload to post under."""

    office: Office
    person: Person
    upload: UploadId

    async def post(self, message: PostHead) -> HeadState:
        return await self.office.post_head(self.person, message)

    async def first(self) -> Signed:
        """Post head number 1."""
        message = self.office.head(self.person, self.upload, [FIRST], [FIRST_RECORD])
        await self.post(message)
        return message.head

    def second(self, first: Signed, **other: object) -> PostHead:
        return self.office.head(
            self.person, self.upload, [FIRST, SECOND], [SECOND_RECORD], seq=2, previous=first, **other
        )  # type: ignore[arg-type]

    async def newest(self) -> Signed | None:
        return (await self.office.heads(self.person)).head


@pytest.fixture
async def ada(desk_office: Office) -> Ada:
    await desk_office.nodes(2)
    person, upload = await desk_office.person("ada"), upload_id()
    await desk_office.open(person, upload)
    return Ada(desk_office, person, upload)


async def test_a_head_its_list_and_its_records_are_there_once_it_is_acknowledged(
    ada: Ada, tmp_path: Path
) -> None:
    assert await ada.newest() is None
    first = await ada.first()
    message = ada.second(first)
    await ada.post(message)
    state = await ada.office.heads(ada.person)
    assert (state.head, state.snapshot_list) == (message.head, message.snapshot_list)
    assert state.links == [first, message.head]
    assert (await ada.office.heads(ada.person, since=1)).links == [message.head]
    assert await ada.office.records(ada.person, [SECOND, THIRD, FIRST]) == [SECOND_RECORD, None, FIRST_RECORD]
    assert (await ada.office.status(ada.person)).snapshots == 2


async def test_posting_the_current_head_again_succeeds_even_after_its_upload_has_ended(ada: Ada) -> None:
    first = await ada.first()
    message = ada.second(first)
    await ada.post(message)
    await ada.office.end(ada.person, ada.upload)
    # The repeated post may carry anything beside the head: what was stored is what counts.
    again = await ada.post(msgspec.structs.replace(message, snapshot_list=b"", records=[b"other"]))
    assert again.snapshot_list == message.snapshot_list
    assert (await ada.office.heads(ada.person)).links == [first, message.head]


async def test_only_the_next_number_on_top_of_the_current_hash_is_taken(ada: Ada) -> None:
    first = await ada.first()
    good = ada.second(first)
    wrong = [
        ada.office.head(ada.person, ada.upload, [FIRST], seq=1),  # another first one
        ada.office.head(ada.person, ada.upload, [FIRST], seq=3, previous=first),  # a gap
        ada.second(Signed(first.payload + b"x", first.signature)),  # another predecessor
        ada.second(first, by=None) if False else ada.second(good.head),
    ]
    for message in wrong:
        if message.head == first:
            continue
        with pytest.raises(HeadMoved) as moved:
            await ada.post(message)
        assert moved.value.details["seq"] == 1
    await ada.post(good)
    with pytest.raises(HeadMoved) as moved:
        await ada.post(ada.second(first, by=None, devices=None) if False else _sibling(ada, first))
    assert moved.value.details["seq"] == 2
    assert await ada.newest() == good.head


def _sibling(ada: Ada, first: Signed) -> PostHead:
    """Another head number 2."""
    return ada.office.head(ada.person, ada.upload, [FIRST, THIRD], [THIRD_RECORD], seq=2, previous=first)


async def test_of_many_heads_posted_at_once_exactly_one_counts(ada: Ada) -> None:
    first = await ada.first()
    made = [snapshot(number) for number in range(10, 18)]
    messages = [
        ada.office.head(ada.person, ada.upload, [FIRST, name], [sealed], seq=2, previous=first)
        for name, sealed in made
    ]
    told = await asyncio.gather(*(ada.post(message) for message in messages), return_exceptions=True)
    winners = [m for m, answer in zip(messages, told, strict=True) if isinstance(answer, HeadState)]
    assert len(winners) == 1
    assert all(isinstance(answer, HeadState | HeadMoved) for answer in told)
    state = await ada.office.heads(ada.person)
    assert state.head == winners[0].head and len(state.links) == 2
    losers = [name for (name, _), m in zip(made, messages, strict=True) if m is not winners[0]]
    assert await ada.office.records(ada.person, losers) == [None] * 7, "of a refused head nothing stays"


async def test_a_head_whose_upload_has_ended_is_refused(ada: Ada) -> None:
    first = await ada.first()
    await ada.office.end(ada.person, ada.upload)
    with pytest.raises(UploadEnded) as refused:
        await ada.post(ada.second(first))
    assert refused.value.do
    for other in (upload_id(), await _upload_of(ada.office, "eve")):
        with pytest.raises(UploadEnded):
            await ada.post(msgspec.structs.replace(ada.second(first), upload=other))
    assert await ada.newest() == first


async def _upload_of(desk_office: Office, name: str) -> UploadId:
    somebody, upload = await desk_office.person(name), upload_id()
    await desk_office.open(somebody, upload)
    return upload


async def test_a_head_of_an_upload_from_before_the_last_sweep_is_refused(ada: Ada) -> None:
    first = await ada.first()
    ada.office.desk.catalogue.write_now(lambda c: c.execute(text("UPDATE accounts SET sweep_generation = 1")))
    with pytest.raises(Conflict, match="swept") as refused:
        await ada.post(ada.second(first))
    assert "Claim" in refused.value.do
    upload = upload_id()
    await ada.office.open(ada.person, upload)
    await ada.post(msgspec.structs.replace(ada.second(first), upload=upload))


class TestRecords:
    async def test_a_list_that_names_a_record_which_is_not_here_is_refused(self, ada: Ada) -> None:
        with pytest.raises(BadRequest, match=SECOND.short):
            await ada.post(ada.office.head(ada.person, ada.upload, [FIRST, SECOND], [FIRST_RECORD]))
        assert await ada.newest() is None
        assert await ada.office.records(ada.person, [FIRST]) == [None]

    async def test_another_account_s_record_does_not_count(self, ada: Ada) -> None:
        await ada.first()
        eve, upload = await ada.office.person("eve"), upload_id()
        await ada.office.open(eve, upload)
        with pytest.raises(BadRequest, match=FIRST.short):
            await ada.office.post_head(eve, ada.office.head(eve, upload, [FIRST]))
        assert await ada.office.records(eve, [FIRST]) == [None]

    async def test_a_record_that_no_list_names_is_refused(self, ada: Ada) -> None:
        with pytest.raises(BadRequest, match="does not name"):
            await ada.post(ada.office.head(ada.person, ada.upload, [FIRST], [FIRST_RECORD, SECOND_RECORD]))

    async def test_the_list_must_be_the_head_s_and_name_each_snapshot_once(self, ada: Ada) -> None:
        good = ada.office.head(ada.person, ada.upload, [FIRST], [FIRST_RECORD])
        other = ada.office.head(ada.person, ada.upload, [SECOND], [SECOND_RECORD])
        with pytest.raises(ForkDetected):
            await ada.post(msgspec.structs.replace(good, snapshot_list=other.snapshot_list))
        with pytest.raises(BadRequest):
            await ada.post(ada.office.head(ada.person, ada.upload, [FIRST, FIRST], [FIRST_RECORD]))
        assert await ada.newest() is None

    async def test_a_head_brings_a_bounded_number_of_records_of_bounded_size(
        self, ada: Ada, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        many = [snapshot(number) for number in range(HEAD_NEW_RECORDS_MAX + 1)]
        names, sealed = [name for name, _ in many], [record for _, record in many]
        with pytest.raises(BadRequest, match=str(HEAD_NEW_RECORDS_MAX)):
            await ada.post(ada.office.head(ada.person, ada.upload, names, sealed))
        monkeypatch.setattr("holdfast.coordinator.catalogue.heads.SNAPSHOT_RECORD_BYTES_MAX", 1000)
        name, long = snapshot(1, size=1001)
        with pytest.raises(BadRequest, match="1000"):
            await ada.post(ada.office.head(ada.person, ada.upload, [name], [long]))
        name, fitting = snapshot(1, size=1000)
        await ada.post(ada.office.head(ada.person, ada.upload, [name], [fitting]))

    async def test_many_records_come_in_several_answers_and_each_in_its_place(
        self, ada: Ada, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = [snapshot(number, size=100 + number) for number in range(40)]
        names, sealed = [name for name, _ in made], [record for _, record in made]
        await ada.post(ada.office.head(ada.person, ada.upload, names, sealed))
        wanted = [*names, SnapshotId(b"x" * 32), *names[:3]]
        expected = [*sealed, None, *sealed[:3]]
        assert await ada.office.records(ada.person, wanted) == expected
        monkeypatch.setattr("holdfast.coordinator.catalogue.snapshot_records.MESSAGE_BYTES_MAX", 1000)
        got: list[bytes | None] = []
        while len(got) < len(wanted):
            part = await ada.office.records(ada.person, wanted[len(got) :])
            assert part and sum(len(record or b"") for record in part) <= 500
            got.extend(part)
        assert got == expected
        monkeypatch.setattr("holdfast.coordinator.catalogue.snapshot_records.MESSAGE_BYTES_MAX", 10)
        assert await ada.office.records(ada.person, names) == sealed[:1], "at least one, or nobody gets on"
        assert await ada.office.records(ada.person, []) == []
        with pytest.raises(BadRequest):
            await ada.office.records(ada.person, [FIRST] * (RECORDS_FETCH_MAX + 1))

    async def test_records_count_against_the_quota(self, desk_office: Office) -> None:
        await desk_office.nodes(2)
        bob, upload = await desk_office.person("bob", quota_bytes=1000), upload_id()
        await desk_office.open(bob, upload)
        name, sealed = snapshot(1, size=600)
        message = desk_office.head(bob, upload, [name], [sealed])
        await desk_office.post_head(bob, message)
        await desk_office.post_head(bob, message)
        assert (await desk_office.status(bob)).used_bytes == 600
        other, long = snapshot(2, size=401)
        following = desk_office.head(bob, upload, [name, other], [long], seq=2, previous=message.head)
        with pytest.raises(QuotaExceeded):
            await desk_office.post_head(bob, following)
        # A head without new records is always possible: that is how room will be made.
        await desk_office.post_head(bob, desk_office.head(bob, upload, [], seq=2, previous=message.head))


class TestSigners:
    async def test_a_head_signed_by_a_device_that_is_not_listed_is_refused(self, ada: Ada) -> None:
        stranger = DeviceKeys.generate(SYSTEM)
        with pytest.raises(Refused):
            await ada.post(ada.office.head(ada.person, ada.upload, [], by=stranger))
        good = ada.office.head(ada.person, ada.upload, [])
        forged = Signed(good.head.payload, type(good.head.signature)(bytes(64)))
        with pytest.raises(Refused):
            await ada.post(msgspec.structs.replace(good, head=forged))

    async def test_another_account_s_head_is_refused(self, ada: Ada) -> None:
        eve, upload = await ada.office.person("eve"), upload_id()
        await ada.office.open(eve, upload)
        with pytest.raises(Refused):
            await ada.office.post_head(eve, ada.office.head(ada.person, upload, []))
        assert await ada.newest() is None

    async def test_a_removed_device_posts_nothing_even_if_its_request_was_admitted_before(
        self, ada: Ada
    ) -> None:
        phone, office_, person = DeviceKeys.generate(SYSTEM), ada.office, ada.person
        both = person.next_list([person.device.listed("laptop"), phone.listed("phone")])
        await office_.post_list(person, both)
        admitted = office_.desk.live.device_lists[person.account]
        await office_.post_list(person, person.next_list([person.device.listed("laptop")]))
        # As for a request that was checked the moment before the list changed.
        office_.desk.live.device_lists[person.account] = admitted
        for rests_on in (both, person.listed):
            with pytest.raises(Refused):
                await office_.post_head(
                    person, office_.head(person, ada.upload, [], by=phone, devices=rests_on), phone
                )
        assert await ada.newest() is None

    async def test_device_lists_under_heads_never_go_back(self, ada: Ada) -> None:
        old, person = ada.person.listed, ada.person
        await ada.office.post_list(person, person.next_list([person.device.listed("laptop, renamed")]))
        first = await ada.first()
        with pytest.raises(Rollback):
            await ada.post(ada.second(first, devices=old))
        other = person.next_list([person.device.listed("fork")], old)
        with pytest.raises(ForkDetected):
            await ada.post(ada.second(first, devices=other))
        ahead = person.next_list([person.device.listed("of tomorrow")])
        with pytest.raises(Refused):
            await ada.post(ada.second(first, devices=ahead))
        await ada.post(ada.second(first))


async def test_heads_survive_a_restart_and_the_chain_goes_on(tmp_path: Path) -> None:
    clock = HandClock()
    async with office(tmp_path / "c", clock) as opened:
        nodes = await opened.nodes(2)
        person, upload = await opened.person("ada"), upload_id()
        await opened.open(person, upload)
        message = opened.head(person, upload, [FIRST], [FIRST_RECORD])
        await opened.post_head(person, message)
    async with office(tmp_path / "c", clock) as opened:
        await opened.beat(*nodes)
        assert (await opened.heads(person)).head == message.head
        following = opened.head(
            person, upload, [FIRST, SECOND], [SECOND_RECORD], seq=2, previous=message.head
        )
        await opened.post_head(person, following)
        assert len((await opened.heads(person)).links) == 2


async def test_a_long_chain_comes_in_several_answers(ada: Ada, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.coordinator.catalogue.heads.HEAD_LINKS_MAX", 3)
    newest, chain = None, []
    for seq in range(1, 9):
        message = ada.office.head(ada.person, ada.upload, [], seq=seq, previous=newest)
        await ada.post(message)
        newest = message.head
        chain.append(newest)
    links: list[Signed] = []
    while len(links) < 8:
        state = await ada.office.heads(ada.person, since=len(links))
        assert state.head == newest and 1 <= len(state.links) <= 3
        links.extend(state.links)
    assert links == chain
    monkeypatch.setattr("holdfast.coordinator.catalogue.heads.MESSAGE_BYTES_MAX", 10)
    assert (await ada.office.heads(ada.person, since=4)).links == chain[4:5], "at least one"
