"""A node that an operator lets go while others were about to give it something, or to ask it something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.coordinator_service import Office, upload_id
from support.stored_cluster import stored_cluster

from holdfast.coordinator.catalogue.moves import assign_slot
from holdfast.coordinator.catalogue.nodes import add_groups, all_groups, remove_node
from holdfast.coordinator.erasing import send_orders
from holdfast.coordinator.reconciling import keep_reconciled
from holdfast.protocol.errors import Conflict, GroupMoved
from holdfast.protocol.messages.admin import Moving, SetStanding
from holdfast.protocol.profiles import Profile


async def test_a_node_that_was_just_given_a_slot_is_not_let_go(
    desk_office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's request was admitted by what the coordinator had in memory before the slot was given."""
    members = [node.id for node in await desk_office.nodes(7)]
    desk = desk_office.desk
    given = (tuple(members[1:7]),)
    desk.catalogue.write_now(lambda c: add_groups(c, Profile(4, 2), "usual", given))
    assert not desk.live.groups, "nobody has read it anew yet"
    message = SetStanding(node=members[1].hex(), standing="removed", dry_run=False)
    with pytest.raises(Conflict, match="holds slots"):
        await desk_office.call("POST", "/v1/admin/standing", message, Moving, desk_office.operator)
    message = SetStanding(node=members[0].hex(), standing="removed", dry_run=False)
    await desk_office.call("POST", "/v1/admin/standing", message, Moving, desk_office.operator)
    assert members[0] not in desk.live.nodes and members[1] in desk.live.nodes


async def test_nothing_is_given_to_a_node_that_was_let_go(desk_office: Office) -> None:
    members = [node.id for node in await desk_office.nodes(7)]
    catalogue = desk_office.desk.catalogue
    catalogue.write_now(lambda c: add_groups(c, Profile(4, 2), "usual", [tuple(members[1:7])]))
    (group,) = catalogue.read_now(all_groups).values()
    catalogue.write_now(lambda c: remove_node(c, members[0]))
    with pytest.raises(GroupMoved):
        catalogue.write_now(lambda c: assign_slot(c, group, 0, members[0], "drain", 0))
    catalogue.write_now(lambda c: add_groups(c, Profile(4, 2), "usual", [tuple(members[0:6])]))
    assert list(catalogue.read_now(all_groups)) == [group.id]


async def test_turns_that_were_about_to_ask_it_end_no_background_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stored_cluster(tmp_path, 6) as cluster:
        upload = upload_id()
        lease = await cluster.open(upload)
        await cluster.put(lease, upload, [1])
        await cluster.office.end(cluster.person, upload)
        await cluster.reconcile()
        assert cluster.to_erase() == 6
        live, write = cluster.desk.live, cluster.desk.catalogue.write

        async def let_go_first(command: Any) -> Any:
            live.nodes = {}
            return await write(command)

        everybody = live.nodes
        monkeypatch.setattr(cluster.desk.catalogue, "write", let_go_first)
        await send_orders(cluster.desk)
        live.nodes = everybody
        for known in cluster.desk.reconciling.compared.values():
            known.due_s = 0.0
        await keep_reconciled(cluster.desk)
