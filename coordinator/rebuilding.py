"""A coordinator whose folder is gone, made again from the cluster kit and what lies on the nodes.

In order: the kit signs a charter with a higher term and a new key; every node that answers is told, and
follows nobody else from then on; then they tell what they keep, and the new catalogue is filled with it.
The charter is written into the folder last: what died before is begun anew, under a higher term still.

Of everything the highest valid number counts. What was trash is live again, of two stripes of one chunk
the fuller counts, invites and tokens are void, and nothing is swept until all was compared with the nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from holdfast.coordinator.adopting import plan_groups, plan_holders
from holdfast.coordinator.catalogue import rebuilt
from holdfast.coordinator.catalogue.adopted import NO_STORE, adopt_account, adopt_heads
from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.coordinator.catalogue.nodes import NodeRow
from holdfast.coordinator.catching_up import Devices, choose_heads, read_heads, read_records
from holdfast.coordinator.gathering import (
    Kept,
    find_node,
    highest_reign,
    read_kept,
    read_stripes,
    read_sums,
    slot_counts,
)
from holdfast.coordinator.identity import CoordinatorIdentity, found_anew, read_kit, settle_identity
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.placement import Group
from holdfast.protocol import signing
from holdfast.protocol.accounts import SnapshotList
from holdfast.protocol.charter import Charter, cluster_id, open_charter
from holdfast.protocol.clock import Source
from holdfast.protocol.codec import decode
from holdfast.protocol.directory import Lock, make_private, refuse_strangers
from holdfast.protocol.errors import HoldfastError, Refused, Unreachable, WrongDirectory
from holdfast.protocol.ids import AccountId, ClusterId, NodeId, SnapshotId
from holdfast.protocol.messages.witness import AccountFacts, KeptHead, Reign, Reigned
from holdfast.protocol.terminal import human_count
from holdfast.protocol.transport import Transport

__all__ = ["Rebuilt", "rebuild"]

_log = structlog.get_logger()
_OWN = (
    "coordinator.key",
    "operator.seed",
    "catalogue.sqlite",
    "catalogue.sqlite-wal",
    "catalogue.sqlite-shm",
)


@dataclass(slots=True)
class Rebuilt:
    """What a rebuild found.

    Attributes:
        silent: nodes that did not answer, or not tell what lies on them.
        nameless: stripes of accounts that no node knows.
        unplaced: shards of groups that too few of these nodes can hold: others are not known of.
    """

    term: int
    nodes: int = 0
    silent: list[NodeId] = field(default_factory=list)
    groups: int = 0
    accounts: int = 0
    heads: int = 0
    chunks: int = 0
    nameless: int = 0
    unplaced: int = 0


async def rebuild(
    kit: Path, folder: Path, urls: Sequence[str], source: Source, say: Callable[[str], None]
) -> Rebuilt:
    """Make a coordinator's folder again. See the module.

    Args:
        urls: of nodes; those that they know of are found by themselves.
        say: told in words what is done.

    Raises:
        Unreachable: no node answers. Refused: a node of another cluster; or one that follows a higher term.
        WrongDirectory: the folder holds something.
    """
    root_key = read_kit(kit)
    root = signing.public_key(root_key)
    cluster = cluster_id(root)
    make_private(folder)
    with Lock(folder, "a coordinator"):
        if (folder / "charter.bin").exists():
            raise WrongDirectory(
                f"{folder} holds a coordinator already",
                do="Start it ('holdfast coordinator run'), or name an empty folder.",
            )
        refuse_strangers(folder, (*_OWN, "cluster-kit.pem"), "a coordinator's")
        for name in _OWN:
            (folder / name).unlink(missing_ok=True)
        async with Transport(source=source) as transport:
            found = await _find(transport, urls, cluster)
            before = await highest_reign(transport, [row.url for row in found.values()], root, cluster)
            identity = found_anew(folder, root_key, before + 1, source)
            calls = NodeCalls(transport, identity)
            kept = Kept()
            answering = await _take_over(transport, calls, identity, found, kept, say)
            made = Rebuilt(identity.term, nodes=len(answering))
            catalogue = Catalogue(sqlite_url(folder / "catalogue.sqlite"))
            try:
                await _fill(catalogue, calls, identity, answering, kept, made, source.now_ms(), say)
            finally:
                catalogue.close()
        settle_identity(folder, identity)
    return made


async def _find(transport: Transport, urls: Sequence[str], cluster: ClusterId) -> dict[NodeId, NodeRow]:
    """Nodes at these URLs; one that does not answer is left out, as long as one does."""
    found: dict[NodeId, NodeRow] = {}
    silent: HoldfastError | None = None
    for url in dict.fromkeys(urls):
        try:
            row = await find_node(transport, url, cluster)
        except Unreachable as error:
            silent = error
            _log.warning("a node does not answer", url=url, why=str(error))
            continue
        found[row.id] = row
    if not found:
        raise Unreachable(
            "no node answers",
            why=silent.what if silent is not None else "no URL was given",
            do="Start the nodes, and give the URL of at least one with --node.",
        )
    return found


async def _take_over(
    transport: Transport,
    calls: NodeCalls,
    identity: CoordinatorIdentity,
    found: Mapping[NodeId, NodeRow],
    kept: Kept,
    say: Callable[[str], None],
) -> dict[NodeId, NodeRow]:
    """Have every node follow the new charter, then read what it keeps; nodes in their maps are found so."""
    answering: dict[NodeId, NodeRow] = {}
    waiting, seen = list(found.values()), set(found)
    while waiting:
        node = waiting.pop()
        try:
            followed = await _reign(calls, identity, node)
        except HoldfastError as error:
            _log.warning("a node does not say whom it follows", node=node.id.short, why=str(error))
            continue
        if followed is None or followed.coordinator != identity.public:
            if followed is not None and followed.term >= identity.term:
                raise _reigned_by(node, followed, identity)
            _log.warning("a node does not follow this coordinator", node=node.id.short)
            continue
        try:
            await read_kept(calls, node, identity.root, identity.cluster, kept)
        except HoldfastError as error:  # others keep it too; what lies on it counts all the same
            _log.warning("a node does not tell what it keeps", node=node.id.short, why=str(error))
        answering[node.id] = node
        say(f"Node {node.id.short} at {node.url} follows term {identity.term}.")
        for known in kept.map.nodes if kept.map is not None else []:
            if known.id in seen:
                continue
            seen.add(known.id)
            try:
                row = await find_node(transport, known.url, identity.cluster)
            except HoldfastError as error:
                _log.warning("a node of the map does not answer", node=known.id.short, why=str(error))
                continue
            if row.id == known.id:
                waiting.append(row)
    return answering


async def _reign(calls: NodeCalls, identity: CoordinatorIdentity, node: NodeRow) -> Charter | None:
    """Whom the node follows, by the root's word, now that it has been told. Raises HoldfastError."""
    message = Reign(root=identity.root, charter=identity.charter, url="", map=None)
    answer = await calls.ask(node, "POST", "/v1/reign", message, Reigned)
    return open_charter(identity.root, answer.charter, identity.cluster) if answer.charter else None


