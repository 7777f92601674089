"""The first start makes one cluster, whatever interrupts it, and hands the operator one key."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.coordinator import identity as module
from holdfast.coordinator.identity import hand_over_operator_key, load_or_make, read_operator_key
from holdfast.protocol.address import Address
from holdfast.protocol.charter import cluster_id
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import BadRequest, WrongDirectory
from holdfast.protocol.signing import key_id


class Dies(Exception):
    """The process is gone."""


def start(folder: Path, port: int = 7700) -> module.CoordinatorIdentity:
    """What a start does with files."""
    made, _ = load_or_make(folder, SYSTEM)
    hand_over_operator_key(folder, Address(f"http://127.0.0.1:{port}", made.cluster))
    return made


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Holds one number: after so many file changes the process dies; half of them just before, half after."""
    left = [10**9]
    for name in ("write_file", "remove_file"):
        real = getattr(module, name)

        def dying(*arguments: Any, real: Any = real) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Dies
            real(*arguments)
            left[0] -= 1
            if left[0] == 0:
                raise Dies

        monkeypatch.setattr(module, name, dying)
    yield left


def test_a_first_start_that_dies_anywhere_is_finished_by_the_next(tmp_path: Path, deaths: list[int]) -> None:
    reached = 0
    for moment in range(1, 20):
        folder = tmp_path / str(moment)
        folder.mkdir()
        deaths[0] = moment
        try:
            start(folder)
        except Dies:
            reached += 1
        kit = (folder / "cluster-kit.pem").read_bytes() if (folder / "cluster-kit.pem").exists() else None
        deaths[0] = 10**9
        made = start(folder)
        assert kit in (None, (folder / "cluster-kit.pem").read_bytes()), "a second cluster in one folder"
        assert made.cluster == cluster_id(made.root)
        address, signer = read_operator_key(folder / "operator.key")
        assert address.cluster == made.cluster
        assert signer.id == key_id(made.operator)
        assert not (folder / "operator.seed").exists()
        assert start(folder).cluster == made.cluster
    # Kit, two keys, charter and operator key written, the seed removed: before each and after.
    assert reached == 12


def test_secrets_are_the_owner_s_alone(tmp_path: Path) -> None:
    start(tmp_path)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_new_address_is_written_into_the_operator_key(tmp_path: Path) -> None:
    start(tmp_path)
    before = read_operator_key(tmp_path / "operator.key")[1]
    start(tmp_path, port=8800)
    address, signer = read_operator_key(tmp_path / "operator.key")
    assert address.url.endswith(":8800")
    assert signer.id == before.id


def test_an_operator_key_that_was_taken_away_is_not_made_again(tmp_path: Path) -> None:
    start(tmp_path)
    (tmp_path / "operator.key").rename(tmp_path.parent / "taken.key")
    start(tmp_path)
    assert not (tmp_path / "operator.key").exists()


def test_the_kit_may_be_taken_away(tmp_path: Path) -> None:
    made = start(tmp_path)
    (tmp_path / "cluster-kit.pem").unlink()
    assert start(tmp_path).cluster == made.cluster
    assert not (tmp_path / "cluster-kit.pem").exists()


@pytest.mark.parametrize("name", ["charter.bin", "coordinator.key"])
@pytest.mark.parametrize("damage", [b"", b"\0" * 40])
def test_damaged_files_stop_the_start_with_words(tmp_path: Path, name: str, damage: bytes) -> None:
    start(tmp_path)
    (tmp_path / name).write_bytes(damage)
    with pytest.raises(WrongDirectory):
        start(tmp_path)


def test_a_key_of_another_cluster_is_noticed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        start(tmp_path / name)
    (tmp_path / "one" / "coordinator.key").write_bytes((tmp_path / "two" / "coordinator.key").read_bytes())
    with pytest.raises(WrongDirectory, match="charter"):
        start(tmp_path / "one")


def test_what_is_no_operator_key_is_refused_with_a_next_step(tmp_path: Path) -> None:
    for content in (b"", b"holdfast operator key v1\n", b"\xff\xfe", b"a\nb\nc\n"):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(BadRequest):
            read_operator_key(tmp_path / "key")
    with pytest.raises(BadRequest, match="operator key"):
        read_operator_key(tmp_path / "nowhere")
