"""Contents that follow from seeds, and what an account must hold."""

from __future__ import annotations

from random import Random

from holdfast.cluster.chaos.clients import Account, Kept
from holdfast.cluster.chaos.contents import PlannedFile, canary_of, changed_files, content_of


def test_the_same_seed_gives_the_same_files_and_bytes() -> None:
    canary = canary_of(5)
    one = changed_files([], Random(1), canary, count=(3, 9), kib=(1, 500))
    two = changed_files([], Random(1), canary, count=(3, 9), kib=(1, 500))
    assert one == two and 3 <= len(one) <= 9
    for file in one:
        content = content_of(file, canary)
        assert len(content) == file.size and content == content_of(file, canary)
        assert canary in file.name
        assert canary.encode() in content or file.size < 60
    assert canary_of(6) != canary


def test_a_folder_changes_and_keeps_some_files() -> None:
    random, canary = Random(3), canary_of(1)
    before = changed_files([], random, canary, count=(40, 40), kib=(1, 10))
    after = changed_files(before, random, canary, count=(40, 40), kib=(1, 10))
    assert set(before) & set(after) and set(after) - set(before)
    assert len({file.name for file in after}) == len(after)


def test_files_come_again_that_were_there_before() -> None:
    random, canary = Random(3), canary_of(1)
    earlier = changed_files([], random, canary, count=(40, 40), kib=(1, 10))
    after = changed_files([], random, canary, count=(40, 40), kib=(1, 10), earlier=earlier, again=0.5)
    assert 10 < len(set(after) & set(earlier)) < 30
    assert len({file.name for file in after}) == len(after) == 40


def kept(tag: str, state: str) -> Kept:
    return Kept(tag, (PlannedFile(name="x", size=1, seed=1),), state)  # type: ignore[arg-type]


def account(**states: str) -> Account:
    made = Account()
    made.kept = {tag: kept(tag, state) for tag, state in states.items()}
    return made


def test_what_was_acknowledged_must_be_there_and_what_failed_must_not() -> None:
    assert account(a="kept", b="never", c="gone").settle(frozenset({"a"})) == []
    assert account(a="kept").settle(frozenset()) == ["a was acknowledged, and is not there"]
    assert account(b="never").settle(frozenset({"b"})) == ["b failed, and is there all the same"]
    assert account(c="gone").settle(frozenset({"c"})) == ["c was forgotten, and is there again"]
    assert account().settle(frozenset({"z"})) == ["z is there, and nobody made it"]


def test_what_was_unknown_settles_once_and_for_all() -> None:
    made = account(a="maybe", b="maybe", c="going", d="going")
    assert made.settle(frozenset({"a", "c"})) == []
    assert [made.kept[tag].state for tag in "abcd"] == ["kept", "never", "kept", "gone"]
    assert made.settle(frozenset({"a", "b", "c"})) == ["b failed, and is there all the same"]
