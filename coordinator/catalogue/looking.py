"""A coordinator's catalogue, looked at from outside: one consistent view, read only.

Works beside a running coordinator (SQLite's readers do not disturb its writer) and on a folder at rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, create_engine, select
from sqlalchemy.exc import DBAPIError

from holdfast.coordinator.catalogue.moves import Move, all_moves
from holdfast.coordinator.catalogue.nodes import NodeRow, all_groups, all_nodes
from holdfast.coordinator.catalogue.schema import accounts, chunks, erasures, heads, missing, uploads
from holdfast.coordinator.placement import Group
from holdfast.protocol.errors import NotFound, WrongDirectory
from holdfast.protocol.ids import AccountId, ChunkId, Digest, NodeId, UploadId

__all__ = ["CatalogueLook", "ChunkLook", "ErasureLook", "HeadLook", "look_at_catalogue"]


@dataclass(frozen=True, slots=True)
class ChunkLook:
    """One chunk's row. ``state``: live, trash or erasing; ``missing``: slots noted as missing."""

    account: AccountId
    chunk: ChunkId
    generation: UploadId
    group: int
    sealed_bytes: int
    stripe: Digest
    state: str
    missing: frozenset[int]


@dataclass(frozen=True, slots=True)
class HeadLook:
    """One head of an account, by the hash of what was signed."""

    account: AccountId
    seq: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class ErasureLook:
    """A shard that a node is to erase."""

    node: NodeId
    group: int
    slot: int
    account: AccountId
    chunk: ChunkId
    generation: UploadId


@dataclass(frozen=True, slots=True)
class CatalogueLook:
    """What a catalogue says at one moment.

    Attributes:
        moves: slots that are being filled, by (group, slot).
        open_uploads: what these store has no rows yet. ended_uploads: nobody stores under these any more.
    """

    nodes: dict[NodeId, NodeRow]
    groups: dict[int, Group]
    moves: dict[tuple[int, int], Move]
    chunks: list[ChunkLook]
    heads: list[HeadLook]
    erasures: list[ErasureLook]
    open_uploads: frozenset[UploadId]
    ended_uploads: frozenset[UploadId] = frozenset()


def look_at_catalogue(file: Path) -> CatalogueLook:
    """Read it in one transaction.

    Raises:
        NotFound: there is no such file. WrongDirectory: it is no catalogue, or one of another version.
    """
    if not file.exists():
        raise NotFound(f"there is no catalogue {file}")
    engine = create_engine(f"sqlite:///file:{_quoted(file)}?mode=ro&uri=true")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            return _look(connection)
    except DBAPIError as error:
        raise WrongDirectory(f"{file} cannot be read as a catalogue", why=str(error.orig)) from error
    finally:
        engine.dispose()


def _quoted(file: Path) -> str:
    from urllib.parse import quote

    return quote(str(file.absolute()))


def _look(connection: Connection) -> CatalogueLook:
    by_state: dict[bool, set[UploadId]] = {True: set(), False: set()}
    for name, state in connection.execute(select(uploads.c.id, uploads.c.state)):
        by_state[state == "open"].add(UploadId(name))
    gone: dict[tuple[int, bytes], set[int]] = {}
    for row in connection.execute(select(missing.c.account, missing.c.chunk, missing.c.slot)):
        gone.setdefault((row.account, row.chunk), set()).add(row.slot)
    owners = {
        row.number: AccountId(row.id) for row in connection.execute(select(accounts.c.number, accounts.c.id))
    }
    wanted = select(
        chunks.c.account,
        chunks.c.id,
        chunks.c.generation,
        chunks.c.group_id,
        chunks.c.sealed_bytes,
        chunks.c.stripe,
        chunks.c.state,
    )
    return CatalogueLook(
        nodes=all_nodes(connection),
        groups=all_groups(connection),
        moves=all_moves(connection),
        chunks=[
            ChunkLook(
                owners[row.account],
                ChunkId(row.id),
                UploadId(row.generation),
                row.group_id,
                row.sealed_bytes,
                Digest(row.stripe),
                row.state,
                frozenset(gone.get((row.account, row.id), ())),
            )
            for row in connection.execute(wanted)
        ],
        heads=[
            HeadLook(owners[row.account], row.seq, Digest(row.digest))
            for row in connection.execute(select(heads.c.account, heads.c.seq, heads.c.digest))
        ],
        erasures=[
            ErasureLook(
                NodeId(row.node),
                row.group_id,
                row.slot,
                AccountId(row.account),
                ChunkId(row.chunk),
                UploadId(row.generation),
            )
            for row in connection.execute(select(erasures))
        ],
        open_uploads=frozenset(by_state[True]),
        ended_uploads=frozenset(by_state[False]),
    )
