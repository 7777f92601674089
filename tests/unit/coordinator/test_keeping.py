"""Backups of a coordinator, restores under a new term, and which heads of several histories count."""

from __future__ import annotations

import asyncio
import tarfile
from pathlib import Path

import pytest
from support.coordinator_service import HandClock, Office, Person, office, snapshot, upload_id

from holdfast.coordinator.backing_up import back_up, restore
from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.coordinator.catalogue.erasures import is_unreconciled
from holdfast.coordinator.catching_up import Devices, choose_heads
from holdfast.coordinator.identity import load_or_make
from holdfast.coordinator.reigning import require_reign
from holdfast.protocol.accounts import NO_DIGEST, Head, signed_digest
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import (
    HoldfastError,
    IntegrityFailure,
    Refused,
    Superseded,
    WrongDirectory,
)
from holdfast.protocol.ids import NodeId
from holdfast.protocol.messages.heads import PostHead
from holdfast.protocol.messages.witness import KeptHead


def node(number: int) -> NodeId:
    return NodeId(bytes([number]) * 16)


# Which heads count


def history(desk: Office, person: Person, length: int, *, after: PostHead | None = None) -> list[PostHead]:
    """So many heads, one behind the other."""
    made: list[PostHead] = []
    for _ in range(length):
        before = made[-1] if made else after
        seq = 1 if before is None else _seq(before) + 1
        message = desk.head(
            person, upload_id(), [], seq=seq, previous=before.head if before is not None else None
        )
        made.append(message)
    return made


def _seq(message: PostHead) -> int:
    return decode(message.head.payload, Head).seq


def kept(messages: list[PostHead]) -> list[KeptHead]:
    return [KeptHead(1, message.head, message.snapshot_list) for message in messages]


async def test_the_longest_history_that_is_whole_counts_and_liars_change_nothing(desk_office: Office) -> None:
    ada, eve = Person("ada", desk_office.cluster), Person("eve", desk_office.cluster)
    devices = Devices.of(ada.listed, desk_office.cluster)
    real = kept(history(desk_office, ada, 5))
    foreign = kept(history(desk_office, eve, 9))
    found = {node(1): real[:3], node(2): real, node(3): [*foreign, *real[:1]]}
    assert choose_heads(found, devices, desk_office.cluster) == real
    first = (1, signed_digest(real[0].head))
    assert choose_heads(found, devices, desk_office.cluster, first) == real[1:]
    assert choose_heads({node(1): foreign}, devices, desk_office.cluster) == []


async def test_a_history_with_a_gap_gives_way_to_a_shorter_whole_one(desk_office: Office) -> None:
    ada = Person("ada", desk_office.cluster)
    devices = Devices.of(ada.listed, desk_office.cluster)
    real = kept(history(desk_office, ada, 5))
    assert choose_heads({node(1): [*real[:2], *real[3:]]}, devices, desk_office.cluster) == real[:2]
    spread = {node(1): real[:2], node(2): real[2:3], node(3): real[3:]}
    assert choose_heads(spread, devices, desk_office.cluster) == real, "together they have all of it"


async def test_of_two_heads_under_one_number_the_one_more_nodes_keep_counts(desk_office: Office) -> None:
    ada = Person("ada", desk_office.cluster)
    devices = Devices.of(ada.listed, desk_office.cluster)
    common = history(desk_office, ada, 2)
    one = desk_office.head(ada, upload_id(), [], seq=3, previous=common[-1].head)
    name, _ = snapshot(1)
    other = desk_office.head(ada, upload_id(), [name], seq=3, previous=common[-1].head)
    found = {
        node(1): kept([*common, one]),
        node(2): kept([*common, other]),
        node(3): kept([*common, other]),
    }
    assert choose_heads(found, devices, desk_office.cluster) == kept([*common, other])


async def test_heads_behind_one_that_nobody_links_to_are_none(desk_office: Office) -> None:
    ada = Person("ada", desk_office.cluster)
    devices = Devices.of(ada.listed, desk_office.cluster)
    real = kept(history(desk_office, ada, 3))
    assert choose_heads({node(1): real}, devices, desk_office.cluster, (2, NO_DIGEST)) == []
    assert choose_heads({}, devices, desk_office.cluster) == []


# Backups


async def test_a_backup_of_a_catalogue_that_is_written_meanwhile_is_of_one_moment(tmp_path: Path) -> None:
    folder, copy = tmp_path / "coordinator", tmp_path / "copy"
    async with office(folder) as desk:
        writing = True

        async def write() -> int:
            count = 0
            while writing:
                await desk.person(f"somebody {count}")
                count += 1
            return count

        task = asyncio.create_task(write())
        made = await asyncio.to_thread(back_up, folder, copy, SYSTEM)
        writing = False
        assert await task > 0
        assert made.term == 1 and copy.stat().st_mode & 0o777 == 0o600
        assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("copy")] == ["copy"]
    with tarfile.open(copy) as archive:
        assert "coordinator.key" not in archive.getnames(), "whoever restores signs a new one"
    with pytest.raises(HoldfastError):
        back_up(folder, copy, SYSTEM)
    with pytest.raises(WrongDirectory):
        back_up(tmp_path, tmp_path / "other", SYSTEM)


