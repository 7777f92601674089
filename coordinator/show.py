"""What operators see of a cluster, at 80 columns and as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from holdfast.protocol.messages.admin import ClusterStatus, Moving, NodeStatus, RepairStatus
from holdfast.protocol.messages.compact import Compacted
from holdfast.protocol.messages.scrub import QuarantineShown, Scrubbed
from holdfast.protocol.terminal import Output, human_bytes, human_count

__all__ = [
    "repair_summary",
    "show_compacted",
    "show_moving",
    "show_nodes",
    "show_quarantine",
    "show_repair",
    "show_scrubbed",
    "show_status",
    "shown_state",
]


_WAITING_SHOWN = 20


def shown_state(node: NodeStatus) -> str:
    """One word: what the cluster intends with a node where that matters more than whether it is up."""
    return node.state if node.standing == "joined" else node.standing


def repair_summary(repair: RepairStatus) -> dict[str, Any]:
    """For machine-readable output; ``eta_s`` is None when it is not known."""
    return {
        "queued": repair.queued,
        "queued_bytes": repair.queued_bytes,
        "running": repair.running,
        "done": repair.done,
        "done_bytes": repair.done_bytes,
        "bytes_per_s": repair.bytes_per_s,
        "eta_s": repair.eta_s if repair.eta_s >= 0 else None,
        "waiting": repair.waiting,
        "moves": [
            {
                "group": move.group,
                "slot": move.slot,
                "node": move.node.hex(),
                "old": move.old.hex() if move.old is not None else None,
                "why": move.why,
                "left_shards": move.left_shards,
                "filled_shards": move.filled_shards,
            }
            for move in repair.moves
        ],
    }


def _length(seconds: int) -> str:
    return f"{seconds} s" if seconds < 60 else f"{-(-seconds // 60)} min"


def _show_repair(output: Output, told: ClusterStatus) -> None:
    repair = told.repair
    if repair.queued or repair.moves or repair.waiting:
        left = f", {_length(repair.eta_s)} left" if repair.queued and repair.eta_s >= 0 else ""
        output.say(
            f"Repair: {human_count(repair.queued, 'shard')} to bring back{left}; "
            f"{human_count(len(repair.moves), 'slot')} moving, {len(repair.waiting)} waiting for a node"
        )
        output.say()


def _show_inventory(output: Output, told: ClusterStatus) -> None:
    """Only what an operator should know: the catalogue is old, or there is what nobody knows."""
    inventory = told.inventory
    if inventory.unreconciled:
        output.say("The catalogue is older than what the nodes have seen, and is being compared with them.")
        output.say("Nothing is swept or erased before that is done.")
        if inventory.waiting:
            names = ", ".join(node.short for node in inventory.waiting)
            output.say(
                f"Still to be compared: {names}. Start those that are down, or wait until they are lost."
            )
        output.say()
    elif inventory.strays:
        many = human_count(inventory.strays, "shard")
        output.say(f"{many} of stripes that the catalogue does not know lie on nodes; they are kept for now.")
        output.say()


def _inventory(told: ClusterStatus) -> dict[str, Any]:
    inventory = told.inventory
    return {
        "unreconciled": inventory.unreconciled,
        "waiting": [node.hex() for node in inventory.waiting],
        "strays": inventory.strays,
        "adopted": inventory.adopted,
        "erasing": inventory.erasing,
    }


def show_repair(output: Output, told: ClusterStatus) -> None:
    """What is being brought back, slot by slot."""
    repair = told.repair
    output.say(told.sentence)
    left = f", {_length(repair.eta_s)} left" if repair.queued and repair.eta_s >= 0 else ""
    rate = f" at {human_bytes(repair.bytes_per_s)}/s" if repair.bytes_per_s else ""
    output.say(
        f"{human_count(repair.queued, 'shard')} to bring back{left}; "
        f"{human_count(repair.done, 'shard')} brought back since the start{rate}"
    )
    if repair.moves:
        output.say()
        output.say(f"{'group':>7}{'slot':>6}  {'from':<10}{'to':<10}{'why':<11}{'filled':>10}{'left':>10}")
    for move in repair.moves:
        old = move.old.short if move.old is not None else "-"
        output.say(
            f"{move.group:>7}{move.slot:>6}  {old:<10}{move.node.short:<10}{move.why:<11}"
            f"{move.filled_shards:>10,}{move.left_shards:>10,}"
        )
    if repair.waiting:
        output.say()
        output.say("Waiting for a node that is up, has room, and holds no slot of the same group:")
        for waiting in repair.waiting[:_WAITING_SHOWN]:
            output.say(f"    {waiting}")
        if len(repair.waiting) > _WAITING_SHOWN:
            output.say(f"    and {len(repair.waiting) - _WAITING_SHOWN:,} more")
    output.summary(verdict=told.verdict, sentence=told.sentence, repair=repair_summary(repair))


def show_nodes(output: Output, told: ClusterStatus) -> None:
    """Every node, whole ids."""
    for node in told.nodes:
        output.say(f"{node.id.hex()}  {shown_state(node)}, store {node.store_state}, zone {node.zone or '-'}")
        output.say(
            f"    {node.url}  {human_bytes(node.used_bytes)} of {human_bytes(node.capacity_bytes)}"
            f" (file {human_bytes(node.file_bytes)}), "
            f"{human_count(node.shards, 'shard')}, {human_count(node.slots, 'slot')}"
            + (f", {node.quarantined:,} in quarantine" if node.quarantined else "")
            + (f", compacting {node.compacting} %" if node.compacting >= 0 else "")
        )
        if node.trouble:
            output.say(f"    {node.trouble}")
    output.summary(nodes=[_node(node) for node in told.nodes])


def show_moving(output: Output, told: Moving, what: str, dry_run: bool) -> None:
    """What an operation moves."""
    time = f"in about {_length(told.seconds)}"
    if not told.is_measured:
        time += f", were it {human_bytes(told.bytes_per_s)}/s (nothing was measured yet)"
    verb = "would move" if dry_run else "moves"
    if told.slots:
        output.say(f"{what} {verb} {human_count(told.slots, 'slot')} with {human_bytes(told.moved_bytes)}")
        output.say(f"{time}.")
        output.say(
            f"Meanwhile every stripe of them can lose {human_count(told.smallest_spare, 'more node')}."
            if told.smallest_spare >= 0
            else "Some stripes of them cannot be read until nodes return; moving changes nothing about that."
        )
    elif told.stuck:
        output.say(f"{what}: nothing can move now.")
    else:
        output.say(f"{what}.")
    if told.stuck:
        output.say(
            f"{human_count(told.stuck, 'slot waits', 'slots wait')} for a node that can take "
            f"{'it' if told.stuck == 1 else 'them'}."
        )
    output.summary(
        dry_run=dry_run,
        node=told.node,
        slots=told.slots,
        moved_bytes=told.moved_bytes,
        seconds=told.seconds,
        bytes_per_s=told.bytes_per_s,
        is_measured=told.is_measured,
        smallest_spare=told.smallest_spare,
        stuck=told.stuck,
    )


def show_scrubbed(output: Output, node: str, told: Scrubbed) -> None:
    """How a node's scrub stands."""
    verb = "is rereading" if told.running else "has reread"
    output.say(
        f"Node {node} {verb} its shards: {human_count(told.shards, 'shard')} "
        f"({human_bytes(told.read_bytes)}) so far, {told.found:,} of them bad."
    )
    if told.unreported:
        output.say(f"{told.unreported:,} bad ones are still to be told to the coordinator.")
    if told.running:
        output.note("'holdfast admin nodes' shows what is kept aside; --wait waits for the end.")
    output.summary(
        node=node,
        running=told.running,
        started_ms=told.started_ms,
        ended_ms=told.ended_ms,
        shards=told.shards,
        read_bytes=told.read_bytes,
        found=told.found,
        quarantined=told.quarantined,
        unreported=told.unreported,
    )


