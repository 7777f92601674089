"""Looking at whole folders from outside, in processes that a damaged store may kill instead of us."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.coordinator.catalogue.looking import CatalogueLook, look_at_catalogue
from holdfast.node.store_lmdb_looking import StoreLook, look_at_store
from holdfast.protocol.directory import read_json
from holdfast.protocol.errors import HoldfastError, WrongDirectory
from holdfast.protocol.ids import NodeId

__all__ = ["Survey", "node_of", "survey"]


@dataclass(frozen=True, slots=True)
class Survey:
    """A catalogue and the stores of its nodes.

    Attributes:
        unread: stores that could not be looked at, and why.
    """

    catalogue: CatalogueLook
    stores: dict[NodeId, StoreLook]
    unread: dict[NodeId, str] = field(default_factory=dict)


def node_of(folder: Path) -> NodeId:
    """Whose folder it is.

    Raises:
        WrongDirectory: no node's.
    """
    known = read_json(folder / "node.json", 1)
    if known is None:
        raise WrongDirectory(
            f"{folder} is no node's folder", do="Name the folders that 'holdfast node run --dir' uses."
        )
    return NodeId.from_hex(known["node"])


def survey(coordinator: Path, nodes: Sequence[Path], *, verify: bool = False) -> Survey:
    """Look at a coordinator's folder and nodes' folders; each store in a process of its own.

    The catalogue is read first: what it names by then is on the nodes.

    Raises:
        NotFound, WrongDirectory: a folder is not what it should be.
    """
    folders = {node_of(folder): folder for folder in nodes}
    catalogue = look_at_catalogue(coordinator / "catalogue.sqlite")
    stores, unread = _look_at_all({node: folder / "store" for node, folder in folders.items()}, verify)
    return Survey(catalogue, stores, unread)


def _look_at_all(
    paths: Mapping[NodeId, Path], verify: bool
) -> tuple[dict[NodeId, StoreLook], dict[NodeId, str]]:
    stores: dict[NodeId, StoreLook] = {}
    unread: dict[NodeId, str] = {}
    # Not forked: this process may hold locks, threads and connections.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=context)
    try:
        for node, path in paths.items():
            try:
                stores[node] = pool.submit(look_at_store, path, verify=verify).result()
            except BrokenProcessPool:
                unread[node] = "reading it killed the process that read it"
                pool.shutdown()
                pool = ProcessPoolExecutor(1, mp_context=context)
            except HoldfastError as error:
                unread[node] = error.why or error.what
    finally:
        pool.shutdown()
    return stores, unread
