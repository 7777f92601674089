"""Whom a node follows: the highest term by the root's word, and of one term the first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.witness_nodes import WitnessNode

from holdfast.node.admission import Admission
from holdfast.node.reigning import KnownReign, Reigning, known_reign
from holdfast.protocol.charter import Charter, cluster_id
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import Refused, WrongDirectory
from holdfast.protocol.ids import NodeId
from holdfast.protocol.messages.cluster import ClusterMap
from holdfast.protocol.messages.witness import AccountsKept, ReadAccounts, Reign, Reigned
from holdfast.protocol.requests import Signer
from holdfast.protocol.signing import Signed, generate_signing_key, key_id, public_key, sign
from holdfast.protocol.transport import Transport

ROOT, OTHER_ROOT = generate_signing_key(b"r" * 32), generate_signing_key(b"o" * 32)
CLUSTER = cluster_id(public_key(ROOT))
FIRST, SECOND = generate_signing_key(b"1" * 32), generate_signing_key(b"2" * 32)
NODE = NodeId(b"n" * 16)


def reign(term: int, key: Ed25519PrivateKey, url: str = "", root: Ed25519PrivateKey = ROOT) -> KnownReign:
    charter = Charter(1, term, public_key(key))
    payload = encode(charter)
    return KnownReign(
        charter, public_key(root), Signed(payload, sign(root, "charter", CLUSTER, payload)), url
    )


class Follower:
    """A node's folder, and what it has made durable."""

    def __init__(self, folder: Path) -> None:
        self.terms: list[int] = []
        known = known_reign(folder, CLUSTER)
        self.admission = Admission(
            NODE,
            CLUSTER,
            known.charter.coordinator if known else None,
            known.charter.term if known else 0,
        )
        self.reigning = Reigning(folder, known, self.admission, self.raise_term)
        self.moved: list[str] = []
        self.reigning.moved = lambda told: self.moved.append(told.url)

    async def raise_term(self, term: int) -> None:
        self.terms.append(term)


async def test_a_higher_term_is_followed_and_a_lower_one_never_again(tmp_path: Path) -> None:
    node = Follower(tmp_path)
    assert await node.reigning.follow(reign(1, FIRST, "http://one"))
    assert await node.reigning.follow(reign(2, SECOND))
    assert not await node.reigning.follow(reign(1, FIRST, "http://one"))
    assert (node.admission.coordinator, node.admission.term) == (public_key(SECOND), 2)
    again = Follower(tmp_path)
    assert not await again.reigning.follow(reign(1, FIRST)), "not after a restart either"
    assert again.admission.coordinator == public_key(SECOND)


async def test_of_two_coordinators_of_one_term_the_first_counts(tmp_path: Path) -> None:
    node = Follower(tmp_path)
    assert await node.reigning.follow(reign(3, FIRST))
    assert not await node.reigning.follow(reign(3, SECOND))
    assert node.admission.coordinator == public_key(FIRST)


async def test_where_it_serves_is_remembered_until_it_serves_elsewhere(tmp_path: Path) -> None:
    node = Follower(tmp_path)
    await node.reigning.follow(reign(1, FIRST, "http://one"))
    await node.reigning.follow(reign(1, FIRST))  # it says nothing new
    assert node.moved[-1] == "http://one"
    await node.reigning.follow(reign(1, FIRST, "http://two"))
    found = known_reign(tmp_path, CLUSTER)
    assert found is not None and found.url == "http://two"


async def test_the_term_is_durable_before_anything_is_followed(tmp_path: Path) -> None:
    node = Follower(tmp_path)

    async def dies(term: int) -> None:
        raise OSError("the disk is gone")

    await node.reigning.follow(reign(1, FIRST))
    broken = Reigning(tmp_path, node.reigning.known, node.admission, dies)
    with pytest.raises(OSError, match="gone"):
        await broken.follow(reign(2, SECOND))
    assert node.admission.coordinator == public_key(FIRST)


def test_a_charter_of_another_root_in_the_folder_is_refused(tmp_path: Path) -> None:
    import json

    told = reign(1, FIRST, root=OTHER_ROOT)
    (tmp_path / "charter.json").write_text(
        json.dumps(
            {
                "version": 1,
                "term": 1,
                "coordinator": told.charter.coordinator.hex(),
                "root": told.root.hex(),
                "charter": encode(told.signed).hex(),
                "url": "",
            }
        )
    )
    with pytest.raises(WrongDirectory):
        known_reign(tmp_path, CLUSTER)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[WitnessNode, Transport]]:
    """A node that listens, and somebody who asks it."""
    node = WitnessNode(1, CLUSTER, tmp_path / "node", SYSTEM)
    await node.start()
    async with Transport() as transport:
        yield node, transport
    await node.stop()


async def tell(
    served: tuple[WitnessNode, Transport], told: KnownReign, key: Ed25519PrivateKey, **more: object
) -> Reigned:
    node, transport = served
    message = Reign(root=told.root, charter=told.signed, url=told.url, map=more.get("map"))  # type: ignore[arg-type]
    signer = Signer("coordinator", b"", key_id(public_key(key)), key, CLUSTER)
    return await transport.call(
        "POST", node.url, "/v1/reign", message, answer=Reigned, signer=signer, receiver=node.id
    )


def signed_map(term: int, epoch: int, key: Ed25519PrivateKey) -> Signed:
    payload = encode(ClusterMap(1, term, epoch, [], []))
    return Signed(payload, sign(key, "map", CLUSTER, payload))


async def test_a_coordinator_whose_term_is_over_is_shown_the_newer_charter(
    served: tuple[WitnessNode, Transport],
) -> None:
    assert (await tell(served, reign(1, FIRST), FIRST)).term == 1
    assert (await tell(served, reign(2, SECOND), SECOND)).term == 2
    answer = await tell(served, reign(1, FIRST), FIRST)
    assert answer.term == 2 and answer.charter == reign(2, SECOND).signed
    node, transport = served
    old = Signer("coordinator", b"", key_id(public_key(FIRST)), FIRST, CLUSTER)
    with pytest.raises(Refused) as refused:
        await transport.call(
            "POST",
            node.url,
            "/v1/kept/accounts",
            ReadAccounts(after=b""),
            answer=AccountsKept,
            signer=old,
            receiver=node.id,
        )
    assert refused.value.details["term"] == 2


async def test_nobody_reigns_without_the_root_s_word_or_with_somebody_else_s_charter(
    served: tuple[WitnessNode, Transport],
) -> None:
    with pytest.raises(Refused):
        await tell(served, reign(9, FIRST, root=OTHER_ROOT), FIRST)
    with pytest.raises(Refused):
        await tell(served, reign(9, FIRST), SECOND)
    node, _ = served
    assert node.reigning is not None and node.reigning.known is None


async def test_the_newest_map_is_kept_and_an_older_one_does_not_take_its_place(
    served: tuple[WitnessNode, Transport],
) -> None:
    node, _ = served
    await tell(served, reign(1, FIRST), FIRST, map=signed_map(1, 7, FIRST))
    await tell(served, reign(1, FIRST), FIRST, map=signed_map(1, 6, FIRST))
    assert node.store is not None
    kept = node.store.map()
    assert kept is not None and kept.map == signed_map(1, 7, FIRST)
    await tell(served, reign(2, SECOND), SECOND, map=signed_map(2, 1, SECOND))
    kept = node.store.map()
    assert kept is not None and kept.charter == reign(2, SECOND).signed
    with pytest.raises(Refused):  # a map that somebody else signed
        await tell(served, reign(2, SECOND), SECOND, map=signed_map(2, 9, FIRST))