def _reigned_by(node: NodeRow, followed: Charter, identity: CoordinatorIdentity) -> Refused:
    """The root has named another one since. Only such proof stops a rebuild, never a node's mere word."""
    return Refused(
        f"node {node.id.short} follows term {followed.term}, and would not follow {identity.term}",
        why="another coordinator was restored or rebuilt meanwhile",
        do="Run the rebuild again if that one is gone too.",
    )


async def _fill(
    catalogue: Catalogue,
    calls: NodeCalls,
    identity: CoordinatorIdentity,
    answering: Mapping[NodeId, NodeRow],
    kept: Kept,
    made: Rebuilt,
    now_ms: int,
    say: Callable[[str], None],
) -> None:
    rows = dict(answering)
    for known in kept.map.nodes if kept.map is not None else []:
        if known.id in rows:
            rows[known.id] = replace(rows[known.id], zone=known.zone)
        else:
            rows[known.id] = NodeRow(known.id, known.key, known.url, known.zone, 0, NO_STORE)
            made.silent.append(known.id)
    sums: dict[NodeId, dict[tuple[int, int], int]] = {}
    for node, row in answering.items():
        try:
            sums[node] = await read_sums(calls, row)
        except HoldfastError as error:  # its shards are out of reach for now
            say(f"Node {node.short} does not tell what lies on it: {error.what}.")
            made.silent.append(node)
    groups = await _groups(calls, sums, answering, rows, kept)
    made_of = (kept.map.term, kept.map.epoch) if kept.map is not None else (0, 0)
    await catalogue.write(lambda c: rebuilt.put_cluster(c, rows.values(), groups.values(), made_of, now_ms))
    made.groups = len(groups)
    made.unplaced = sum(
        count for slots in sums.values() for (group, _), count in slots.items() if group not in groups
    )
    for account, facts in kept.facts.items():
        made.accounts += 1
        made.heads += await _fill_account(catalogue, calls, identity, kept.keepers[account], facts)
    found = f"{human_count(made.accounts, 'account')} with {human_count(made.heads, 'head')}"
    say(f"Found {found}. Reading what lies on the nodes ...")
    members = {number: group.members for number, group in groups.items()}
    for number in sorted(groups):
        holders = [
            (answering[node], slot)
            for node, slots in sums.items()
            for (group, slot) in slots
            if group == number
        ]
        async for portion in read_stripes(calls, number, holders):
            fitting = [stripe for stripe in portion if stripe.profile == groups[number].profile]
            added, nameless = await catalogue.write(
                lambda c, p=fitting: rebuilt.add_stripes(c, p, members)  # type: ignore[misc]
            )
            made.chunks += added
            made.nameless += nameless
    await catalogue.write(rebuilt.finish_rebuild)