async def test_a_restored_coordinator_has_a_new_key_a_higher_term_and_everything_else(tmp_path: Path) -> None:
    folder, copy, target = tmp_path / "coordinator", tmp_path / "copy", tmp_path / "restored"
    async with office(folder) as desk:
        ada = await desk.person("ada")
        unused = desk.token("invite")
        before = desk.desk.identity
    back_up(folder, copy, SYSTEM)
    made = await restore(copy, target, folder / "cluster-kit.pem", SYSTEM)
    assert (made.term, made.cluster) == (2, before.cluster)
    identity, fresh = load_or_make(target, SYSTEM)
    assert not fresh and identity.term == 2 and identity.operator == before.operator
    assert identity.public != before.public
    async with office(target, HandClock()) as again:
        assert (await again.account_state(ada)).account == ada.account
        assert again.desk.catalogue.read_now(is_unreconciled)
        with pytest.raises(Refused):  # it may have been used since the backup
            await again.register(Person("bob", again.cluster), unused)
    with pytest.raises(WrongDirectory):
        await restore(copy, target, folder / "cluster-kit.pem", SYSTEM)
    third = await restore(copy, tmp_path / "third", folder / "cluster-kit.pem", SYSTEM)
    assert third.term == 2, "no node was there to tell of the other one"


async def test_a_restore_that_died_is_begun_anew_and_a_half_restored_folder_serves_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, copy, target = tmp_path / "coordinator", tmp_path / "copy", tmp_path / "restored"
    async with office(folder) as desk:
        await desk.person("ada")
    back_up(folder, copy, SYSTEM)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("holdfast.coordinator.backing_up.settle_identity", dies)
    with pytest.raises(KeyboardInterrupt):
        await restore(copy, target, folder / "cluster-kit.pem", SYSTEM)
    monkeypatch.undo()
    assert not (target / "charter.bin").exists()
    made = await restore(copy, target, folder / "cluster-kit.pem", SYSTEM)
    assert made.term == 2
    catalogue = Catalogue(sqlite_url(target / "catalogue.sqlite"))
    catalogue.close()


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
async def test_a_damaged_backup_is_refused_before_anything_serves(tmp_path: Path, at: float) -> None:
    folder, copy = tmp_path / "coordinator", tmp_path / "copy"
    async with office(folder) as desk:
        await desk.person("ada")
    back_up(folder, copy, SYSTEM)
    raw = bytearray(copy.read_bytes())
    with tarfile.open(copy) as archive:
        member = archive.getmember("catalogue.sqlite")
    raw[member.offset_data + int(at * member.size)] ^= 1
    copy.write_bytes(raw)
    with pytest.raises(IntegrityFailure):
        await restore(copy, tmp_path / "restored", folder / "cluster-kit.pem", SYSTEM)
    assert not (tmp_path / "restored" / "charter.bin").exists()
    copy.write_bytes(raw[: len(raw) // 3])
    with pytest.raises(IntegrityFailure):
        await restore(copy, tmp_path / "restored", folder / "cluster-kit.pem", SYSTEM)


async def test_another_cluster_s_kit_and_no_kit_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        async with office(tmp_path / name):
            pass
    back_up(tmp_path / "one", tmp_path / "copy", SYSTEM)
    with pytest.raises(Refused):
        await restore(tmp_path / "copy", tmp_path / "target", tmp_path / "two" / "cluster-kit.pem", SYSTEM)
    with pytest.raises(WrongDirectory):
        await restore(tmp_path / "copy", tmp_path / "target", tmp_path / "nothing", SYSTEM)
    with pytest.raises(WrongDirectory):
        await restore(tmp_path / "copy", tmp_path / "target", tmp_path / "copy", SYSTEM)


# A term that is over


async def test_a_superseded_coordinator_answers_what_is_read_and_refuses_all_else(
    desk_office: Office,
) -> None:
    ada = await desk_office.person("ada")
    invite = desk_office.token("invite")
    desk_office.desk.reigning.superseded = 7
    assert (await desk_office.account_state(ada)).account == ada.account
    assert (await desk_office.heads(ada)).head is None
    with pytest.raises(Superseded) as refused:
        await desk_office.open(ada, upload_id())
    assert refused.value.details["term"] == 7
    with pytest.raises(Superseded):
        await desk_office.register(Person("bob", desk_office.cluster), invite)
    with pytest.raises(Superseded):
        require_reign(desk_office.desk)
