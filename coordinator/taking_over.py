"""What a node keeps of a newer catalogue than this one: nodes that joined, device lists, heads.

A copy of the catalogue knows nobody who came after it. Without their nodes the shards of stripes written
since would look like leftovers of which too few are left; without their device lists new devices would be
locked out, removed ones let in again, and heads that rest on a newer list could not be verified. So before
a node is compared with an old catalogue it is read; nothing is believed that does not prove itself
(coordinator/gathering.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from holdfast.coordinator.catalogue.adopted import adopt_newer
from holdfast.coordinator.catching_up import catch_up
from holdfast.coordinator.gathering import Kept, read_kept
from holdfast.coordinator.reigning import take_in
from holdfast.protocol.accounts import open_device_list
from holdfast.protocol.errors import StoreFailed
from holdfast.protocol.ids import NodeId

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = ["take_over"]

_log = structlog.get_logger()


async def take_over(desk: Desk, node: NodeId) -> None:
    """Read one node and take over what is newer. Again is fine.

    One whose head store does not work has nothing to tell; others keep the same.

    Raises:
        HoldfastError: it does not tell now.
    """
    row = desk.live.nodes.get(node)
    if row is None:
        return
    identity, kept = desk.identity, Kept()
    try:
        await read_kept(desk.calls, row, identity.root, identity.cluster, kept)
    except StoreFailed as error:
        _log.info("a node does not tell what it keeps", node=node.short, why=str(error))
    if kept.map is not None:
        await take_in(desk, kept.map)
    for account, facts in kept.facts.items():
        # The turn of the account: while its heads are read nobody posts one.
        async with desk.witnessing.turn(account):
            newer = await desk.catalogue.write(lambda c, f=facts: adopt_newer(c, f))  # type: ignore[misc]
            if newer is not None:
                desk.live.remember_devices(open_device_list(newer.device_list, identity.cluster))
                _log.warning("an account was newer than the catalogue", account=account.short)
            await catch_up(desk, account, [node])
