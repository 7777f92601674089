"""A small backup's chunks come with its head: both are taken, or neither; and its upload ends with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest
from sqlalchemy import text
from support.coordinator_service import (
    KeyNode,
    Office,
    Person,
    chunk_id,
    snapshot,
    stripe_of,
    upload_id,
)

from holdfast.protocol.errors import (
    BadRequest,
    GroupMoved,
    HeadMoved,
    HoldfastError,
    NoQuorum,
    QuotaExceeded,
    Refused,
    SweptSince,
    UploadEnded,
)
from holdfast.protocol.ids import ChunkId, UploadId
from holdfast.protocol.messages.backups import BackupBegun, BeginBackup, PostSnapshot
from holdfast.protocol.messages.heads import HeadState, PostHead
from holdfast.protocol.messages.uploads import Commit, Lease
from holdfast.protocol.signing import Signed

(FIRST, FIRST_RECORD), (SECOND, SECOND_RECORD) = (snapshot(n) for n in (1, 2))
CHUNKS = [chunk_id(1), chunk_id(2)]


@dataclass
class Ada:
    """Ada, whose upload has stored two chunks on every node of a group."""

    office: Office
    nodes: list[KeyNode]
    person: Person
    upload: UploadId
    lease: Lease

    def commit(self, chunks: Sequence[ChunkId] = tuple(CHUNKS), short: int = 0) -> Commit:
        """Its commit, with all receipts but some."""
        stripes = [stripe_of(chunk, self.lease) for chunk in chunks]
        signed = [
            node.receipt(self.person.account, self.upload, self.lease, stripes)
            for node in self.nodes
            if node.id in self.lease.members
        ]
        return Commit(chunks=stripes, receipts=signed[: len(signed) - short])

    def first(self) -> PostHead:
        return self.office.head(self.person, self.upload, [FIRST], [FIRST_RECORD])

    async def post(self, head: PostHead, commit: Commit) -> HeadState:
        message = PostSnapshot(commit=commit, post=head)
        return await self.office.call("POST", "/v1/snapshots", message, HeadState, self.person.signer())

    async def begin(self, upload: UploadId, since: int = 0) -> BackupBegun:
        message = BeginBackup(upload=upload, expected_bytes=0, exclude=[], since=since)
        return await self.office.call("POST", "/v1/backups", message, BackupBegun, self.person.signer())

    async def stored(self) -> list[bool]:
        located = await self.office.locate(self.person, CHUNKS)
        return [row is not None for row in located.chunks]

    async def newest(self) -> Signed | None:
        return (await self.office.heads(self.person)).head


async def backing_up(office: Office, quota_bytes: int = 0) -> Ada:
    nodes = await office.nodes(3)
    person, upload = await office.person("ada", quota_bytes), upload_id()
    opened = await office.open(person, upload)
    return Ada(office, nodes, person, upload, opened.leases[0])


@pytest.fixture
async def ada(desk_office: Office) -> Ada:
    return await backing_up(desk_office)


async def test_chunks_and_head_are_there_and_the_upload_has_ended(ada: Ada) -> None:
    head = ada.first()
    state = await ada.post(head, ada.commit())
    assert state.head == head.head
    assert await ada.stored() == [True, True] and await ada.newest() == head.head
    with pytest.raises(UploadEnded):
        await ada.office.claim(ada.person, ada.upload, CHUNKS)


async def test_posted_again_it_succeeds_and_changes_nothing(ada: Ada) -> None:
    head, commit = ada.first(), ada.commit()
    await ada.post(head, commit)
    used = (await ada.office.status(ada.person)).used_bytes
    again = await ada.post(head, commit)
    assert again.head == head.head
    assert (await ada.office.status(ada.person)).used_bytes == used


async def group_moves_on(ada: Ada) -> None:
    await changed(ada, "UPDATE groups SET version = version + 1")


async def nodes_turn_out_to_lie(ada: Ada) -> None:
    await changed(ada, "UPDATE nodes SET state = 'distrusted'")


async def changed(ada: Ada, how: str) -> None:
    desk = ada.office.desk
    desk.catalogue.write_now(lambda c: c.execute(text(how)))
    await desk.live.refresh(desk.catalogue)


@pytest.mark.parametrize("meanwhile", [group_moves_on, nodes_turn_out_to_lie])
async def test_an_answer_that_was_lost_is_had_again_whatever_became_of_the_receipts(
    ada: Ada, meanwhile: Callable[[Ada], Awaitable[None]]
) -> None:
    """What was taken stays taken: told that its group has moved, a client would send it all again."""
    head, commit = ada.first(), ada.commit()
    await ada.post(head, commit)
    await meanwhile(ada)
    assert (await ada.post(head, commit)).head == head.head


async def moved(ada: Ada) -> tuple[PostHead, Commit]:
    await ada.office.post_head(ada.person, ada.first())
    return ada.office.head(ada.person, ada.upload, [SECOND], [SECOND_RECORD]), ada.commit()


async def swept(ada: Ada) -> tuple[PostHead, Commit]:
    ada.office.desk.catalogue.write_now(
        lambda c: c.execute(text("UPDATE accounts SET sweep_generation = sweep_generation + 1"))
    )
    return ada.first(), ada.commit()


async def ended(ada: Ada) -> tuple[PostHead, Commit]:
    await ada.office.end(ada.person, ada.upload)
    return ada.first(), ada.commit()


async def short(ada: Ada) -> tuple[PostHead, Commit]:
    return ada.first(), ada.commit(short=2)


async def of_another_upload(ada: Ada) -> tuple[PostHead, Commit]:
    """The receipts are for the first upload, and the head names another one."""
    other = upload_id()
    await ada.office.open(ada.person, other)
    return ada.office.head(ada.person, other, [FIRST], [FIRST_RECORD]), ada.commit()


async def without_its_record(ada: Ada) -> tuple[PostHead, Commit]:
    return ada.office.head(ada.person, ada.upload, [FIRST, SECOND], [FIRST_RECORD]), ada.commit()


async def group_moved(ada: Ada) -> tuple[PostHead, Commit]:
    commit = ada.commit()
    ada.office.desk.catalogue.write_now(lambda c: c.execute(text("UPDATE groups SET version = version + 1")))
    return ada.first(), commit


@pytest.mark.parametrize(
    ("occasion", "error"),
    [
        (moved, HeadMoved),
        (swept, SweptSince),
        (ended, UploadEnded),
        (short, NoQuorum),
        (of_another_upload, Refused),
        (without_its_record, BadRequest),
        (group_moved, GroupMoved),
    ],
)
async def test_what_is_refused_leaves_neither_chunks_nor_head(
    ada: Ada, occasion: object, error: type[HoldfastError]
) -> None:
    head, commit = await occasion(ada)  # type: ignore[operator]
    before = await ada.newest()
    with pytest.raises(error):
        await ada.post(head, commit)
    assert await ada.stored() == [False, False]
    assert await ada.newest() == before
    assert (await ada.office.status(ada.person)).used_bytes == (len(FIRST_RECORD) if before else 0)


@pytest.mark.parametrize(("quota", "fits"), [(2_200, True), (2_199, False), (2_100, False), (250, False)])
async def test_chunks_and_record_have_to_fit_together(desk_office: Office, quota: int, fits: bool) -> None:
    """Either of them alone would fit in less."""
    ada = await backing_up(desk_office, quota)
    if fits:
        await ada.post(ada.first(), ada.commit())
        assert (await ada.office.status(ada.person)).used_bytes == 2_000 + len(FIRST_RECORD)
        return
    with pytest.raises(QuotaExceeded):
        await ada.post(ada.first(), ada.commit())
    assert await ada.stored() == [False, False] and await ada.newest() is None


async def test_a_backup_begins_with_account_and_head_as_they_are(ada: Ada) -> None:
    head = ada.first()
    nothing = await ada.begin(upload_id())
    assert nothing.heads.head is None and nothing.account.device_list == ada.person.listed
    await ada.post(head, ada.commit())
    begun = await ada.begin(upload_id(), since=1)
    apart = await ada.office.heads(ada.person, since=1)
    assert begun.heads == apart and begun.heads.head == head.head and begun.heads.links == []
    assert begun.opened.head_seq == 1 and begun.opened.leases
    assert (await ada.begin(upload_id())).heads.links == [head.head]


async def test_a_backup_may_be_begun_again_under_its_own_id(ada: Ada) -> None:
    upload = upload_id()
    assert (await ada.begin(upload)).opened.upload == (await ada.begin(upload)).opened.upload == upload
    with pytest.raises(BadRequest):
        await ada.begin(upload_id(), since=-1)