def show_compacted(output: Output, node: str, told: Compacted) -> None:
    """How much room a node's store gave back to its disk, or could."""
    if told.running:
        output.say(f"Node {node} is compacting its store.")
        output.note("'holdfast admin nodes' shows how far it is; --wait waits for the end.")
    elif told.ended_ms:
        output.say(
            f"Node {node} gave {human_bytes(told.given_back_bytes)} back to its disk; "
            f"its store takes {human_bytes(told.file_bytes)} now."
        )
    output.summary(
        node=node,
        running=told.running,
        copied_bytes=told.copied_bytes,
        total_bytes=told.total_bytes,
        file_bytes=told.file_bytes,
        free_bytes=told.free_bytes,
        given_back_bytes=told.given_back_bytes,
        ended_ms=told.ended_ms,
        trouble=told.trouble,
    )


def show_quarantine(output: Output, told: QuarantineShown) -> None:
    """Every damaged shard that is kept aside, oldest first."""
    for node in told.nodes:
        for entry in node.entries:
            when = datetime.fromtimestamp(entry.at_ms / 1000, UTC).isoformat(timespec="seconds")
            output.say(
                f"{node.node.short}  {when}  chunk {entry.chunk.short}  group {entry.group} "
                f"slot {entry.slot}  {human_bytes(entry.stored_bytes)}"
            )
            output.status(
                node=node.node.hex(),
                number=entry.number,
                time=when,
                group=entry.group,
                slot=entry.slot,
                account=entry.account.hex(),
                chunk=entry.chunk.hex(),
                generation=entry.generation.hex(),
                stored_bytes=entry.stored_bytes,
            )
        if node.error:
            output.say(f"{node.node.short}  could not be asked: {node.error}")
        elif len(node.entries) < node.total or node.dropped:
            output.say(
                f"{node.node.short}  keeps {node.total:,} in all; {node.dropped:,} made room for newer ones"
            )
    total = sum(node.total for node in told.nodes)
    output.say(f"{human_count(total, 'damaged shard')} kept aside.")
    output.summary(
        total=total,
        kept_bytes=sum(node.kept_bytes for node in told.nodes),
        dropped=sum(node.dropped for node in told.nodes),
        not_asked=[node.node.hex() for node in told.nodes if node.error],
    )


