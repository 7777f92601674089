"""Who counts as up, and what the operator is told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.crash.first_start import running, start_coordinator

from holdfast.coordinator.catalogue.nodes import NodeRow
from holdfast.coordinator.health import HealthSettings, NodeState, state_of
from holdfast.coordinator.live import Beat, Live
from holdfast.coordinator.verdict import Standing, judge
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import NodeId, PublicKey, StoreId
from holdfast.protocol.messages.nodes import Heartbeat
from holdfast.protocol.serving import ListenAddress, Server

SETTINGS = HealthSettings(heartbeat_ms=1000, suspect_after_s=5, down_after_s=10, lost_after_s=100)


def seen(age_s: float, told: str = "ok") -> NodeState:
    return state_of(last_seen_s=1000, started_s=0, now_s=1000 + age_s, told=told, settings=SETTINGS)


@pytest.mark.parametrize(
    ("age", "state"), [(0, "up"), (4.9, "up"), (5, "suspect"), (9.9, "suspect"), (10, "down"), (1e6, "down")]
)
def test_a_node_is_judged_by_the_age_of_its_last_heartbeat(age: float, state: str) -> None:
    assert seen(age) == state


def test_a_node_that_says_goodbye_is_not_counted_on_from_then() -> None:
    assert seen(0, told="stopping") == "stopping"


def test_after_a_restart_of_the_coordinator_absence_is_counted_afresh() -> None:
    def after_start(seconds: float) -> NodeState:
        return state_of(last_seen_s=None, started_s=5000, now_s=5000 + seconds, told="", settings=SETTINGS)

    assert after_start(0) == "suspect"
    assert after_start(9.9) == "suspect"
    assert after_start(10) == "down"


@pytest.mark.parametrize(
    "times",
    [
        {"heartbeat_ms": 0},
        {"heartbeat_ms": 5000},
        {"suspect_after_s": 11},
        {"down_after_s": 100},
        {"lost_after_s": 10},
    ],
)
def test_times_that_do_not_fit_together_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(BadRequest):
        HealthSettings(
            **{"heartbeat_ms": 1000, "suspect_after_s": 5, "down_after_s": 10, "lost_after_s": 100, **times}  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    ("spare", "word", "says"),
    [
        ({}, "safe", "Nothing is stored yet."),
        ({(2, 2): 5}, "safe", "All data safe: every stripe can lose 2 more nodes."),
        ({(1, 1): 5}, "safe", "All data safe: every stripe can lose 1 more node."),
        ({(2, 2): 5, (1, 1): 3}, "safe", "All data safe: every stripe can lose 1 more node."),
        ({(2, 2): 5, (1, 2): 3}, "degraded", "Degraded: 3 stripes can lose only 1 more node."),
        ({(0, 2): 1, (1, 2): 3}, "at_risk", "AT RISK: 1 stripe would be lost with any one more node."),
        (
            {(-1, 2): 1200, (-4, 2): 34, (0, 2): 9},
            "unavailable",
            "UNAVAILABLE: 1,234 stripes cannot be read until nodes return; nothing was discarded.",
        ),
    ],
)
def test_the_operator_gets_one_true_sentence(spare: dict[tuple[int, int], int], word: str, says: str) -> None:
    verdict = judge({Standing(*key): count for key, count in spare.items()})
    assert (verdict.word, verdict.sentence) == (word, says)
    assert verdict.stripes.total == sum(spare.values())


@given(st.dictionaries(st.tuples(st.integers(-6, 6), st.integers(1, 6)), st.integers(1, 1000), max_size=12))
def test_the_word_is_never_better_than_the_worst_stripe(spare: dict[tuple[int, int], int]) -> None:
    verdict = judge({Standing(*key): count for key, count in spare.items()})
    worst = min((now for now, _ in spare), default=None)
    if worst is None:
        assert verdict.word == "safe"
    elif worst < 0:
        assert verdict.word == "unavailable"
    elif worst == 0:
        assert verdict.word == "at_risk"
    else:
        assert verdict.word == ("degraded" if any(now < whole for now, whole in spare) else "safe")
    assert sum(verdict.stripes.by_spare.values()) == verdict.stripes.total


def live(source: FixedSource) -> Live:
    made = Live(source, SETTINGS, None, source.monotonic())
    for number in (1, 2):
        node = NodeId(bytes([number]) * 16)
        made.nodes[node] = NodeRow(node, PublicKey(bytes(32)), "http://x", "zone", 1, StoreId(bytes(16)))
    return made


def beat(made: Live, number: int, state: str = "ok") -> NodeId:
    node = NodeId(bytes([number]) * 16)
    report = Heartbeat(
        url="http://x",
        zone="zone",
        store=StoreId(bytes(16)),
        store_counter=1,
        capacity_bytes=10,
        used_bytes=1,
        free_bytes=9,
        shards=1,
        state=state,  # type: ignore[arg-type]
        start=bytes(16),
        quarantined=0,
        scrubbed_ms=0,
        trouble="",
        order=0,
        pulse=0,
        file_bytes=0,
        compacting=-1,
    )
    made.beats[node] = Beat(report, made.source.monotonic(), made.source.now_ms())
    return node


def test_a_node_that_fell_silent_does_not_count_on_being_there() -> None:
    source = FixedSource()
    made = live(source)
    node = beat(made, 1)
    assert made.is_serving(node)
    source.advance(5)
    assert made.state(node) == "suspect" and not made.is_serving(node)
    beat(made, 1)
    assert made.is_serving(node)


@pytest.mark.parametrize(
    ("state", "serves"), [("ok", True), ("full", True), ("failed", False), ("stopping", False)]
)
def test_a_full_store_is_read_and_a_failed_one_is_not(state: str, serves: bool) -> None:
    made = live(FixedSource())
    node = beat(made, 1, state)
    assert made.is_serving(node) is serves
    assert (node in {candidate.id for candidate in made.writable(frozenset())}) is (state == "ok")


def test_after_a_start_nodes_count_until_they_had_time_to_report() -> None:
    source = FixedSource()
    made = live(source)
    node = NodeId(bytes([2]) * 16)
    assert made.is_serving(node)
    source.advance(10)
    assert not made.is_serving(node)


def test_the_time_to_report_begins_when_nodes_can_be_heard() -> None:
    """A coordinator may have waited for its port."""
    source = FixedSource()
    made = live(source)
    source.advance(100)
    made.begin()
    assert made.is_serving(NodeId(bytes([2]) * 16)) and made.awaits_reports()
    assert made.steady_ms() == source.now_ms()


async def test_a_coordinator_begins_once_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    listen, begin = Server.start, Live.begin

    async def listening(self: Server) -> ListenAddress:
        bound = await listen(self)
        happened.append("listening")
        return bound

    def begun(self: Live) -> None:
        happened.append("begun")
        begin(self)

    monkeypatch.setattr(Server, "start", listening)
    monkeypatch.setattr(Live, "begin", begun)
    async with running(start_coordinator(tmp_path), tmp_path):
        assert happened == ["listening", "begun"]


async def test_leases_wait_for_the_nodes_after_a_start_and_no_longer_than_needed() -> None:
    source = FixedSource()
    made = live(source)
    waiting = asyncio.create_task(made.settle())
    beat(made, 1)
    await asyncio.sleep(0)
    assert not waiting.done()
    beat(made, 2)
    async with asyncio.timeout(5):
        await waiting
    made.beats.clear()
    beat(made, 1)
    source.advance(5)
    await made.settle()  # the silent one is suspect by now: nobody waits for it


async def test_where_no_node_was_heard_of_at_all_they_are_given_until_they_would_be_down() -> None:
    """Nodes that waited for the coordinator to come back may take longer to notice than to become suspect."""
    source = FixedSource()
    made = live(source)
    source.advance(5)
    waiting = asyncio.create_task(made.settle())
    await asyncio.sleep(0)
    assert not waiting.done()
    source.advance(5)
    async with asyncio.timeout(5):
        await waiting
