"""The checker's book, and whom a scenario's targets mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.history import History, InvariantJudged
from holdfast.cluster.chaos.judging import INVARIANTS, Judge
from holdfast.cluster.chaos.sampling import Look
from holdfast.cluster.chaos.scenario import Scenario, parse_scenario
from holdfast.cluster.chaos.verifying import find_in_files

TEXT = 'version = 1\nname = "x"\nabout = "y"\nfaults = []\n[cluster]\nzones = 3\n'


def scenario(more: str = "") -> Scenario:
    return parse_scenario(TEXT + more, "x")


def judged(judge: Judge) -> dict[str, InvariantJudged]:
    return {one.letter: one for one in judge.judge(History(lambda: 9.0))}


def test_an_invariant_holds_only_if_somebody_looked() -> None:
    judge = Judge(scenario(), lambda: 1.0)
    judge.looked("a")
    verdicts = judged(judge)
    assert set(verdicts) == set(INVARIANTS)
    assert verdicts["a"].verdict == "held" and verdicts["b"].verdict == "not judged"


def test_the_first_violation_is_told_with_its_moment_and_how_many_followed() -> None:
    moments = iter([3.0, 4.0, 5.0])
    judge = Judge(scenario(), lambda: next(moments))
    judge.require("b", False, "first")
    judge.require("b", False, "second")
    judge.require("b", True, "never")
    told = judged(judge)["b"]
    assert (told.verdict, told.at, told.looked) == ("violated", 3.0, 3)
    assert told.why == "first (and 1 more)"


def test_a_scenario_may_say_nothing_about_an_invariant() -> None:
    judge = Judge(scenario('[expect]\nskip = ["h"]\n'), lambda: 1.0)
    judge.violated("h", "too late")
    assert judged(judge)["h"].verdict == "not judged"


@pytest.fixture
def arena() -> Arena:
    cluster = SimpleNamespace(node_count=6)
    made = Arena(scenario(), 1, cast(Any, cluster), History(lambda: 0.0), cast(Any, None), Path("/nowhere"))
    made.clients = {"client-1": cast(Any, None), "client-2": cast(Any, None)}
    return made


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (["3"], lambda found: found == ["node-3"]),
        (["any"], lambda found: len(found) == 1),
        (["any:m"], lambda found: len(found) == 2),
        (["any:m+1"], lambda found: len(found) == 3),
        (["any:m-1"], lambda found: len(found) == 1),
        (["any:4"], lambda found: len(set(found)) == 4),
        (["all", "coordinator"], lambda found: len(found) == 7 and found[-1] == "coordinator"),
        (["zone:2"], lambda found: found == ["node-2", "node-5"]),
        (["zone:any"], lambda found: len(found) == 2),
        (["clients"], lambda found: found == ["client-1", "client-2"]),
        (["everybody"], lambda found: len(found) == 9),
        (["2", "2", "all"], lambda found: len(found) == 6),
    ],
)
def test_targets_name_members(arena: Arena, wanted: list[str], fits: Callable[[list[str]], bool]) -> None:
    assert fits(arena.targets(wanted, Random(5)))
    assert arena.targets(wanted, Random(5)) == arena.targets(wanted, Random(5))


def test_what_a_fault_keeps_away_already_is_not_drawn_again(arena: Arena) -> None:
    arena.away.update(["node-1", "node-2", "node-3", "node-4", "node-5"])
    assert arena.targets(["any"], Random(1)) == ["node-6"]
    assert arena.away_numbers() == {1, 2, 3, 4, 5}


def test_a_look_knows_what_could_be_lost_more() -> None:
    look = Look(layouts=frozenset({(4, frozenset({1, 2, 3, 4, 5, 6})), (2, frozenset({1, 2, 3}))}))
    assert look.survives({1}) and look.survives({4, 5})
    assert not look.survives({1, 2}) and not look.survives({4, 5, 6})


def test_secrets_are_found_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "clean").write_bytes(b"nothing here")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "dirty").write_bytes(b"x" * 5000 + b"the yellow bird" + b"x" * 5000)
    assert find_in_files(tmp_path.iterdir(), [b"yellow bird", b"\x00\xff\x00"]) == ["dirty"]
    assert find_in_files(tmp_path.iterdir(), [b"red bird"]) == []
