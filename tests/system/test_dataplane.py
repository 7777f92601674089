"""Chunks to real nodes and back, while some of them lie, hang, or lose their answers."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.faulty_calls import FaultyCalls, unknown_chunk

from holdfast.client import AsyncClient
from holdfast.client.download import Downloader
from holdfast.client.limits import BATCH_SEALED_BYTES, BATCHES_IN_FLIGHT_MAX
from holdfast.client.node_calls import HttpNodeCalls
from holdfast.client.sealing import SealedChunk, seal
from holdfast.client.session import Session
from holdfast.client.upload import Uploader
from holdfast.cluster import LocalCluster
from holdfast.protocol.errors import HoldfastError, NoQuorum, NotFound, TooFewShards
from holdfast.protocol.ids import ChunkId, NodeId
from holdfast.protocol.messages.uploads import Claimed, StoredChunk


@dataclass
class Wire:
    """One device's session, with a hand between it and the nodes."""

    session: Session
    calls: FaultyCalls
    nodes: list[NodeId]

    def chunks(self, count: int, size: int = 100_000) -> list[SealedChunk]:
        """New chunks, that nothing has stored yet."""
        return [seal(self.session.current_keys.sealing, os.urandom(size)) for _ in range(count)]

    def uploader(self) -> Uploader:
        return Uploader(self.session.link, calls=self.calls)

    async def store(self, chunks: list[SealedChunk], batch: int = 8) -> Uploader:
        """Store them all; gives the (ended) uploader."""
        async with self.uploader() as uploader:
            for start in range(0, len(chunks), batch):
                await uploader.put(chunks[start : start + batch])
            await uploader.settle()
        return uploader

    async def fetch(self, chunks: list[SealedChunk]) -> dict[ChunkId, bytes | HoldfastError]:
        """Fetch them with a downloader that remembers nothing."""
        downloader = Downloader(self.session.link, calls=self.calls)
        found: dict[ChunkId, bytes | HoldfastError] = {}
        async for chunk, sealed in downloader.fetch([chunk.chunk_id for chunk in chunks]):
            assert chunk not in found, "each once"
            found[chunk] = sealed if isinstance(sealed, HoldfastError) else bytes(sealed)
        return found

    async def all_right(self, chunks: list[SealedChunk]) -> bool:
        """Do all come back as they were?"""
        found = await self.fetch(chunks)
        return found == {chunk.chunk_id: chunk.sealed for chunk in chunks}


@pytest.fixture
async def wire(cluster: LocalCluster, tmp_path: Path) -> AsyncIterator[Wire]:
    async with AsyncClient(tmp_path / "home", coordinator=cluster.address) as client:
        await client.init(await cluster.run(cluster.invite))
        session = await client._opened()
        nodes = [NodeId.from_hex(node) for node in cluster.numbers()]
        yield Wire(session, FaultyCalls(HttpNodeCalls(session.link.transport, session.link.signer)), nodes)


