"""Rows of a rebuilt catalogue: the fuller of two stripes counts, and what is missing is noted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from support.coordinator_service import Person, chunk_id

from holdfast.coordinator.adopting import FoundStripe
from holdfast.coordinator.catalogue.adopted import adopt_account
from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.coordinator.catalogue.erasures import is_unreconciled
from holdfast.coordinator.catalogue.nodes import NodeRow, all_groups, all_nodes, epoch
from holdfast.coordinator.catalogue.rebuilt import add_stripes, finish_rebuild, put_cluster
from holdfast.coordinator.catalogue.schema import accounts, chunks, missing
from holdfast.coordinator.placement import Group
from holdfast.protocol.ids import AccountId, ClusterId, NodeId, PublicKey, StoreId, UploadId
from holdfast.protocol.messages.witness import AccountFacts
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import digest_of

PROFILE = Profile(4, 2)
NODES = [NodeId(bytes([number]) * 16) for number in range(1, 7)]
MEMBERS = {7: NODES, 9: NODES[::-1]}
ADA = Person("ada", ClusterId(b"c" * 32))


def stripe(
    chunk: int, group: int, slots: range, *, generation: int = 1, account: AccountId = ADA.account
) -> FoundStripe:
    """A stripe of which these slots lie where they should."""
    where = {slot: frozenset([MEMBERS[group][slot]]) for slot in slots}
    upload = UploadId(bytes([generation]) * 16)
    digest = digest_of(bytes([chunk, group, generation]))
    return FoundStripe(account, chunk_id(chunk), upload, group, PROFILE, 1000, digest, where)


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    made = Catalogue(sqlite_url(tmp_path / "catalogue.sqlite"))
    rows = [
        NodeRow(node, PublicKey(bytes([node[0]]) * 32), f"http://{node[0]}", "zone", 0, StoreId(bytes(16)))
        for node in NODES
    ]
    groups = [Group(number, 3, PROFILE, "usual", tuple(members)) for number, members in MEMBERS.items()]
    made.write_now(lambda c: put_cluster(c, rows, groups, (1, 40), 1))
    facts = AccountFacts(1, 1, ADA.account, ADA.listed, 10**9, 5)
    made.write_now(lambda c: adopt_account(c, facts))
    yield made
    made.close()


def add(catalogue: Catalogue, *found: FoundStripe) -> tuple[int, int]:
    return catalogue.write_now(lambda c: add_stripes(c, list(found), MEMBERS))


def test_nodes_groups_and_the_epoch_go_on_and_nothing_is_swept(catalogue: Catalogue) -> None:
    assert set(catalogue.read_now(all_nodes)) == set(NODES)
    groups = catalogue.read_now(all_groups)
    assert {number: list(group.members) for number, group in groups.items()} == MEMBERS
    assert groups[7].version == 3 and catalogue.read_now(epoch) == 41
    assert catalogue.read_now(is_unreconciled)


def test_a_row_for_each_stripe_live_pinned_and_with_what_is_missing(catalogue: Catalogue) -> None:
    assert add(catalogue, stripe(1, 7, range(6)), stripe(2, 9, range(1, 6))) == (2, 0)
    rows = catalogue.read_now(lambda c: c.execute(select(chunks).order_by(chunks.c.group_id)).all())
    assert [(row.group_id, row.pin, row.state) for row in rows] == [(7, 5, "live"), (9, 5, "live")]
    gone = catalogue.read_now(lambda c: c.execute(select(missing)).all())
    assert [(bytes(row.chunk), row.slot) for row in gone] == [(chunk_id(2), 0)]
    catalogue.write_now(finish_rebuild)
    assert catalogue.read_now(lambda c: c.execute(select(accounts.c.used_bytes)).scalar()) == 2000


@pytest.mark.parametrize("fuller_first", [True, False])
def test_of_two_stripes_of_one_chunk_the_fuller_counts_in_whatever_order_they_are_found(
    catalogue: Catalogue, fuller_first: bool
) -> None:
    full, bare = stripe(1, 9, range(5), generation=2), stripe(1, 7, range(4), generation=1)
    for one in (full, bare) if fuller_first else (bare, full):
        add(catalogue, one)
    rows = catalogue.read_now(lambda c: c.execute(select(chunks)).all())
    assert [(row.group_id, bytes(row.generation)) for row in rows] == [(9, full.generation)]
    gone = catalogue.read_now(lambda c: c.execute(select(missing)).all())
    assert [(row.group_id, row.slot) for row in gone] == [(9, 5)]


def test_shards_on_a_node_that_is_not_the_slot_s_holder_count_as_missing_there(catalogue: Catalogue) -> None:
    moved = FoundStripe(
        ADA.account,
        chunk_id(1),
        UploadId(bytes(16)),
        7,
        PROFILE,
        1000,
        digest_of(b"x"),
        {slot: frozenset([NODES[5 - slot]]) for slot in range(6)},
    )
    add(catalogue, moved)
    gone = catalogue.read_now(lambda c: c.execute(select(missing.c.slot)).scalars().all())
    assert sorted(gone) == [0, 1, 2, 3, 4, 5]


def test_stripes_of_accounts_that_nobody_knows_are_counted_and_left_alone(catalogue: Catalogue) -> None:
    foreign = stripe(1, 7, range(6), account=AccountId(b"x" * 32))
    assert add(catalogue, foreign, stripe(2, 7, range(6))) == (1, 1)


def test_a_stripe_that_one_node_made_up_has_no_row(catalogue: Catalogue) -> None:
    """It could never be read; the verdict would speak of lost stripes for ever, and nothing be swept."""
    true = stripe(1, 7, range(6))
    made_up = FoundStripe(
        ADA.account,
        chunk_id(2),
        UploadId(bytes([9]) * 16),
        7,
        PROFILE,
        1000,
        digest_of(b"a lie"),
        {slot: frozenset([NODES[0]]) for slot in range(6)},
    )
    assert add(catalogue, true, made_up) == (1, 0)
    rows = catalogue.read_now(lambda c: c.execute(select(chunks.c.id)).scalars().all())
    assert rows == [bytes(chunk_id(1))]
