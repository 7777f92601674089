"""How often a node tries to be heard."""

from __future__ import annotations

from holdfast.node.limits import HEARTBEAT_BACKOFF_S_MAX
from holdfast.node.membership import Pace


def test_silence_is_met_less_and_less_often() -> None:
    pace = Pace()
    waits = [pace.failed(0.3, is_silent=True) for _ in range(8)]
    assert waits[:3] == [0.3, 0.6, 1.2] and waits[-1] == HEARTBEAT_BACKOFF_S_MAX


def test_who_answers_again_and_refuses_is_asked_who_it_is_at_once() -> None:
    pace = Pace()
    for _ in range(8):
        pace.failed(0.3, is_silent=True)
    assert pace.failed(0.3, is_silent=False) == 0.3
    waits = [pace.failed(0.3, is_silent=False) for _ in range(8)]
    assert waits[:2] == [0.6, 1.2] and waits[-1] == HEARTBEAT_BACKOFF_S_MAX, "who refuses on is left alone"