class TestUpload:
    async def test_a_batch_is_one_request_for_each_node(self, wire: Wire) -> None:
        chunks = wire.chunks(8)
        await wire.store(chunks)
        assert set(wire.calls.puts.values()) == {1} and len(wire.calls.puts) == 6
        assert await wire.all_right(chunks)

    @pytest.mark.parametrize("fault", ["refuse", "lost", "hang", "forged", "other-upload", "other-shards"])
    async def test_one_node_that_fails_is_done_without(
        self, wire: Wire, fault: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("holdfast.client.upload._LATE_WAIT_S", 0.3)
        wire.calls.faults[wire.nodes[2]] = fault
        chunks = wire.chunks(8)
        uploader = await wire.store(chunks)
        assert uploader.stats.new_chunks == 8
        assert uploader.stats.missing_slots == 8, "its slots are noted as missing, whatever it said"
        wire.calls.faults.clear()
        assert await wire.all_right(chunks)

    async def test_short_of_the_quorum_the_chunks_go_to_another_group(self, wire: Wire) -> None:
        """Three of six lie: no group of 4+2 has a quorum, so stripes of 2+1 go to the honest ones."""
        for node in wire.nodes[:3]:
            wire.calls.faults[node] = "forged"
        chunks = wire.chunks(4)
        await wire.store(chunks)
        wire.calls.faults.clear()
        located = await wire.session.link.locate([chunk.chunk_id for chunk in chunks])
        profiles = {str(group.profile) for group in located.groups}
        members = {node for group in located.groups for holders in group.holders for node in holders}
        assert profiles == {"2+1"} and not members & set(wire.nodes[:3])
        assert await wire.all_right(chunks)

    async def test_where_all_nodes_fail_the_upload_fails_and_names_them(self, wire: Wire) -> None:
        for node in wire.nodes:
            wire.calls.faults[node] = "refuse"
        with pytest.raises(NoQuorum) as caught:
            await wire.store(wire.chunks(2))
        assert caught.value.do
        wire.calls.faults.clear()

    async def test_an_expired_ticket_is_renewed(self, wire: Wire) -> None:
        for node in wire.nodes[:2]:
            wire.calls.once[node] = "expired"
        chunks = wire.chunks(4)
        await wire.store(chunks)
        assert await wire.all_right(chunks)

    async def test_what_is_stored_is_not_sent_again_and_an_interrupted_upload_goes_on(
        self, wire: Wire
    ) -> None:
        chunks = wire.chunks(12)
        async with wire.uploader() as uploader:
            await uploader.put(chunks[:8])
            await uploader.settle()  # and here the process might have died
        wire.calls.puts.clear()
        again = await wire.store(chunks)
        assert (again.stats.chunks, again.stats.new_chunks) == (12, 4)
        assert set(wire.calls.puts.values()) == {1}

    async def test_a_catalogue_that_says_stored_of_something_else_is_not_believed(
        self, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The stripe digest must be that of our own bytes: else the only good copy would be thrown away."""
        chunks = wire.chunks(3)
        await wire.store(chunks)
        real = wire.session.link.claim

        async def lying(*arguments: object) -> Claimed:
            told = await real(*arguments)  # type: ignore[arg-type]
            stored = [
                StoredChunk(row.generation, row.k, row.m, type(row.stripe)(b"x" * 32)) if row else None
                for row in told.stored
            ]
            return Claimed(stored=stored, send=told.send)

        monkeypatch.setattr(wire.session.link, "claim", lying)
        again = await wire.store(chunks)
        assert again.stats.new_chunks == 3, "sent anew"
        monkeypatch.undo()
        assert await wire.all_right(chunks)

    async def test_bytes_in_flight_are_bounded(self, wire: Wire) -> None:
        chunks = wire.chunks(48, 1_000_000)
        await wire.store(chunks, batch=8)
        assert wire.calls.in_flight_bytes_most <= BATCH_SEALED_BYTES * BATCHES_IN_FLIGHT_MAX * 3 // 2 * 1.1

    async def test_an_upload_that_ended_is_said_so(self, wire: Wire) -> None:
        async with wire.uploader() as uploader:
            await wire.session.link.end_upload(uploader.upload)
            with pytest.raises(HoldfastError) as caught:
                await uploader.put(wire.chunks(1))
                await uploader.settle()
        assert caught.value.code == "upload_ended" and caught.value.do

    async def test_a_reused_chunk_that_is_gone_is_told(self, wire: Wire) -> None:
        (chunk,) = wire.chunks(1)
        await wire.store([chunk])
        async with wire.uploader() as uploader:
            gone = await uploader.reused([chunk.chunk_id, unknown_chunk(1)])
        assert gone == {unknown_chunk(1)}


class TestDownload:
    @pytest.mark.parametrize("fault", ["refuse", "wrong", "short", "header", "absent", "reordered"])
    async def test_two_nodes_of_six_may_do_anything(self, wire: Wire, fault: str) -> None:
        chunks = wire.chunks(10)
        await wire.store(chunks)
        for node in wire.nodes[1:3]:
            wire.calls.faults[node] = fault
        assert await wire.all_right(chunks)

    async def test_two_nodes_that_hang_are_passed_over(
        self, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("holdfast.client.download._LAG_S", 0.2)
        chunks = wire.chunks(6)
        await wire.store(chunks)
        for node in wire.nodes[4:]:
            wire.calls.faults[node] = "hang"
        assert await wire.all_right(chunks)

    async def test_a_slow_node_is_hedged_and_then_asked_last(
        self, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing but a hedge helps here: no read ever fails, and none takes long enough to be given up."""
        monkeypatch.setattr("holdfast.client.download._LAG_S", 1e9)
        chunks = wire.chunks(24)
        await wire.store(chunks, batch=1)
        downloader = Downloader(wire.session.link, calls=wire.calls)
        for chunk in chunks[:8]:
            assert [found async for _, found in downloader.fetch([chunk.chunk_id])] == [chunk.sealed]
        wire.calls.faults[wire.nodes[0]] = "hang"
        wire.calls.reads.clear()
        for chunk in chunks[8:]:
            assert [found async for _, found in downloader.fetch([chunk.chunk_id])] == [chunk.sealed]
        assert 1 <= downloader.hedging.hedges <= 3
        assert wire.calls.reads[wire.nodes[0]] <= 3, "once it lagged, others were asked"

    @pytest.mark.parametrize("fault", ["refuse", "wrong", "absent"])
    async def test_with_too_few_good_shards_nothing_is_given_and_the_chunk_named(
        self, wire: Wire, fault: str
    ) -> None:
        chunks = wire.chunks(3)
        await wire.store(chunks)
        for node in wire.nodes[:3]:
            wire.calls.faults[node] = fault
        found = await wire.fetch(chunks)
        for chunk in chunks:
            error = found[chunk.chunk_id]
            assert isinstance(error, TooFewShards), error
            assert error.details["chunk"] == chunk.chunk_id.hex()
            assert len(error.details["nodes"]) == (3 if fault == "refuse" else 0)  # type: ignore[arg-type]
        wire.calls.faults.clear()
        assert await wire.all_right(chunks)

    async def test_a_chunk_that_is_not_stored_is_told_and_the_others_come(self, wire: Wire) -> None:
        chunks = wire.chunks(2)
        await wire.store(chunks)
        downloader = Downloader(wire.session.link, calls=wire.calls)
        wanted = [chunks[0].chunk_id, unknown_chunk(2), chunks[1].chunk_id, chunks[0].chunk_id]
        found = {chunk: sealed async for chunk, sealed in downloader.fetch(wanted)}
        assert isinstance(found[unknown_chunk(2)], NotFound)
        assert found[chunks[1].chunk_id] == chunks[1].sealed and len(found) == 3

    async def test_data_shards_are_asked_for_first(self, wire: Wire) -> None:
        """With all nodes well nothing is asked twice: k requests for a batch of one group."""
        chunks = wire.chunks(8)
        await wire.store(chunks)
        await wire.fetch(chunks)
        assert sum(wire.calls.reads.values()) == 4

    async def test_a_node_that_failed_is_asked_last_for_a_while(self, wire: Wire) -> None:
        chunks = wire.chunks(2)
        await wire.store(chunks[:1])
        await wire.store(chunks[1:])
        downloader = Downloader(wire.session.link, calls=wire.calls)
        for node in wire.nodes[:2]:
            wire.calls.faults[node] = "refuse"
        for _ in range(3):
            assert [sealed async for _, sealed in downloader.fetch([chunk.chunk_id for chunk in chunks])]
        assert sum(wire.calls.reads[node] for node in wire.nodes[:2]) <= 4

    async def test_a_reader_that_leaves_early_ends_everything(self, wire: Wire) -> None:
        chunks = wire.chunks(40)
        await wire.store(chunks)
        downloader = Downloader(wire.session.link, calls=wire.calls)
        fetching = downloader.fetch([chunk.chunk_id for chunk in chunks])
        async for _ in fetching:
            break
        await fetching.aclose()  # type: ignore[attr-defined]
        assert await wire.all_right(chunks), "the link is still good"

    async def test_wrong_shards_are_reported_and_count_as_missing(self, wire: Wire) -> None:
        chunks = wire.chunks(2)
        await wire.store(chunks)
        located = await wire.session.link.locate([chunk.chunk_id for chunk in chunks])
        first, second = (holders[0] for holders in located.groups[0].holders[:2])  # data slots: asked first
        wire.calls.faults[first] = "wrong"
        wire.calls.faults[second] = "absent"
        assert await wire.all_right(chunks)
        located = await wire.session.link.locate([chunk.chunk_id for chunk in chunks])
        noted = sum(len(row.missing) for row in located.chunks if row is not None)
        assert 1 <= noted <= 4
