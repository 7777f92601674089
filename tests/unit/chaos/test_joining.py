"""Catalogue and stores joined: every way in which they may differ is told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.cluster.joining import Joined, join
from holdfast.coordinator.catalogue.looking import CatalogueLook, ChunkLook, ErasureLook
from holdfast.coordinator.catalogue.moves import Move
from holdfast.coordinator.catalogue.nodes import NodeRow
from holdfast.coordinator.placement import Group
from holdfast.node.store import ShardKey
from holdfast.node.store_lmdb_looking import StoreLook
from holdfast.protocol.ids import AccountId, ChunkId, Digest, NodeId, PublicKey, StoreId, UploadId
from holdfast.protocol.profiles import Profile

NODES = [NodeId(bytes([number]) * 16) for number in range(1, 6)]
ACCOUNT, UPLOAD = AccountId(b"a" * 32), UploadId(b"u" * 16)
GROUP = Group(1, 1, Profile(2, 1), "usual", tuple(NODES[:3]))


def chunk(number: int, *, state: str = "live", missing: frozenset[int] = frozenset()) -> ChunkLook:
    name = bytes([number]) * 32
    return ChunkLook(ACCOUNT, ChunkId(name), UPLOAD, 1, 1000, Digest(name), state, missing)


def key(number: int, slot: int, generation: UploadId = UPLOAD) -> bytes:
    return ShardKey(1, slot, ACCOUNT, ChunkId(bytes([number]) * 32), generation).pack()


def catalogue(*chunks: ChunkLook, group: Group = GROUP, **more: object) -> CatalogueLook:
    rows = {
        node: NodeRow(node, PublicKey(b"k" * 32), "http://127.0.0.1:1", "", 0, StoreId(b"s" * 16))
        for node in NODES
    }
    made = CatalogueLook(rows, {1: group}, {}, list(chunks), [], [], frozenset())
    return replace(made, **more)  # type: ignore[arg-type]


def stores(*numbers: int) -> dict[NodeId, StoreLook]:
    """The three members with all shards of these chunks."""
    return {NODES[slot]: StoreLook(frozenset(key(number, slot) for number in numbers)) for slot in range(3)}


def without(found: dict[NodeId, StoreLook], slot: int, number: int) -> dict[NodeId, StoreLook]:
    lacking = found[NODES[slot]]
    return {**found, NODES[slot]: replace(lacking, shards=lacking.shards - {key(number, slot)})}


def clean(joined: Joined) -> bool:
    return not (
        joined.unnoted or joined.orphans or joined.crowded or joined.returned or joined.strange_stripes
    )


def test_all_there_is_all_well() -> None:
    joined = join(catalogue(chunk(1), chunk(2)), stores(1, 2))
    assert clean(joined) and not joined.short
    assert joined.fewest is not None and joined.fewest.spare == 1


def test_a_shard_that_is_gone_is_unnoted_until_the_catalogue_notes_it() -> None:
    found = without(stores(1), 2, 1)
    joined = join(catalogue(chunk(1)), found)
    assert [shard.node for shard in joined.unnoted] == [NODES[2]] and len(joined.short) == 1
    noted = join(catalogue(chunk(1, missing=frozenset({2}))), found)
    assert not noted.unnoted and len(noted.short) == 1 and not noted.unreadable


def test_a_damaged_shard_is_as_good_as_gone() -> None:
    found = stores(1)
    found[NODES[0]] = replace(found[NODES[0]], damaged={key(1, 0): "flipped"})
    joined = join(catalogue(chunk(1)), found)
    assert joined.unnoted[0].why == "flipped" and joined.stripes[0].good == {1, 2}


def test_two_nodes_away_make_a_stripe_unreadable_and_nothing_unnoted() -> None:
    joined = join(catalogue(chunk(1)), stores(1), away=NODES[:2])
    assert len(joined.unreadable) == 1 and not joined.unnoted
    assert joined.fewest is not None and joined.fewest.spare == -1


def test_what_was_noted_and_is_there_again_is_told_and_no_harm() -> None:
    joined = join(catalogue(chunk(1, missing=frozenset({0}))), stores(1))
    assert len(joined.returned) == 1 and not joined.short


def test_a_slot_that_is_being_filled_counts_with_either_holder() -> None:
    move = Move(1, 1, 2, NODES[3], 1, "lost", (0, b""), 0, 0, 0)
    found = without(stores(1), 2, 1)
    joined = join(catalogue(chunk(1), moves={(1, 2): move}), found)
    assert not joined.unnoted and len(joined.short) == 1
    found[NODES[3]] = StoreLook(frozenset({key(1, 2)}))
    assert not join(catalogue(chunk(1), moves={(1, 2): move}), found).short


@pytest.mark.parametrize("named_by", ["row", "upload", "order", "mark", ""])
def test_an_orphan_is_what_nothing_names(named_by: str) -> None:
    other = UploadId(b"o" * 16)
    packed = key(9, 0, other)
    found = stores(1)
    found[NODES[0]] = replace(
        found[NODES[0]],
        shards=found[NODES[0]].shards | {packed},
        marked=frozenset({packed} if named_by == "mark" else ()),
    )
    order = ErasureLook(NODES[0], 1, 0, ACCOUNT, ChunkId(bytes([9]) * 32), other)
    made = catalogue(
        chunk(1),
        *([replace(chunk(9, state="trash"), generation=other)] if named_by == "row" else []),
        erasures=[order] if named_by == "order" else [],
        open_uploads=frozenset({other} if named_by == "upload" else ()),
    )
    assert len(join(made, found).orphans) == (0 if named_by else 1)


def test_a_former_holder_s_shards_are_orphans_once_the_group_is_whole() -> None:
    found = stores(1)
    found[NODES[3]] = StoreLook(frozenset({key(1, 2)}))
    assert [shard.node for shard in join(catalogue(chunk(1)), found).orphans] == [NODES[3]]
    lacking = catalogue(chunk(1), chunk(2, missing=frozenset({0})))
    assert not join(lacking, found).orphans, "it may still be needed"
    fallback = replace(GROUP, kind="fallback")
    assert not join(catalogue(chunk(1), group=fallback), found).orphans


def test_what_was_encoded_anew_leaves_orphans_once_the_new_group_is_whole() -> None:
    found = stores(1)
    before = ShardKey(2, 0, ACCOUNT, ChunkId(bytes([1]) * 32), UPLOAD).pack()
    found[NODES[4]] = StoreLook(frozenset({before}))
    assert [shard.node for shard in join(catalogue(chunk(1)), found).orphans] == [NODES[4]]
    assert not join(catalogue(chunk(1), chunk(2, missing=frozenset({0}))), found).orphans


def test_trash_is_no_stripe_and_no_orphan() -> None:
    joined = join(catalogue(chunk(1, state="trash")), stores(1))
    assert not joined.stripes and not joined.orphans


def test_two_slots_on_one_node_are_told() -> None:
    group = replace(GROUP, members=(NODES[0], NODES[1], NODES[0]))
    assert "two slots on one node" in join(catalogue(group=group), {}).crowded[0]


def test_a_zone_above_its_share_is_told_where_zones_suffice() -> None:
    zoned = catalogue()
    for number, node in enumerate(NODES):
        zoned.nodes[node] = replace(zoned.nodes[node], zone="ab"[number >= 2] if number < 4 else "c")
    # Three zones and m = 1: one slot each; nodes 1 and 2 are in the same.
    assert "zone 'a'" in join(zoned, {}).crowded[0]


def test_a_record_of_another_stripe_is_strange() -> None:
    found = stores(1)
    found[NODES[1]].stripes[key(1, 1)] = Digest(b"x" * 32)
    assert len(join(catalogue(chunk(1)), found).strange_stripes) == 1
