"""A node that only a map names is taken in; and until all is compared nothing is swept."""

from __future__ import annotations

from typing import Any

import pytest
from support.witness_nodes import WitnessNode, beat

from holdfast.coordinator import reconciling
from holdfast.coordinator.catalogue.adopted import adopt_map
from holdfast.coordinator.catalogue.erasures import is_unreconciled, set_unreconciled
from holdfast.coordinator.catalogue.inventories import note_proven
from holdfast.coordinator.catalogue.nodes import map_made_of, set_map_made_of
from holdfast.coordinator.keeping_membership import keep_membership
from holdfast.coordinator.reigning import take_in
from holdfast.coordinator.taking_over import take_over
from holdfast.coordinator.telling import tell_nodes
from holdfast.protocol.messages.cluster import ClusterMap, MapNode
from holdfast.protocol.signing import generate_signing_key, node_id, public_key

KEY = public_key(generate_signing_key(bytes([77]) * 32))
STRANGER = MapNode(node_id(KEY), KEY, "http://127.0.0.1:1", "zone")


def naming(term: int, epoch: int) -> ClusterMap:
    return ClusterMap(1, term, epoch, [STRANGER], [])


async def test_whoever_keeps_the_map_that_is_known_tells_no_news(
    coordinator: Any, nodes: list[WitnessNode]
) -> None:
    """Each node of an old catalogue is read before it is compared: that must not change the map each time."""
    desk = coordinator.desk
    await tell_nodes(desk, 60.0)
    before = desk.live.epoch
    for node in nodes:
        await take_over(desk, node.id)
        await tell_nodes(desk, 60.0)
    assert desk.live.epoch == before


async def test_a_round_that_ends_while_a_node_is_taken_in_goes_on(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = coordinator.desk
    desk.catalogue.write_now(lambda c: set_unreconciled(c, True))
    reconciling.begin_round(desk, is_old=True)
    adopt = reconciling._adopt

    async def meanwhile(desk: Any, may_free: bool) -> int:
        waiting = await adopt(desk, may_free)
        await take_in(desk, naming(1, desk.live.epoch + 5))
        return waiting

    monkeypatch.setattr(reconciling, "_adopt", meanwhile)
    await reconciling._finish(desk, desk.reconciling.since_s)
    assert STRANGER.id in desk.live.nodes
    assert desk.catalogue.read_now(is_unreconciled) and STRANGER.id in reconciling.uncompared(desk)


async def test_nor_does_it_end_in_the_moment_in_which_the_catalogue_learns_of_one(
    coordinator: Any, nodes: list[WitnessNode]
) -> None:
    desk = coordinator.desk
    compared = frozenset(desk.live.nodes)
    desk.catalogue.write_now(lambda c: adopt_map(c, naming(1, desk.live.epoch + 5), 1))
    assert not desk.catalogue.write_now(lambda c: note_proven(c, compared))
    assert desk.catalogue.read_now(is_unreconciled)


async def test_it_is_waited_for_as_long_as_a_node_that_was_there_from_the_beginning(
    coordinator: Any, nodes: list[WitnessNode]
) -> None:
    desk = coordinator.desk
    desk.live.started_s -= desk.live.health.lost_after_s + 1
    await take_in(desk, naming(1, desk.live.epoch + 5))
    beat(desk, nodes)
    await keep_membership(desk)
    assert desk.live.nodes[STRANGER.id].state == "joined"
    assert STRANGER.id in reconciling.uncompared(desk)
    desk.live.met_s[STRANGER.id] -= desk.live.health.lost_after_s + 1
    await keep_membership(desk)
    assert desk.live.nodes[STRANGER.id].state == "lost"


@pytest.mark.parametrize(
    ("term", "epoch", "is_taken_in"),
    [
        (1, 12, False),  # contained in what the catalogue was made of
        (2, 12, False),
        (1, 20, True),  # a copy was restored as term 2: another history
        (2, 13, True),
        (3, 1, True),
    ],
)
async def test_a_rebuilt_catalogue_passes_over_what_it_was_made_of_and_nothing_else(
    coordinator: Any, nodes: list[WitnessNode], term: int, epoch: int, is_taken_in: bool
) -> None:
    desk = coordinator.desk
    desk.catalogue.write_now(lambda c: set_map_made_of(c, 2, 12))
    assert desk.catalogue.read_now(map_made_of) == (2, 12)
    await take_in(desk, naming(term, epoch))
    assert (STRANGER.id in desk.live.nodes) is is_taken_in
    assert desk.catalogue.read_now(is_unreconciled) is is_taken_in