def _show_stripes(output: Output, told: ClusterStatus) -> None:
    """How many nodes stripes can lose: now, and (where there are zones) after losing the worst one."""
    rows = [("now", told.stripes.by_spare)]
    if len({node.zone for node in told.nodes}) > 1:
        rows.append(("after losing the worst zone", told.stripes.after_worst_zone))
    kinds = sorted({int(spare) for _, counts in rows for spare in counts})
    names = ["unreadable" if spare < 0 else f"{spare} more" for spare in kinds]
    output.say(f"{'stripes that can lose':<28}" + "".join(f"{name:>12}" for name in names))
    for name, counts in rows:
        output.say(f"{name:<28}" + "".join(f"{counts.get(str(spare), 0):>12,}" for spare in kinds))


def show_status(output: Output, told: ClusterStatus) -> None:
    """The verdict first, then stripes by spare shards, then every node."""
    output.say(told.sentence)
    output.say()
    _show_stripes(output, told)
    output.say(
        f"{human_bytes(told.stored_bytes)} sealed, {human_count(told.accounts, 'account')}, "
        f"{human_count(told.open_uploads, 'open upload')}"
    )
    output.say()
    _show_repair(output, told)
    _show_inventory(output, told)
    output.say(
        f"{'node':<10}{'state':<12}{'store':<9}{'zone':<12}{'used':>10}{'capacity':>11}  {'shards':>9}"
    )
    for node in told.nodes:
        output.say(
            f"{node.id.short:<10}{shown_state(node):<12}{node.store_state:<9}{node.zone[:11] or '-':<12}"
            f"{human_bytes(node.used_bytes):>10}{human_bytes(node.capacity_bytes):>11}  {node.shards:>9,}"
        )
    output.summary(
        verdict=told.verdict,
        sentence=told.sentence,
        term=told.term,
        epoch=told.epoch,
        accounts=told.accounts,
        chunks=told.chunks,
        stored_bytes=told.stored_bytes,
        open_uploads=told.open_uploads,
        stripes=told.stripes.shown(),
        repair=repair_summary(told.repair),
        inventory=_inventory(told),
        nodes=[_node(node) for node in told.nodes],
    )


def _node(node: NodeStatus) -> dict[str, Any]:
    return {
        "id": node.id.hex(),
        "url": node.url,
        "zone": node.zone,
        "state": node.state,
        "standing": node.standing,
        "store_state": node.store_state,
        "used_bytes": node.used_bytes,
        "capacity_bytes": node.capacity_bytes,
        "shards": node.shards,
        "slots": node.slots,
        "quarantined": node.quarantined,
        "scrubbed_ms": node.scrubbed_ms,
        "trouble": node.trouble,
        "file_bytes": node.file_bytes,
        "compacting": node.compacting if node.compacting >= 0 else None,
        "compared_ms": node.compared_ms,
    }
