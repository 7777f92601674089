"""A small backup by a running client: few requests one after the other, and no promise given up for it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.client import AsyncClient
from holdfast.client.limits import SENT_AT_ONCE_BYTES_MAX
from holdfast.client.snapshots import Snapshot
from holdfast.cluster import LocalCluster
from holdfast.protocol.errors import GroupMoved, HeadRefused, NoQuorum, OutcomeUnknown, SweptSince
from holdfast.protocol.transport import Transport


class Calls:
    """What a client's transport was asked, as "METHOD /path", ids left out."""

    def __init__(self, transport: Transport) -> None:
        self.made: list[str] = []
        self._send = transport.send
        transport.send = self.send  # type: ignore[method-assign]

    async def send(self, method: str, url: str, target: str, *rest: Any, **more: Any) -> memoryview:
        path = "/".join(part for part in target.split("?")[0].split("/") if len(part) < 32)
        self.made.append(f"{method} {path}")
        return await self._send(method, url, target, *rest, **more)

    def to_coordinator(self) -> list[str]:
        """Without what went to nodes; forgets what was told."""
        told, self.made = [call for call in self.made if call != "PUT /v1/shards"], []
        return told


@pytest.fixture
async def client(cluster: LocalCluster, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(tmp_path / "home", coordinator=cluster.address) as made:
        await made.init(await cluster.run(cluster.invite))
        await made.backup_stream("before", portions(b"what a running client has done before"))
        yield made


async def portions(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def content_of(client: AsyncClient, snapshot: Snapshot, name: str) -> bytes:
    return b"".join([portion async for portion in client.read_stream(snapshot, name)])


async def test_it_takes_three_requests_and_one_put_for_each_node(client: AsyncClient) -> None:
    calls, content = Calls(client._transport), os.urandom(10_240)
    made = await client.backup_stream("ten", portions(content))
    assert calls.made.count("PUT /v1/shards") == 6
    assert calls.to_coordinator() == ["POST /v1/backups", "POST /v1/uploads/claim", "POST /v1/snapshots"]
    assert await content_of(client, made, "ten") == content


async def test_what_was_stored_in_this_session_is_not_sent_again(client: AsyncClient) -> None:
    content = os.urandom(10_240)
    await client.backup_stream("one", portions(content))
    calls = Calls(client._transport)
    sent = client._transport.bytes_sent
    made = await client.backup_stream("two", portions(content))
    assert client._transport.bytes_sent - sent < SENT_AT_ONCE_BYTES_MAX
    assert made.new_bytes < 10_240, "the list of files is new, the file is not"
    assert await content_of(client, made, "two") == content
    assert calls.made[1] == "POST /v1/uploads/claim", "asked before anything was sent"


async def test_what_another_session_had_stored_is_sent_in_vain_and_stays_as_it_was(
    client: AsyncClient, cluster: LocalCluster, tmp_path: Path
) -> None:
    content = os.urandom(10_240)
    first = await client.backup_stream("one", portions(content))
    async with AsyncClient(tmp_path / "home", coordinator=cluster.address) as again:
        second = await again.backup_stream("two", portions(content))
        assert second.new_bytes < 10_240
        assert await content_of(again, second, "two") == content
        assert await content_of(again, first, "one") == content


@pytest.mark.parametrize("refusal", [GroupMoved("it moved", group=1), NoQuorum("too few receipts")])
async def test_chunks_that_the_head_cannot_bring_are_committed_by_themselves(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    session, content = await client._opened(), os.urandom(10_240)

    async def refused(message: object) -> None:
        raise refusal

    monkeypatch.setattr(session.link, "post_snapshot", refused)
    calls = Calls(client._transport)
    made = await client.backup_stream("ten", portions(content))
    assert calls.to_coordinator()[-3:] == [
        "POST /v1/uploads/commit", "POST /v1/heads", "POST /v1/uploads/end",
    ]  # fmt: skip
    assert await content_of(client, made, "ten") == content


async def test_a_group_that_moved_before_the_commit_has_the_chunks_sent_to_another(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, content = await client._opened(), os.urandom(10_240)
    real, tries = session.link.commit, 0

    async def commit(*asked: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise GroupMoved("it moved", group=1)
        return await real(*asked)

    async def refused(message: object) -> None:
        raise GroupMoved("it moved", group=1)

    monkeypatch.setattr(session.link, "post_snapshot", refused)
    monkeypatch.setattr(session.link, "commit", commit)
    made = await client.backup_stream("ten", portions(content))
    assert tries == 2 and await content_of(client, made, "ten") == content


async def test_swept_meanwhile_its_chunks_are_committed_and_claimed_anew(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, content = await client._opened(), os.urandom(10_240)

    async def refused(message: object) -> None:
        raise SweptSince("swept")

    monkeypatch.setattr(session.link, "post_snapshot", refused)
    made = await client.backup_stream("ten", portions(content))
    assert await content_of(client, made, "ten") == content


async def test_an_answer_that_was_lost_is_asked_for_again_and_lists_it_once(
    client: AsyncClient, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(10_240)
    open_before = (await cluster.run(cluster.status)).open_uploads
    real: Callable[..., Awaitable[Any]] = client._transport.call
    lost = 0

    async def call(method: str, url: str, target: str, *rest: Any, **more: Any) -> Any:
        nonlocal lost
        answer = await real(method, url, target, *rest, **more)
        if target in ("/v1/backups", "/v1/snapshots") and lost < 2:
            lost += 1
            raise OutcomeUnknown("the answer was lost")
        return answer

    monkeypatch.setattr(client._transport, "call", call)
    made = await client.backup_stream("ten", portions(content))
    assert [each.id for each in await client.snapshots()].count(made.id) == 1
    assert await content_of(client, made, "ten") == content
    assert (await cluster.run(cluster.status)).open_uploads == open_before, "it ended with its head"


async def test_a_longer_stream_commits_before_its_head(client: AsyncClient) -> None:
    """So that an upload which is interrupted goes on from what is there."""
    calls, content = Calls(client._transport), os.urandom(2_000_000)
    made = await client.backup_stream("long", portions(content))
    assert calls.to_coordinator()[-3:] == [
        "POST /v1/uploads/commit", "POST /v1/heads", "POST /v1/uploads/end",
    ]  # fmt: skip
    assert await content_of(client, made, "long") == content


async def test_nothing_is_sent_before_the_newest_head_has_proven_the_keys(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that shows an older head gets no chunk and no claim."""
    session = await client._opened()
    real = session.link.begin_backup
    first = await session.link.heads(0)

    async def older(*asked: Any) -> Any:
        begun = await real(*asked)
        shown = msgspec.structs.replace(begun.heads, head=first.links[0], links=[])
        return msgspec.structs.replace(begun, heads=shown)

    await client.backup_stream("newer", portions(b"so that there is an older one"))
    monkeypatch.setattr(session.link, "begin_backup", older)
    calls = Calls(client._transport)
    with pytest.raises(HeadRefused):
        await client.backup_stream("ten", portions(os.urandom(10_240)))
    assert calls.made == ["POST /v1/backups", "POST /v1/uploads/end"]