async def _groups(
    calls: NodeCalls,
    sums: Mapping[NodeId, Mapping[tuple[int, int], int]],
    answering: Mapping[NodeId, NodeRow],
    rows: Mapping[NodeId, NodeRow],
    kept: Kept,
) -> dict[int, Group]:
    """Groups as the newest map has them; what it does not know, or moved since, by what lies where."""
    found: dict[int, Group] = {}
    for each in kept.map.groups if kept.map is not None else []:
        found[each.id] = Group(each.id, each.version + 1, each.profile, "usual", tuple(each.members))
    unknown = {
        node: {place: count for place, count in slots.items() if place[0] not in found}
        for node, slots in sums.items()
    }
    for planned in plan_groups(await slot_counts(calls, unknown, answering), set(rows)):
        found[planned.id] = Group(planned.id, 1, planned.profile, "usual", planned.members)
    for number, slot, node in plan_holders(found.values(), (), sums):
        members = list(found[number].members)
        if members[slot] in sums:  # a silent holder keeps its slot, whatever lies elsewhere
            members[slot] = node
            found[number] = replace(found[number], members=tuple(members))
    # Groups for want of nodes are narrower than the usual ones; they are encoded anew in time.
    widest = max((group.profile.n for group in found.values()), default=0)
    return {
        number: group if group.profile.n == widest else replace(group, kind="fallback")
        for number, group in found.items()
    }


async def _fill_account(
    catalogue: Catalogue,
    calls: NodeCalls,
    identity: CoordinatorIdentity,
    keepers: Sequence[NodeRow],
    facts: AccountFacts,
) -> int:
    """One account with its heads and records; gives how many heads."""
    account: AccountId = facts.account
    found: dict[NodeId, list[KeptHead]] = {}
    for node in keepers:
        try:
            found[node.id] = await read_heads(calls, node, account, 0)
        except HoldfastError as error:  # the other witnesses keep them too
            _log.warning("a node does not tell its heads", node=node.id.short, why=str(error))
    chain = choose_heads(found, Devices.of(facts.device_list, identity.cluster), identity.cluster)
    wanted = {snapshot for kept in chain for snapshot in decode(kept.snapshot_list, SnapshotList).snapshots}
    records: dict[SnapshotId, bytes] = {}
    for node in keepers:
        lacking = wanted - records.keys()
        if lacking and node.id in found:
            records |= await read_records(calls, node, account, lacking)
    row = await catalogue.write(lambda c: adopt_account(c, facts))
    await catalogue.write(lambda c: adopt_heads(c, row, chain, records))
    if wanted - records.keys():
        _log.warning(
            "records of snapshots were not found", account=account.short, count=len(wanted - records.keys())
        )
    return len(chain)
