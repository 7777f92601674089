"""What nodes find bad among their own shards becomes missing rows, where the catalogue counts on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from holdfast.coordinator.catalogue.accounts import find_account
from holdfast.coordinator.catalogue.missing import Gone, note_gone
from holdfast.coordinator.placement import Group
from holdfast.protocol.ids import AccountId, NodeId
from holdfast.protocol.messages.scrub import FindingEntry

__all__ = ["note_findings"]


def note_findings(
    connection: Connection, node: NodeId, entries: Sequence[FindingEntry], groups: Mapping[int, Group]
) -> int:
    """Note a node's findings; gives how many shards are missing because of them.

    Only what the catalogue counts on: the node is the slot's present holder, and the chunk's row has that
    generation and group. A finding may come late or twice: the repair looks at what is there first.
    """
    numbers: dict[AccountId, int | None] = {}
    by_kind: dict[str, list[Gone]] = {}
    for entry in entries:
        group = groups.get(entry.group)
        if group is None or not 0 <= entry.slot < group.profile.n or group.members[entry.slot] != node:
            continue
        if entry.account not in numbers:
            row = find_account(connection, entry.account)
            numbers[entry.account] = row.number if row is not None else None
        number = numbers[entry.account]
        if number is not None:
            gone = Gone(number, entry.chunk, entry.generation, entry.group, entry.slot)
            by_kind.setdefault(entry.kind, []).append(gone)
    return sum(note_gone(connection, gone, kind) for kind, gone in by_kind.items())
