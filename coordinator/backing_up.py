"""A copy of the coordinator's folder while it runs, and a coordinator made from such a copy.

A backup is one tar file of mode 0600:

    backup.json        version, cluster, term, when, and the BLAKE3 of every other member
    charter.bin        the root's word on the coordinator, and the operator's public key
    coordinator.json   where it serves
    operator.key       what operators sign with, where it still lies in the folder
    catalogue.sqlite   the catalogue at one moment (SQLite's online backup)

The coordinator's own key is not in it: whoever restores has the cluster kit, whose root signs a new key with
a higher term. So a coordinator that was thought to be gone, and comes back, is followed by nobody.

The copy is older than the nodes as soon as anything happens. A restored catalogue is therefore marked as
unreconciled: heads that witnesses keep are taken over, all else is compared, and nothing is swept before.
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from blake3 import blake3

from holdfast.coordinator.catalogue import rebuilt
from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.coordinator.gathering import highest_reign
from holdfast.coordinator.identity import found_anew, read_identity, read_kit, settle_identity
from holdfast.protocol import signing
from holdfast.protocol.charter import cluster_id
from holdfast.protocol.clock import Source
from holdfast.protocol.directory import Lock, make_private, read_private, refuse_strangers, write_file
from holdfast.protocol.errors import HoldfastError, IntegrityFailure, NoRoom, Refused, WrongDirectory
from holdfast.protocol.ids import ClusterId
from holdfast.protocol.transport import Transport

__all__ = ["Backup", "Restored", "back_up", "restore"]

_VERSION: Final = 1
_NOTE: Final = "backup.json"
_SMALL: Final = ("charter.bin", "coordinator.json", "operator.key")
_CATALOGUE: Final = "catalogue.sqlite"
_SMALL_BYTES_MAX: Final = 1 << 20
_COPY_BYTES: Final = 1 << 20
_OWN: Final = (
    *(name for name in _SMALL if name != "charter.bin"),
    *("coordinator.key", _CATALOGUE, f"{_CATALOGUE}-wal", f"{_CATALOGUE}-shm", "cluster-kit.pem"),
)


@dataclass(frozen=True, slots=True)
class Backup:
    """What was written."""

    path: Path
    cluster: ClusterId
    term: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made: of which term, from a backup of when (RFC 3339), with how many nodes in it."""

    cluster: ClusterId
    term: int
    taken: str
    nodes: int


def back_up(folder: Path, output: Path, source: Source) -> Backup:
    """Copy a coordinator's folder into one file, consistently, while it runs or while it does not.

    Raises:
        WrongDirectory: no coordinator has served from the folder, or its catalogue is damaged.
        HoldfastError: the file cannot be written, or is there already. NoRoom: the disk is full.
    """
    stored = read_private(folder / "charter.bin")
    if stored is None or not (folder / _CATALOGUE).exists():
        raise WrongDirectory(f"no coordinator has served from {folder}", do="Name its folder with --dir.")
    root, _, charter = read_identity(stored)
    cluster = cluster_id(root)
    if output.exists():
        raise HoldfastError(f"{output} is there already", do="Name a file that does not exist yet.")
    copy, made = output.with_name(output.name + ".catalogue"), output.with_name(output.name + ".new")
    with _own_files(copy, made):
        _copy_catalogue(folder / _CATALOGUE, copy)
        found = {name: read_private(folder / name) for name in _SMALL}
        small = {name: content for name, content in found.items() if content is not None}
        digests = {name: blake3(content).hexdigest() for name, content in small.items()}
        digests[_CATALOGUE] = _digest_of_file(copy)
        taken = datetime.fromtimestamp(source.now_ms() / 1000, UTC).isoformat(timespec="seconds")
        note = {
            "version": _VERSION,
            "cluster": cluster.hex(),
            "term": charter.term,
            "taken": taken,
            "members": digests,
        }
        with made.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                _add(archive, _NOTE, json.dumps(note, indent=2).encode())
                for name, content in small.items():
                    _add(archive, name, content)
                archive.add(copy, _CATALOGUE, filter=_bare)
            file.flush()
            os.fsync(file.fileno())
        size_bytes = made.stat().st_size
        os.rename(made, output)
        _sync_folder(output.parent)
    return Backup(output, cluster, charter.term, size_bytes)


