"""Anybody measures the same bytes: corpora follow from their seed, and a day changes little of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from holdfast.cluster.benchmark import corpora
from holdfast.cluster.benchmark.corpora import (
    CORPORA,
    FULL,
    QUICK,
    USUAL,
    Corpus,
    bytes_of,
    files_of,
    one_file,
)


def contents(tree: Path) -> dict[str, bytes]:
    return {str(p.relative_to(tree)): p.read_bytes() for p in sorted(tree.rglob("*")) if p.is_file()}


def made(corpus: Corpus, folder: Path, label: str) -> dict[str, bytes]:
    folder.mkdir()
    corpus.make(folder, label)
    return contents(folder)


@pytest.mark.parametrize("name", ["mid", "small", "text"])
def test_the_same_seed_gives_the_same_tree_and_another_one_another(name: str, tmp_path: Path) -> None:
    corpus = CORPORA[name]
    first = made(corpus, tmp_path / "a", "seed")
    assert first == made(corpus, tmp_path / "b", "seed")
    other = made(corpus, tmp_path / "c", "another")
    assert first.keys() == other.keys() and not set(first.values()) & set(other.values())


@pytest.mark.parametrize(("name", "files", "size"), [("mid", 64, 2**20), ("small", 1000, 10 * 1024)])
def test_trees_are_as_large_as_they_say(name: str, files: int, size: int, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    made(CORPORA[name], tree, "seed")
    assert (files_of(tree), bytes_of(tree)) == (files, files * size)


@pytest.mark.parametrize("name", ["mid", "small", "text"])
def test_a_day_changes_about_one_file_in_a_hundred(name: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    before = made(CORPORA[name], tree, "seed")
    CORPORA[name].change(tree, "seed")
    after = contents(tree)
    assert after.keys() == before.keys()
    assert 1 <= sum(after[path] != before[path] for path in before) <= max(1, len(before) // 100)


def test_a_large_file_changes_in_the_middle_and_stays_as_long(tmp_path: Path) -> None:
    make, change = one_file(4 * 2**20)
    make(tmp_path, "seed")
    before = (tmp_path / "file").read_bytes()
    change(tmp_path, "seed")
    after = (tmp_path / "file").read_bytes()
    assert len(after) == len(before) == 4 * 2**20
    assert 0 < sum(a != b for a, b in zip(before, after, strict=True)) <= 2**20


def test_a_database_is_one_and_one_row_in_a_hundred_is_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "_ROW_BYTES", 2**20)  # 200 rows instead of half a million
    CORPORA["messages"].make(tmp_path, "seed")

    def rows() -> list[tuple[int, str]]:
        with closing(sqlite3.connect(tmp_path / "messages.sqlite")) as connection:
            return connection.execute("SELECT id, body FROM messages ORDER BY id").fetchall()

    before = rows()
    CORPORA["messages"].change(tmp_path, "seed")
    assert len(before) == 200 and sum(a != b for a, b in zip(before, rows(), strict=True)) == 2


def test_text_compresses_and_noise_does_not(tmp_path: Path) -> None:
    import zlib

    text = made(CORPORA["text"], tmp_path / "text", "seed")
    noise = made(CORPORA["small"], tmp_path / "small", "seed")
    assert len(zlib.compress(b"".join(text.values())[: 2**20])) < 2**19
    assert len(zlib.compress(b"".join(noise.values())[: 2**20])) > 0.99 * 2**20


def test_every_named_set_names_corpora() -> None:
    assert {*QUICK, *USUAL, *FULL} == set(CORPORA)
