"""Heads: what this device has seen stays seen, and two devices never overwrite each other's snapshots."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest
from msgspec.structs import replace
from support.devices import OpenDevice, post, tags

from holdfast.client import posting
from holdfast.client.head_posting import LostAnswer, change_list, next_head
from holdfast.client.heads import HeadView
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import (
    Conflict,
    ForkDetected,
    GroupMoved,
    HeadMoved,
    HeadRefused,
    HoldfastError,
    IntegrityFailure,
    NoQuorum,
    OutcomeUnknown,
    Refused,
    Rollback,
    SweptSince,
    Unreachable,
    UploadEnded,
    WrongDirectory,
)
from holdfast.protocol.ids import Digest, SnapshotId
from holdfast.protocol.messages.heads import HeadState
from holdfast.protocol.messages.uploads import Commit
from holdfast.protocol.signing import Signed


async def test_snapshots_are_listed_in_the_order_they_were_posted(
    device: OpenDevice, coordinator: Any
) -> None:
    one = await device("one")
    for text in ("first", "second", "third"):
        await post(one, coordinator, text)
    assert await tags(one) == ["first", "second", "third"]
    assert (await one.head()).seq == 3
    assert one.home.account().head_seq == 3, "what was seen is remembered on disk"


async def test_a_device_that_was_overtaken_appends_to_the_newer_list(
    device: OpenDevice, coordinator: Any
) -> None:
    one, two = await device("one"), await device("two")
    old = await one.head()
    await post(two, coordinator, "of two")
    asked: list[int] = []

    async def kept(view: HeadView) -> None:
        asked.append(view.seq)

    await post(one, coordinator, "of one", view=old, kept=kept)
    assert await tags(one) == await tags(two) == ["of two", "of one"]
    assert asked == [1], "what is reused must be proven to be held under the newer head"


async def test_many_devices_posting_at_once_lose_nothing(device: OpenDevice, coordinator: Any) -> None:
    sessions = [await device(name) for name in ("one", "two", "three", "four")]
    await asyncio.gather(*(post(s, coordinator, f"{i}") for i, s in enumerate(sessions)))
    assert sorted(await tags(sessions[0])) == ["0", "1", "2", "3"]


async def test_a_head_whose_answer_was_lost_is_not_posted_twice(
    device: OpenDevice, coordinator: Any, transport: Any
) -> None:
    one = await device("one")
    transport.after["/v1/heads"] = 0
    view = await one.head()
    transport.after["/v1/heads"] = 1
    await post(one, coordinator, "once", view=view)
    assert await tags(one) == ["once"] and (await one.head()).seq == 1


async def test_a_lost_answer_stays_unknown_when_nobody_is_reached_any_more(
    device: OpenDevice, coordinator: Any, transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost, then the coordinator is gone: that the last try reached nobody undoes nothing."""
    one = await device("one")
    view = await one.head()
    one.link._patience_s = 2.0
    real, tries = transport.call, 0

    async def call(method: str, url: str, target: str, message: Any = None, **rest: Any) -> Any:
        nonlocal tries
        if (method, target) != ("POST", "/v1/heads"):
            return await real(method, url, target, message, **rest)
        tries += 1
        if tries == 1:
            await real(method, url, target, message, **rest)
            raise OutcomeUnknown("the answer was lost")
        raise Unreachable("nobody is there")

    monkeypatch.setattr(transport, "call", call)
    with pytest.raises(OutcomeUnknown):
        await post(one, coordinator, "there", view=view)
    monkeypatch.undo()
    assert tries > 1 and await tags(one) == ["there"]