@contextmanager
def _own_files(*paths: Path) -> Iterator[None]:
    """Files that only exist meanwhile; what goes wrong with the disk is said in words."""
    try:
        for path in paths:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if "full" in str(error) or getattr(error, "errno", 0) == 28:
            raise NoRoom("the disk is full", do="Write the backup to another disk.") from error
        raise HoldfastError("the backup could not be written", why=str(error)) from error
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _copy_catalogue(path: Path, copy: Path) -> None:
    """SQLite's online backup in one step: one moment of the catalogue, whoever writes meanwhile.

    Raises:
        WrongDirectory: what was copied is damaged.
    """
    with (
        closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=60)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target, pages=-1)
        target.execute("PRAGMA journal_mode=DELETE")
        found = target.execute("PRAGMA quick_check").fetchone()
    if found != ("ok",):
        raise WrongDirectory(
            f"the catalogue {path} is damaged",
            why=str(found[0]),
            do="Check its disk. An earlier backup, or 'holdfast coordinator rebuild', brings it back.",
        )


def _bare(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing about the machine it was made on."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o600
    return member


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o600
    archive.addfile(member, io.BytesIO(content))


def _digest_of_file(path: Path) -> str:
    hasher = blake3()
    with path.open("rb") as file:
        while portion := file.read(_COPY_BYTES):
            hasher.update(portion)
    return hasher.hexdigest()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


async def restore(backup: Path, folder: Path, kit: Path, source: Source) -> Restored:
    """Make a coordinator's folder from a backup and the cluster kit. The charter comes last.

    Raises:
        WrongDirectory: the folder holds something, or the kit is none.
        IntegrityFailure: the backup is damaged. Refused: the kit is another cluster's.
    """
    root_key = read_kit(kit)
    root = signing.public_key(root_key)
    make_private(folder)
    with Lock(folder, "a coordinator"):
        if (folder / "charter.bin").exists():
            raise WrongDirectory(
                f"{folder} holds a coordinator already", do="Name an empty folder, or move that one away."
            )
        refuse_strangers(folder, _OWN, "a coordinator's")
        for name in (f"{_CATALOGUE}-wal", f"{_CATALOGUE}-shm"):
            (folder / name).unlink(missing_ok=True)
        note, small = _unpack(backup, folder)
        backup_root, operator, charter = read_identity(small["charter.bin"])
        cluster = cluster_id(root)
        if backup_root != root:
            raise Refused(
                "the cluster kit is another cluster's than the backup",
                why=f"the kit is of cluster {cluster.short}, the backup of {cluster_id(backup_root).short}",
            )
        catalogue = Catalogue(sqlite_url(folder / _CATALOGUE))
        try:
            rows = await catalogue.write(rebuilt.restored)
        finally:
            catalogue.close()
        async with Transport(source=source) as transport:
            met = await highest_reign(transport, [row.url for row in rows], root, cluster)
        identity = found_anew(folder, root_key, max(charter.term, met) + 1, source, operator)
        for name in ("coordinator.json", "operator.key"):
            if name in small:
                write_file(folder / name, small[name])
        settle_identity(folder, identity)
    return Restored(cluster, identity.term, str(note["taken"]), len(rows))


def _unpack(backup: Path, folder: Path) -> tuple[dict[str, object], dict[str, bytes]]:
    """The catalogue goes into the folder, everything else is given; all of it is what was written once."""
    try:
        with tarfile.open(backup, mode="r:") as archive:
            note = json.loads(_small(archive, _NOTE))
            if not isinstance(note, dict) or note.get("version") != _VERSION:
                raise WrongDirectory(f"{backup} is a backup of another version than this program reads")
            members = note["members"]
            small = {name: _small(archive, name) for name in _SMALL if name in members}
            for name, content in small.items():
                if blake3(content).hexdigest() != members[name]:
                    raise IntegrityFailure(f"{name} in the backup {backup} is damaged")
            _extract(archive, folder / _CATALOGUE)
        if _digest_of_file(folder / _CATALOGUE) != members[_CATALOGUE] or "charter.bin" not in small:
            raise IntegrityFailure(f"the catalogue in the backup {backup} is damaged")
    except (OSError, tarfile.TarError, KeyError, TypeError, ValueError) as error:
        raise IntegrityFailure(
            f"{backup} is no backup of a coordinator, or is damaged",
            why=str(error),
            do="Take another one; without any, 'holdfast coordinator rebuild' needs none.",
        ) from error
    return note, small


def _small(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.getmember(name)
    if not member.isreg() or member.size > _SMALL_BYTES_MAX:
        raise ValueError(f"{name} is not what it should be")
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{name} is not what it should be")
    return file.read()


def _extract(archive: tarfile.TarFile, path: Path) -> None:
    member = archive.getmember(_CATALOGUE)
    file = archive.extractfile(member) if member.isreg() else None
    if file is None:
        raise ValueError(f"{_CATALOGUE} is not what it should be")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as target:
        while portion := file.read(_COPY_BYTES):
            target.write(portion)
        target.flush()
        os.fsync(target.fileno())
