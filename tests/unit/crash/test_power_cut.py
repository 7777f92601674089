"""What was acknowledged survives a power cut at any moment; what was not is there whole or not at all.

The real system calls of LMDB and SQLite are recorded in a process of its own and replayed into what a
disk may hold when the power goes (tests/support/crash). Each state is opened by the product's own code.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from support.crash import catalogue_work, heads_work, store_work
from support.crash.replay import (
    MAPPED,
    CrashState,
    Recorded,
    check_each,
    number_of_states,
    record,
    seed_of_states,
)
from support.crash.write_log import Renamed
from support.shards import made_put

from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.node.store_lmdb_heads import HeadStore


@pytest.fixture(scope="module")
def store_log(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record("support.crash.store_work", tmp_path_factory.mktemp("store"), 1, 80)


@pytest.fixture(scope="module")
def catalogue_log(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record("support.crash.catalogue_work", tmp_path_factory.mktemp("catalogue"), 1, 90)


@pytest.fixture(scope="module")
def heads_log(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record("support.crash.heads_work", tmp_path_factory.mktemp("heads"), 1, 60)


def assert_complete(recorded: Recorded) -> None:
    there = {
        path.relative_to(recorded.root).as_posix(): path.read_bytes()
        for path in recorded.root.rglob("*")
        if path.is_file() and path.name not in MAPPED
    }
    replayed = {
        path: content for path, content in recorded.replayed().files.items() if Path(path).name not in MAPPED
    }
    assert replayed.keys() == there.keys()
    assert [path for path in there if there[path] != replayed[path]] == []


def test_a_record_misses_nothing(store_log: Recorded, catalogue_log: Recorded) -> None:
    """Replayed without a power cut, it gives the very files that the program left."""
    assert_complete(store_log)
    assert_complete(catalogue_log)
    assert sum(len(event.content) for event in catalogue_log.writes()) > 2_000_000, "no checkpoint was met"


def check_store(recorded: Recorded, root: Path, state: CrashState) -> None:
    store = store_work.open_store(root)
    found = store_work.describe(store)
    if state.acknowledged >= 0:
        assert found in recorded.allowed(state), "neither all that was acknowledged nor what had begun"
    assert store.put([[made_put(10**7)]]) == [None]
    after = store_work.describe(store)
    store.close()
    store = store_work.open_store(root)
    assert store_work.describe(store) == after
    store.close()
    shutil.rmtree(root)


def test_a_store_that_is_compacted_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    recorded = record("support.crash.compact_work", tmp_path / "work", 1, 60)
    assert_complete(recorded)
    states = [
        *recorded.states(number_of_states(100), seed_of_states()),
        *(
            state
            for at in copies_of(recorded)
            for state in recorded.states(number_of_states(30), seed_of_states(), among=(at - 6, at + 6))
        ),
    ]
    assert check_each(iter(states), tmp_path, lambda root, state: check_store(recorded, root, state)) >= 160


def copies_of(recorded: Recorded) -> list[int]:
    """Where copies took the place of a store's file; the first such event is the store's own making."""
    found = [at for at, event in enumerate(recorded.events) if isinstance(event, Renamed)][1:]
    assert len(found) >= 2
    return found


def check_catalogue(recorded: Recorded, root: Path, state: CrashState) -> None:
    catalogue = Catalogue(sqlite_url(root / "catalogue.sqlite"))
    found = catalogue_work.describe(catalogue)
    if state.acknowledged >= 0:
        assert found in recorded.allowed(state), "neither all that was acknowledged nor what had begun"
    catalogue.close()
    shutil.rmtree(root)


def test_a_store_keeps_what_it_acknowledged(store_log: Recorded, tmp_path: Path) -> None:
    states = store_log.states(number_of_states(120), seed_of_states())
    assert check_each(states, tmp_path, lambda root, state: check_store(store_log, root, state)) >= 120


def test_a_store_opens_after_a_power_cut_in_its_first_moments(store_log: Recorded, tmp_path: Path) -> None:
    first = store_log.first_written()
    states = [
        *store_log.states(number_of_states(200), seed_of_states(), among=(first, first + 1)),
        *store_log.states(number_of_states(60), seed_of_states(), among=(0, store_log.first_done())),
    ]
    assert check_each(iter(states), tmp_path, lambda root, state: check_store(store_log, root, state)) >= 260


def test_a_catalogue_keeps_what_it_acknowledged(catalogue_log: Recorded, tmp_path: Path) -> None:
    states = catalogue_log.states(number_of_states(120), seed_of_states())
    assert (
        check_each(states, tmp_path, lambda root, state: check_catalogue(catalogue_log, root, state)) >= 120
    )


def test_a_catalogue_opens_after_a_power_cut_in_its_first_moments(
    catalogue_log: Recorded, tmp_path: Path
) -> None:
    states = catalogue_log.states(
        number_of_states(60), seed_of_states(), among=(0, catalogue_log.first_done())
    )
    assert check_each(states, tmp_path, lambda root, state: check_catalogue(catalogue_log, root, state)) >= 60


def check_heads(recorded: Recorded, root: Path, state: CrashState) -> None:
    store = HeadStore(root / "heads")
    found = heads_work.describe(store)
    if state.acknowledged >= 0:
        assert found in recorded.allowed(state), "neither all that was acknowledged nor what had begun"
    store.close()
    shutil.rmtree(root)


def test_a_witness_keeps_what_it_acknowledged(heads_log: Recorded, tmp_path: Path) -> None:
    assert_complete(heads_log)
    first = heads_log.first_written()
    states = [
        *heads_log.states(number_of_states(100), seed_of_states()),
        *heads_log.states(number_of_states(60), seed_of_states(), among=(first, heads_log.first_done())),
    ]
    check_each(iter(states), tmp_path, lambda root, state: check_heads(heads_log, root, state))
    assert max(state.acknowledged for state in states) > 40


@pytest.mark.parametrize("part", ["store", "catalogue", "heads"])
def test_a_program_that_does_not_wait_for_the_disk_is_found_out(part: str, tmp_path: Path) -> None:
    """The same work with syncing switched off: losses show, or the tests above prove nothing."""
    recorded = record(f"support.crash.{part}_work", tmp_path, 1, 60, environment={"CARELESS": "1"})
    assert_complete(recorded)
    check = {"store": check_store, "catalogue": check_catalogue, "heads": check_heads}[part]
    assert count_lost(recorded, recorded.states(40, 1), tmp_path, check) >= 10


def test_a_copy_that_takes_the_file_s_place_too_soon_is_found_out(tmp_path: Path) -> None:
    """The copy is not synced before it is renamed. Right after it losses show: the next commit syncs all."""
    recorded = record("support.crash.compact_work", tmp_path, 1, 60, environment={"CARELESS": "1"})
    assert_complete(recorded)
    after = [(at + 1, at + 3) for at in copies_of(recorded)]
    states = (state for window in after for state in recorded.states(20, 1, among=window))
    assert count_lost(recorded, states, tmp_path, check_store) >= 10


def count_lost(
    recorded: Recorded,
    states: Iterable[CrashState],
    tmp_path: Path,
    check: Callable[[Recorded, Path, CrashState], None],
) -> int:
    """In how many states something is missing, or does not open."""
    lost = 0
    for number, state in enumerate(states):
        root = tmp_path / f"state-{number}"
        state.left.write(root)
        try:
            check(recorded, root, state)
        except Exception:
            lost += 1
    return lost