@pytest.mark.parametrize("refusal", [HeadMoved("the head has moved on"), UploadEnded("it is not known here")])
async def test_a_lost_answer_stays_unknown_when_an_older_catalogue_answers_next(
    refusal: HoldfastError,
    device: OpenDevice,
    coordinator: Any,
    transport: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It refuses what the one before took, and shows an older head; the witnesses bring ours back one day."""
    one = await device("one")
    await post(one, coordinator, "before")
    old = await one.link.heads(0)
    await post(one, coordinator, "seen")
    view, real, tries = await one.head(), transport.call, 0

    async def call(method: str, url: str, target: str, message: Any = None, **rest: Any) -> Any:
        nonlocal tries
        if (method, target) == ("POST", "/v1/heads"):
            tries += 1
            if tries > 1:
                raise refusal
            await real(method, url, target, message, **rest)
            raise OutcomeUnknown("the answer was lost")
        if tries and target.startswith("/v1/heads"):
            return HeadState(head=old.head, snapshot_list=old.snapshot_list, links=[])
        return await real(method, url, target, message, **rest)

    monkeypatch.setattr(transport, "call", call)
    with pytest.raises(OutcomeUnknown):
        await post(one, coordinator, "there all the same", view=view)
    monkeypatch.undo()
    assert tries == 2 and await tags(one) == ["before", "seen", "there all the same"]


async def test_where_others_have_gone_on_a_lost_answer_is_known_to_be_a_failure(
    device: OpenDevice, coordinator: Any, transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our post was lost on its way there; another head has our number, so ours will never count."""
    one, two = await device("one"), await device("two")
    view, real, tries = await one.head(), transport.call, 0

    async def call(method: str, url: str, target: str, message: Any = None, **rest: Any) -> Any:
        nonlocal tries
        if (method, target) == ("POST", "/v1/heads"):
            tries += 1
            if tries == 1:
                await post(two, coordinator, "two")
                raise OutcomeUnknown("nothing was heard")
        return await real(method, url, target, message, **rest)

    async def gone(newer: HeadView) -> None:
        raise Conflict("what it built upon was removed")

    monkeypatch.setattr(transport, "call", call)
    with pytest.raises(Conflict, match="built upon"):
        await post(one, coordinator, "one", view=view, kept=gone)
    assert await tags(one) == ["two"]


async def test_a_head_that_was_acknowledged_is_no_failure_when_it_cannot_be_read_back(
    device: OpenDevice, coordinator: Any, transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await device("one")
    view = await one.head()
    one.link._patience_s = 0.0
    real = transport.call

    async def call(method: str, url: str, target: str, message: Any = None, **rest: Any) -> Any:
        if method == "GET" and target != "/v1/map":
            raise Unreachable("nobody is there any more")
        return await real(method, url, target, message, **rest)

    monkeypatch.setattr(transport, "call", call)
    await post(one, coordinator, "there", view=view)
    monkeypatch.undo()
    assert await tags(one) == ["there"]


async def test_a_lost_answer_and_a_faster_device_together_still_list_it_once(
    device: OpenDevice, coordinator: Any, transport: Any
) -> None:
    """The answer to our post is lost, then another device posts before we ask again."""
    one, two = await device("one"), await device("two")
    view = await one.head()
    real, tries = one.link.post_head, 0

    async def post_head(message: Any) -> Any:
        nonlocal tries
        tries += 1
        answer = await real(message)
        if tries == 1:
            await post(two, coordinator, "two")
            return await real(message)  # what the link's retry would do
        return answer

    one.link.post_head = post_head  # type: ignore[method-assign]
    await post(one, coordinator, "one", view=view)
    assert await tags(one) == ["one", "two"]


async def test_an_older_head_than_one_seen_is_a_rollback(
    device: OpenDevice, coordinator: Any, transport: Any
) -> None:
    one = await device("one")
    await post(one, coordinator, "first")
    old = await one.link.heads(0)
    await post(one, coordinator, "second")
    for lie in (HeadState(head=old.head, snapshot_list=old.snapshot_list, links=[]),
                HeadState(head=None, snapshot_list=b"", links=[])):  # fmt: skip
        transport.rewrite["/v1/heads"] = lambda answer, lie=lie: lie
        with pytest.raises(Rollback):
            await one.head()
    reopened = await device("one")
    with pytest.raises(Rollback):
        await reopened.head()
    transport.rewrite.clear()
    assert await tags(one) == ["first", "second"]


async def test_a_gap_between_known_and_newest_head_is_a_fork(
    device: OpenDevice, coordinator: Any, transport: Any
) -> None:
    one, two = await device("one"), await device("two")
    await post(one, coordinator, "first")
    await two.head()
    for text in ("second", "third"):
        await post(one, coordinator, text)

    def without_second(answer: HeadState) -> HeadState:
        return HeadState(head=answer.head, snapshot_list=answer.snapshot_list, links=answer.links[1:])

    transport.rewrite["/v1/heads"] = without_second
    with pytest.raises(ForkDetected):
        await two.head()
    assert two.home.account().head_seq == 1, "nothing of it is remembered"


async def test_a_head_in_between_that_others_did_not_see_is_a_fork(
    device: OpenDevice, coordinator: Any, transport: Any
) -> None:
    """A listed device signed two heads under one number; the coordinator shows each to somebody else."""
    one, two = await device("one"), await device("two")
    await post(one, coordinator, "first")
    view = await two.head()
    signer, cluster = two.device, two.link.cluster
    hidden, _ = next_head(view, signer.id, signer.sign_key, cluster, view.snapshots, SYSTEM.now_ns())
    for text in ("second", "third"):
        await post(one, coordinator, text)

    def with_the_hidden_one(answer: HeadState) -> HeadState:
        links = [hidden, *answer.links[1:]]
        return HeadState(head=answer.head, snapshot_list=answer.snapshot_list, links=links)

    transport.rewrite["/v1/heads"] = with_the_hidden_one
    with pytest.raises(ForkDetected):
        await two.head()
    assert two.home.account().head_seq == 1, "nothing of it is remembered"


async def test_another_head_under_a_known_number_is_a_fork(
    device: OpenDevice, coordinator: Any, transport: Any
) -> None:
    one = await device("one")
    await post(one, coordinator, "first")
    one.home.save_account(replace(one.home.account(), head_digest=Digest(b"x" * 32)))
    with pytest.raises(ForkDetected):
        await one.head()


async def test_a_list_that_is_not_the_head_s_is_refused(
    device: OpenDevice, coordinator: Any, transport: Any
) -> None:
    one = await device("one")
    await post(one, coordinator, "first")
    first = await one.link.heads(0)
    await post(one, coordinator, "second")

    def shorter(answer: HeadState) -> HeadState:
        return HeadState(head=answer.head, snapshot_list=first.snapshot_list, links=answer.links)

    transport.rewrite["/v1/heads"] = shorter
    with pytest.raises(HeadRefused):
        await one.head()


async def test_a_head_with_a_forged_signature_is_refused(
    device: OpenDevice, coordinator: Any, transport: Any
) -> None:
    one = await device("one")
    await post(one, coordinator, "first")

    def forged(answer: HeadState) -> HeadState:
        assert answer.head is not None
        signature = bytearray(answer.head.signature)
        signature[5] ^= 1
        head = Signed(answer.head.payload, type(answer.head.signature)(bytes(signature)))
        return HeadState(head=head, snapshot_list=answer.snapshot_list, links=[head])

    transport.rewrite["/v1/heads"] = forged
    two = await device("one")
    with pytest.raises(Refused):
        await two.head()


async def test_an_older_device_list_than_one_seen_is_a_rollback(
    device: OpenDevice, coordinator: Any, transport: Any
) -> None:
    one = await device("one")
    old = await one.link.account_state()
    await device("two")
    await one.head()
    assert one.home.account().device_list_seq == 2
    transport.rewrite["/v1/account"] = lambda answer: old
    with pytest.raises(Rollback):
        await one.head()


async def test_a_record_that_is_not_the_snapshot_s_is_refused(
    device: OpenDevice, coordinator: Any, transport: Any
) -> None:
    one = await device("one")
    first, second = await post(one, coordinator, "first"), await post(one, coordinator, "second")
    records = await one.link.records([first, second])
    one.link.records = lambda wanted: asyncio.sleep(0, list(reversed(records)))  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(IntegrityFailure):
        await one.records([first, second])


async def test_an_older_process_never_makes_the_device_forget_a_newer_head(
    device: OpenDevice, coordinator: Any
) -> None:
    one = await device("one")
    await post(one, coordinator, "first")
    stale = one.home.account()
    await device("two")
    await post(one, coordinator, "second")
    newest = one.home.account()
    assert (newest.head_seq, newest.device_list_seq) == (2, 2)
    one._remember(stale)
    assert one.home.account() == newest


class NoUpload:
    """Stands where an upload would: nothing is stored in these tests."""

    def __init__(self, *_: Any, **more: Any) -> None:
        pass

    async def __aenter__(self) -> NoUpload:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


async def test_a_lost_answer_stays_unknown_when_a_sweep_came_between_and_then_an_older_head_is_shown(
    device: OpenDevice, coordinator: Any, transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, lost = await device("one"), LostAnswer()
    old = await one.link.heads(0)
    await post(one, coordinator, "seen")
    monkeypatch.setattr(posting, "Uploader", NoUpload)

    async def swept(_: Any, view: HeadView) -> None:
        transport.rewrite["/v1/heads"] = lambda answer: old
        lost.note(after_a_lost_answer(SweptSince("unused chunks were swept")), view.seq + 1)
        raise SweptSince("unused chunks were swept")

    with pytest.raises(OutcomeUnknown):
        await posting.in_new_uploads(one, swept, lost)

    async def swept_and_nothing_lost(*_: Any) -> None:
        raise SweptSince("unused chunks were swept")

    with pytest.raises(Rollback):
        await posting.in_new_uploads(one, swept_and_nothing_lost, LostAnswer())


async def test_a_sweep_that_came_between_and_others_that_went_on_settle_a_lost_answer(
    device: OpenDevice, coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, lost, tries = await device("one"), await device("two"), LostAnswer(), 0
    monkeypatch.setattr(posting, "Uploader", NoUpload)

    async def swept(_: Any, view: HeadView) -> None:
        nonlocal tries
        tries += 1
        if tries > 1:
            raise Conflict("what it needs is gone")
        lost.note(after_a_lost_answer(SweptSince("unused chunks were swept")), view.seq + 1)
        await post(two, coordinator, "two")
        raise SweptSince("unused chunks were swept")

    with pytest.raises(Conflict, match="is gone"):
        await posting.in_new_uploads(one, swept, lost)


def after_a_lost_answer(error: HoldfastError) -> HoldfastError:
    """A refusal as the link gives it."""
    error.__cause__ = OutcomeUnknown("the answer was lost")
    return error


class Held:
    """Chunks held back for a head; a commit of theirs whose answer is lost, and that is refused then."""

    held = Commit(chunks=[], receipts=[])

    async def commit_held(self) -> None:
        raise after_a_lost_answer(UploadEnded("it took too long"))

    def ended_with_head(self) -> None:
        raise AssertionError("it was not taken")


async def test_a_commit_whose_answer_was_lost_says_nothing_of_a_head_that_was_never_posted(
    device: OpenDevice, coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await device("one")

    async def short(message: Any) -> Any:
        raise NoQuorum("too few nodes")

    monkeypatch.setattr(one.link, "post_snapshot", short)
    with pytest.raises(UploadEnded):
        await change(one, coordinator, Held())


async def test_a_head_with_its_chunks_whose_answer_was_lost_stays_so_when_the_chunks_are_refused(
    device: OpenDevice, coordinator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await device("one")

    async def moved(message: Any) -> Any:
        raise after_a_lost_answer(GroupMoved("the group moved"))

    monkeypatch.setattr(one.link, "post_snapshot", moved)
    with pytest.raises(OutcomeUnknown):
        await change(one, coordinator, Held())


async def change(session: Any, coordinator: Any, held: Held) -> HeadView:
    """Post an empty list anew, as if it were another."""

    async def wanted(view: HeadView) -> list[SnapshotId]:
        return [SnapshotId(bytes(32))]

    return await change_list(
        session.link,
        await session.head(),
        session.head,
        session.saw,
        wanted,
        device=session.device.id,
        key=session.device.sign_key,
        records=[],
        upload=coordinator.open_upload(session.known.account, session.device.id),
        time_ns=1,
        chunks=held,
    )


@pytest.mark.parametrize(
    "trouble", [OSError(errno.ENOSPC, "No space left on device"), WrongDirectory("account.json is damaged")]
)
async def test_a_head_that_counts_is_a_success_though_this_device_cannot_note_it(
    trouble: Exception, device: OpenDevice, coordinator: Any
) -> None:
    one = await device("one")

    def full(view: HeadView) -> None:
        raise trouble

    one.saw = full  # type: ignore[method-assign]
    await post(one, coordinator, "there")
    assert await tags(one) == ["there"]


async def test_a_lost_answer_stays_unknown_when_what_is_read_next_cannot_be_noted(
    device: OpenDevice, coordinator: Any, transport: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await device("one"), await device("two")
    view, real, tries = await one.head(), transport.call, 0

    async def call(method: str, url: str, target: str, message: Any = None, **rest: Any) -> Any:
        nonlocal tries
        if (method, target) == ("POST", "/v1/heads"):
            tries += 1
            if tries == 1:
                await real(method, url, target, message, **rest)
                await post(two, coordinator, "two")
                raise OutcomeUnknown("the answer was lost")
        return await real(method, url, target, message, **rest)

    def full(known: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transport, "call", call)
    monkeypatch.setattr(one.home, "save_account", full)
    with pytest.raises(OutcomeUnknown):
        await post(one, coordinator, "one", view=view)
    monkeypatch.undo()
    assert await tags(one) == ["one", "two"]
