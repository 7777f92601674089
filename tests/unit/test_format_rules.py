"""Rules of the format that need more than one input, and so are no vectors."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from msgspec.structs import replace
from support import vectors
from support.pipeline import KEYS, Pipeline
from support.vectors.account_cases import the_list
from support.vectors.case import CLUSTER, ROOT, signed
from support.vectors.content_cases import forged, sealing_keys

from holdfast.client.entries import Entry, Extent
from holdfast.client.manifest import UnreadablePage, read_manifest
from holdfast.client.sealing import padme, seal
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol import signing
from holdfast.protocol.accounts import open_device_list
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import BadRequest, IntegrityFailure, Refused, TooFewShards
from holdfast.protocol.limits import REQUEST_WINDOW_MS
from holdfast.protocol.messages.accounts import NodeBrief
from holdfast.protocol.requests import Gate, Signer
from holdfast.protocol.stripes import digest_of

CHUNK = seal(KEYS.sealing, b"x" * 1000)
REF = ChunkRef(CHUNK.pid, CHUNK.chunk_id, 1000, 1)


async def entries(pipeline: Pipeline, pages: Sequence[ChunkRef]) -> list[Entry | UnreadablePage]:
    return [entry async for entry in read_manifest(pages, pipeline.load, skip_unreadable=True)]


@pytest.mark.parametrize(
    ("time_ns", "kept_ns"),
    [
        (32_503_680_000 * 10**9, 2**64 - 1),
        (2**64, 2**64 - 1),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        (-14_831_769_600 * 10**9, -(2**63)),
    ],
    ids=["the year 3000", "just beyond", "the last", "the first", "the year 1500"],
)
async def test_a_file_of_any_year_is_backed_up(time_ns: int, kept_ns: int) -> None:
    pipeline = Pipeline()
    made = pipeline.forge([Entry("file", b"a", mtime_ns=time_ns, ctime_ns=time_ns)])
    assert await entries(pipeline, made.pages) == [Entry("file", b"a", mtime_ns=kept_ns, ctime_ns=kept_ns)]


async def test_an_owner_s_name_in_another_encoding_does_not_stop_a_backup() -> None:
    pipeline = Pipeline()
    made = pipeline.forge([Entry("file", b"a", user="j\udcf6rg", group="ä")])
    assert await entries(pipeline, made.pages) == [Entry("file", b"a", user="j?rg", group="ä")]


async def with_a_gap(*behind: Entry) -> list[Entry | UnreadablePage]:
    """A page with b/1, a page that is lost, a page with these entries."""
    pipeline = Pipeline()
    pages = [pipeline.forge([entry]).pages[0] for entry in (Entry("file", b"b/1"), Entry("file", b"b/5"))]
    last = pipeline.forge(behind).pages[-1]
    pipeline.chunks.errors[pages[1].chunk] = TooFewShards("gone for now")
    return await entries(pipeline, [*pages, last])


async def test_a_page_behind_a_gap_may_go_on_with_a_file_that_began_in_it() -> None:
    more = Entry("more", b"b/6", extents=(Extent(REF, 0, 9),))
    first, gap, going_on = await with_a_gap(more)
    assert isinstance(gap, UnreadablePage)
    assert (gap.after, gap.before) == (b"b/1", b"b/6")
    assert isinstance(first, Entry)
    assert going_on == more


@pytest.mark.parametrize("kind", ["file", "more"])
async def test_a_page_behind_a_gap_cannot_go_back(kind: str) -> None:
    back = replace(Entry("file", b"a"), kind=kind)  # type: ignore[arg-type]
    first, gap = await with_a_gap(back)
    assert isinstance(first, Entry)
    assert isinstance(gap, UnreadablePage)
    assert gap.before == b""


async def test_a_bad_page_is_refused_whole() -> None:
    pipeline = Pipeline()
    made = pipeline.forge([Entry("file", b"a"), Entry("file", b"b", uid=-1)])
    (gap,) = await entries(pipeline, made.pages)
    assert isinstance(gap, UnreadablePage)
    assert isinstance(gap.error, IntegrityFailure)


def test_a_request_is_not_good_twice_at_the_last_moment_of_its_window() -> None:
    key = signing.generate_signing_key(b"k" * 32)
    public, body, now = signing.public_key(key), digest_of(b""), 1_000_000_000
    signer = Signer("device", b"a" * 32, signing.device_id(public), key, CLUSTER)
    gate = Gate(b"r" * 32, CLUSTER, started_ms=0)
    last = now + REQUEST_WINDOW_MS
    one, two = (
        signer.sign(b"r" * 32, "GET", "/v1/account", body, time_ms=time_ms, nonce=nonce)
        for time_ms, nonce in ((now, b"1" * 16), (last, b"2" * 16))
    )
    gate.check(one, public, "GET", "/v1/account", body, now_ms=now)
    gate.check(two, public, "GET", "/v1/account", body, now_ms=last)  # forgets what is out of its window
    with pytest.raises(Refused, match="already made"):
        gate.check(one, public, "GET", "/v1/account", body, now_ms=last)


@contextmanager
def within(most_bytes: int) -> Iterator[None]:
    """What is done inside takes no more memory than this."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most_bytes


@pytest.mark.parametrize("epoch", [10**6, 2**63])
def test_nobody_makes_a_reader_count_to_an_epoch(epoch: int) -> None:
    hostile = signed("device-list", the_list(epoch=epoch), ROOT.sign_key)
    with within(2**20), pytest.raises(BadRequest):
        open_device_list(hostile, CLUSTER)


@pytest.mark.parametrize("name", ["zstd-bomb", "zstd-negative"])
def test_nobody_makes_a_reader_decompress_more_than_a_snapshot_says(name: str) -> None:
    bomb = vectors.load(vectors.FOLDER / "sealing" / f"{name}.json")
    with within(2**20):
        assert vectors.run(bomb) == ("IntegrityFailure", {})


@pytest.mark.parametrize(("body_bytes", "opens"), [(4_325_371, True), (4_325_372, False)])
def test_no_chunk_is_longer_than_the_longest(body_bytes: int, opens: bool) -> None:
    p = b"\0" + body_bytes.to_bytes(4, "big") + bytes(body_bytes)
    given = forged(p.ljust(padme(len(p)), b"\0"))
    case = vectors.Case("sealing", "longest", "", {**sealing_keys(), **given, "plain_bytes": body_bytes})
    assert vectors.run(case)[0] == ("ok" if opens else "IntegrityFailure")


@pytest.mark.parametrize("name", ["\udcff", 2**64])
def test_what_cannot_be_written_is_a_typed_error(name: str | int) -> None:
    with pytest.raises(BadRequest, match="cannot be written"):
        encode(NodeBrief(id=name, zone="", state=""))  # type: ignore[arg-type]
