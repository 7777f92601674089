"""Looking goes on when a damaged store has killed whoever looked at it, and comes back to it once mended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import deadly_stores
from support.shards import key_of, made_put

from holdfast.cluster.chaos.sampling import Sampler
from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.clock import FixedSource

NODES = range(1, 4)
HURT = (1, 2)
"""Both lost something, and only the second one kills."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "coordinator").mkdir()
    Catalogue(sqlite_url(tmp_path / "coordinator" / "catalogue.sqlite")).close()
    for number in NODES:
        node = tmp_path / f"node-{number}"
        store = LmdbStore(node / "store", source=FixedSource(), capacity_bytes=50_000_000)
        assert store.put([[made_put(number)]]) == [None]
        store.close()
        (node / "node.json").write_text(json.dumps({"version": 1, "node": f"{number:032x}"}))
    return tmp_path


@pytest.fixture
def sampler(folder: Path) -> Iterator[Sampler]:
    made = Sampler(folder, deadly_stores.begin)
    yield made
    made.close()


def test_only_the_store_that_kills_is_passed_over_and_only_until_it_is_mended(
    folder: Path, sampler: Sampler
) -> None:
    assert not sampler.take(NODES).unread
    deadly = folder / "node-2" / "store" / "deadly"
    deadly.touch()
    assert "killed" in sampler.take(NODES, excused=HURT).trouble
    look = sampler.take(NODES, excused=HURT)
    assert (look.trouble, list(look.unread)) == ("", [2])

    sampler.mended([1])
    assert list(sampler.take(NODES, excused=HURT).unread) == [2], "another one's mending is nothing to it"
    deadly.unlink()
    assert list(sampler.take(NODES, excused=HURT).unread) == [2], "nobody has said that it is mended"
    sampler.mended([2])
    assert not sampler.take(NODES, excused=HURT).unread


def test_a_store_that_kills_again_after_it_was_mended_is_passed_over_again(
    folder: Path, sampler: Sampler
) -> None:
    (folder / "node-2" / "store" / "deadly").touch()
    for _ in range(2):
        assert "killed" in sampler.take(NODES, excused=HURT).trouble
        assert list(sampler.take(NODES, excused=HURT).unread) == [2]
        sampler.mended([2])


def test_the_keys_of_a_store_that_kills_are_none_and_looking_goes_on(folder: Path, sampler: Sampler) -> None:
    (folder / "node-2" / "store" / "deadly").touch()
    assert sampler.live_keys(2) == frozenset()
    assert sampler.live_keys(1) == {key_of(made_put(1)).pack()}


def test_what_is_mended_while_it_is_found_out_who_kills_is_not_passed_over(
    folder: Path, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = folder / "node-2" / "store" / "deadly"
    deadly.touch()
    keys = sampler._keys

    def mended_meanwhile(number: int) -> frozenset[bytes] | None:
        found = keys(number)
        if number == 2:
            deadly.unlink()
            sampler.mended([2])
        return found

    monkeypatch.setattr(sampler, "_keys", mended_meanwhile)
    assert "killed" in sampler.take(NODES, excused=HURT).trouble
    assert not sampler.take(NODES, excused=HURT).unread
