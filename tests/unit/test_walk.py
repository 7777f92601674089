"""The walk tells everything once, in the manifest's order, and never leaves what it was given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.folders import removed_afterwards

from holdfast.client.exclude import Excluder
from holdfast.client.walk import Found, Problem, components, normal_roots, walk
from holdfast.protocol.errors import BadRequest


def told(*roots: Path, exclude: tuple[str, ...] = (), below: Path) -> list[str]:
    found = []
    for one in walk(normal_roots(roots), Excluder(exclude)):
        assert isinstance(one, Found), one
        if one.path.startswith(os.fsencode(below) + b"/"):
            found.append(os.fsdecode(one.path)[len(str(below)) + 1 :])
    return found


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_order_is_by_components_so_that_a_folder_is_followed_by_what_is_in_it(tmp_path: Path) -> None:
    make(tmp_path, "a/x", "a.txt", "a-b", "a/y/z", "b")
    assert told(tmp_path, below=tmp_path) == ["a", "a/x", "a/y", "a/y/z", "a-b", "a.txt", "b"]


def test_the_folders_above_a_root_are_told_once_and_first(tmp_path: Path) -> None:
    make(tmp_path, "one/file", "two/file")
    paths = [one.path for one in walk(normal_roots([tmp_path / "one", tmp_path / "two"]), Excluder())]
    assert paths.count(os.fsencode(tmp_path)) == 1
    assert paths == sorted(paths, key=components)
    assert len(paths) == len(set(paths))


def test_a_root_below_another_is_told_once(tmp_path: Path) -> None:
    make(tmp_path, "a/b/c")
    assert normal_roots([tmp_path / "a" / "b", tmp_path, tmp_path / "a"]) == [os.fsencode(tmp_path)]


def test_a_sibling_with_a_longer_name_is_not_below(tmp_path: Path) -> None:
    make(tmp_path, "a/x", "ab/x")
    assert len(normal_roots([tmp_path / "a", tmp_path / "ab"])) == 2


def test_a_link_given_as_root_is_kept_and_what_it_leads_to_is_added(tmp_path: Path) -> None:
    make(tmp_path, "real/file")
    (tmp_path / "link").symlink_to("real")
    assert told(tmp_path / "link", below=tmp_path) == ["link", "real", "real/file"]


def test_a_link_inside_is_never_followed(tmp_path: Path) -> None:
    make(tmp_path, "real/file")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to("../real")
    assert told(tmp_path / "tree", below=tmp_path) == ["tree", "tree/link"]


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="does not exist"):
        normal_roots([tmp_path / "nowhere"])
    with pytest.raises(BadRequest):
        normal_roots([])


def test_a_tree_deeper_than_recursion_allows_is_walked(tmp_path: Path) -> None:
    with removed_afterwards(tmp_path / "d") as here:
        for _ in range(1200):
            os.mkdir(here)
            here = here / "d"
            if len(str(here)) > 3900:
                break
        assert len(told(tmp_path, below=tmp_path)) > 1000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_a_problem_not_the_end(tmp_path: Path) -> None:
    make(tmp_path, "closed/file", "open")
    (tmp_path / "closed").chmod(0)
    found = list(walk(normal_roots([tmp_path]), Excluder()))
    (tmp_path / "closed").chmod(0o700)
    assert any(isinstance(one, Problem) and one.path.endswith(b"closed") for one in found)
    assert any(isinstance(one, Found) and one.path.endswith(b"open") for one in found)


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (("*.o",), ["a", "a/keep.c", "b", "b/deep", "b/deep/x.c"]),
        (("deep/",), ["a", "a/keep.c", "a/y.o", "b", "b/x.o"]),
        (("b/deep",), ["a", "a/keep.c", "a/y.o", "b", "b/x.o"]),
        (("*.o", "!y.o"), ["a", "a/keep.c", "a/y.o", "b", "b/deep", "b/deep/x.c"]),
        (("**/x.*",), ["a", "a/keep.c", "a/y.o", "b", "b/deep"]),
        (("[xy].o",), ["a", "a/keep.c", "b", "b/deep", "b/deep/x.c"]),
        (("[!x].o",), ["a", "a/keep.c", "b", "b/deep", "b/deep/x.c", "b/x.o"]),
        (("?.o/",), ["a", "a/keep.c", "a/y.o", "b", "b/deep", "b/deep/x.c", "b/x.o"]),
    ],
)
def test_patterns_leave_out_what_gitignore_would(
    tmp_path: Path, patterns: tuple[str, ...], left: list[str]
) -> None:
    make(tmp_path, "a/keep.c", "a/y.o", "b/deep/x.c", "b/x.o")
    assert told(tmp_path, exclude=patterns, below=tmp_path) == left


def test_a_pattern_from_the_root_is_an_absolute_path(tmp_path: Path) -> None:
    make(tmp_path, "a/x", "b/a/x")
    assert told(tmp_path, exclude=(f"{tmp_path}/a",), below=tmp_path) == ["b", "b/a", "b/a/x"]


@pytest.mark.parametrize("pattern", ["", "!", "/", "[z-a]"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(BadRequest):
        Excluder([pattern])
