"""What a read needed is freed when it is over, though errors of it are kept: a traceback holds frames.

Without the collector of cycles: it comes by when many objects were made, and here few are large.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from holdfast.client.download import Downloader
from holdfast.client.entries import Entry, Extent
from holdfast.client.link import Link
from holdfast.client.placing import Target
from holdfast.client.restore_window import Content, FileJob, RestoreReport, Window, WindowWriter
from holdfast.client.sealing import PlainId
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol import erasure
from holdfast.protocol.errors import HoldfastError, IntegrityFailure, Unreachable
from holdfast.protocol.ids import AccountId, ChunkId, Digest, NodeId, PublicKey, UploadId
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.nodes import ReadAnswer, ReadHeader, ReadResult
from holdfast.protocol.messages.uploads import Located, LocatedChunk, LocatedGroup
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of

PROFILE = Profile(2, 1)
NODES = [NodeId(bytes([number]) * 16) for number in range(1, 4)]
UPLOAD = UploadId(b"u" * 16)
SHARD_BYTES = 100_000


class Body(bytearray):
    """A node's answer, so that a test can know when nobody holds it any more."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Stripes:
    """Chunks of two shards and one of parity, on three nodes.

    Args:
        how: what the first of them does: it fails, lags, or lies.
    """

    def __init__(self, count: int, how: str) -> None:
        self.how = how
        self.headers: dict[ChunkId, StripeHeader] = {}
        self.shards: dict[ChunkId, list[bytes]] = {}
        self.bodies: list[weakref.ref[Body]] = []
        for number in range(count):
            sealed = bytes([number]) * (2 * SHARD_BYTES)
            shards = [bytes(shard) for shard in erasure.encode(PROFILE, sealed)]
            chunk = ChunkId(digest_of(sealed))
            self.shards[chunk] = shards
            digests = b"".join(map(digest_of, shards))
            self.headers[chunk] = StripeHeader(PROFILE, len(sealed), digests)

    # As a link

    async def locate(self, chunks: Sequence[ChunkId]) -> Located:
        rows = [
            LocatedChunk(1, UPLOAD, 2 * SHARD_BYTES, Digest(self.headers[chunk].stripe_digest), [])
            for chunk in chunks
        ]
        group = LocatedGroup(
            group=1, version=1, k=2, m=1, holders=[[node] for node in NODES], ticket=b"t", expires_ms=0
        )
        return Located(chunks=list(rows), groups=[group], down=[], epoch=1)

    async def nodes(self, wanted: Sequence[NodeId], epoch: int) -> dict[NodeId, MapNode]:
        return {node: MapNode(node, PublicKey(b"k" * 32), f"http://{node.short}", "") for node in wanted}

    async def report(self, entries: object) -> None:
        """Nobody wants to know."""

    # As nodes

    async def read(
        self, node: MapNode, ticket: bytes, header: ReadHeader, timeout_s: float
    ) -> tuple[ReadAnswer, list[memoryview]]:
        is_bad = node.id == NODES[0]
        if is_bad and self.how == "fails":
            raise Unreachable("it is away")
        if is_bad and self.how == "lags":
            await asyncio.sleep(3600)
        body, results = Body(), []
        for entry in header.entries:
            record = ShardRecord(
                AccountId(b"a" * 32), entry.chunk, UPLOAD, 1, entry.slot, self.headers[entry.chunk]
            )
            body += bytes(SHARD_BYTES) if is_bad else self.shards[entry.chunk][entry.slot]
            results.append(ReadResult("ok", record.pack(), SHARD_BYTES))
        self.bodies.append(weakref.ref(body))
        view = memoryview(body)
        shards = [view[at : at + SHARD_BYTES] for at in range(0, len(body), SHARD_BYTES)]
        return ReadAnswer(results=results), shards


@pytest.mark.parametrize("how", ["fails", "lags", "lies"])
async def test_a_read_in_which_a_node_failed_holds_nothing_when_it_is_over(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.client.download._LAG_S", 0.1)
    stripes = Stripes(20, how)
    downloader = Downloader(cast(Link, stripes), calls=cast(Any, stripes))
    found = 0
    async for _chunk, sealed in downloader.fetch(list(stripes.shards)):
        assert not isinstance(sealed, HoldfastError)
        found += 1
        del sealed
    assert found == 20 and stripes.bodies
    async with asyncio.timeout(10):
        while any(body() is not None for body in stripes.bodies):  # noqa: ASYNC110 - nobody tells
            # The thread that worked on the last one lets go of it in a moment.
            await asyncio.sleep(0.01)


def test_a_restore_that_many_files_failed_in_holds_none_of_their_windows(tmp_path: Path) -> None:
    report, windows = RestoreReport(), []
    target = Target(tmp_path / "back", "always")
    writer = WindowWriter(target, report, verify=False)
    for number in range(8):
        good, bad = (
            ChunkRef(PlainId(b"p" * 32), ChunkId(bytes([number, which]) * 16), SHARD_BYTES, 1)
            for which in (1, 2)
        )
        path = b"file-%d" % number
        entry = Entry(kind="file", path=path, mode=0o600, size=2 * SHARD_BYTES)
        job = FileJob(entry, (path,))
        extents = (Extent(good, 0, SHARD_BYTES), Extent(bad, 0, SHARD_BYTES))
        body = Body(SHARD_BYTES)
        windows.append(weakref.ref(body))
        contents = {good: memoryview(body), bad: IntegrityFailure("it is damaged")}
        writer.carry_out(Window([Content(job, extents, True)]), contents)
        del body, contents, job
    target.close()
    assert len(report.failed) == 8 and all(error.what == "it is damaged" for _, error in report.failed)
    assert [window for window in windows if window() is not None] == []


def test_an_error_is_kept_with_its_words_and_without_frames() -> None:
    def fails() -> None:
        try:
            raise OSError("the disk")
        except OSError as error:
            raise IntegrityFailure("it is damaged", why="the disk") from error

    with pytest.raises(IntegrityFailure) as caught:
        fails()
    kept = caught.value.bare()
    assert str(kept).startswith("it is damaged, because the disk.")
    assert kept.__traceback__ is None and kept.__cause__ is not None and kept.__cause__.__traceback__ is None
