"""The history of a run: every event is written at once and reads back the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from holdfast.cluster.chaos.history import (
    FaultBegan,
    History,
    Note,
    OperationEnded,
    PhaseBegan,
    RunBegan,
    Sampled,
    read_history,
)
from holdfast.protocol.errors import BadRequest


def begun(history: History) -> RunBegan:
    return history.add(
        RunBegan, version=1, scenario="x", seed=7, at="2026-01-01T00:00:00+00:00", program="0", k=4, m=2,
        members=["node-1", "coordinator"], zones={},
    )  # fmt: skip


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    moments = count()
    made = History(lambda: float(next(moments)), tmp_path / "history.jsonl")
    yield made
    made.close()


def test_events_are_on_disk_as_soon_as_they_happen(history: History, tmp_path: Path) -> None:
    begun(history)
    history.add(PhaseBegan, phase="chaos")
    history.add(FaultBegan, fault=1, declared=0, kind="kill", targets=["node-1"])
    history.add(OperationEnded, op=3, outcome="unknown", code="killed")
    history.add(Sampled, stripes=0, fewest=None)
    assert list(read_history(tmp_path / "history.jsonl")) == history.events
    assert [event.t for event in history.events] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert history.of(Note) == []


def test_a_line_that_a_crash_cut_off_is_left_out(history: History, tmp_path: Path) -> None:
    begun(history)
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'{"event":"note","t":1')
    assert len(list(read_history(tmp_path / "history.jsonl"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"no such event","t":1}\n',
        b'{"event":"note","t":1,"text":"x","more":1}\n',
        b'{"event":"operation ended","t":1,"op":1,"outcome":"perhaps"}\n',
        b"{}\n",
        b"not json\n",
    ],
)
def test_what_is_no_event_is_refused(history: History, tmp_path: Path, line: bytes) -> None:
    begun(history)
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(BadRequest):
        list(read_history(tmp_path / "history.jsonl"))


def test_another_version_or_no_beginning_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_bytes(b'{"event":"note","t":1,"text":"x"}\n')
    with pytest.raises(BadRequest):
        list(read_history(file))
