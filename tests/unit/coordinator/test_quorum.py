"""Nothing counts as stored before enough nodes have signed for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.coordinator.placement import Group
from holdfast.coordinator.quorum import durable_stripes, open_receipts
from holdfast.protocol.errors import GroupMoved, NoQuorum, NotFound, Refused
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, NodeId, StoreId, UploadId
from holdfast.protocol.messages.uploads import CommitChunk
from holdfast.protocol.profiles import Profile
from holdfast.protocol.receipts import Receipt, ReceiptEntry, encode_receipt
from holdfast.protocol.signing import Signed, generate_signing_key, node_id, public_key, sign

CLUSTER = ClusterId(b"c" * 32)
ACCOUNT = AccountId(b"a" * 32)
UPLOAD = UploadId(b"u" * 16)
CHUNK = ChunkId(b"k" * 32)
PROFILE = Profile(4, 2)
KEYS = [generate_signing_key(bytes([i]) * 32) for i in range(1, 9)]
NODES = [node_id(public_key(key)) for key in KEYS]
GROUP = Group(7, 3, PROFILE, "usual", tuple(NODES[:6]))
DIGESTS = b"".join(bytes([slot]) * 32 for slot in range(6))
PUBLIC = {node: public_key(key) for node, key in zip(NODES, KEYS, strict=True)}


@dataclass
class Said:
    """What a node's receipt says; by default all is right."""

    slot: int
    node: int = -1
    account: AccountId = ACCOUNT
    upload: UploadId = UPLOAD
    generation: UploadId = UPLOAD
    term: int = 1
    group: int = 7
    version: int = 3
    chunk: ChunkId = CHUNK
    digest: bytes = b""
    said_slot: int = field(default=-1)

    def signed(self) -> Signed:
        who = self.node if self.node >= 0 else self.slot
        slot = self.said_slot if self.said_slot >= 0 else self.slot
        digest = self.digest or DIGESTS[32 * self.slot : 32 * self.slot + 32]
        entry = ReceiptEntry(self.chunk, self.generation, slot, digest)  # type: ignore[arg-type]
        payload = encode_receipt(
            Receipt(
                1,
                NODES[who],
                self.account,
                self.upload,
                self.term,
                self.group,
                self.version,
                1,
                StoreId(b"s" * 16),
                1,
                [entry],
            )
        )
        return Signed(payload, sign(KEYS[who], "receipt", CLUSTER, payload))


def chunk(**changed: object) -> CommitChunk:
    return replace_of(CommitChunk(CHUNK, 7, 3, 1000, DIGESTS, b""), **changed)


def replace_of(row: CommitChunk, **changed: object) -> CommitChunk:
    import msgspec

    return msgspec.structs.replace(row, **changed)  # type: ignore[type-var]


def judged(*said: Said, commit: CommitChunk | None = None) -> frozenset[int]:
    receipts = open_receipts(
        [one.signed() for one in said], PUBLIC, cluster=CLUSTER, account=ACCOUNT, upload=UPLOAD, term=1
    )
    (stripe,) = durable_stripes([commit or chunk()], receipts, {7: GROUP}, UPLOAD)
    return stripe.durable


def test_a_quorum_of_honest_receipts_counts_and_the_rest_is_missing() -> None:
    assert judged(*[Said(slot) for slot in range(6)]) == frozenset(range(6))
    assert judged(*[Said(slot) for slot in (0, 1, 2, 4, 5)]) == {0, 1, 2, 4, 5}


def test_one_short_of_the_quorum_is_nothing() -> None:
    with pytest.raises(NoQuorum) as caught:
        judged(*[Said(slot) for slot in range(4)])
    assert caught.value.details["chunks"] == [CHUNK.hex()]


@pytest.mark.parametrize(
    "wrong",
    [
        Said(5, generation=UploadId(b"x" * 16)),
        Said(5, group=8),
        Said(5, version=2),
        Said(5, chunk=ChunkId(b"x" * 32)),
        Said(5, digest=b"x" * 32),
        Said(5, said_slot=4),
        Said(5, node=6),
        Said(4, node=4),
    ],
    ids=["generation", "group", "old version", "chunk", "digest", "slot", "not a member", "twice the same"],
)
def test_a_receipt_for_anything_else_does_not_count(wrong: Said) -> None:
    with pytest.raises(NoQuorum):
        judged(*[Said(slot) for slot in (0, 1, 2, 4)], wrong)


@pytest.mark.parametrize(
    "wrong",
    [Said(5, account=AccountId(b"x" * 32)), Said(5, upload=UploadId(b"x" * 16)), Said(5, term=2)],
    ids=["account", "upload", "term"],
)
def test_a_receipt_of_another_account_upload_or_term_is_refused_outright(wrong: Said) -> None:
    with pytest.raises(Refused):
        judged(*[Said(slot) for slot in range(6)], wrong)


def test_a_node_outside_the_cluster_and_a_forged_signature_are_refused() -> None:
    honest = [Said(slot).signed() for slot in range(6)]
    rest = {"cluster": CLUSTER, "account": ACCOUNT, "upload": UPLOAD, "term": 1}
    with pytest.raises(Refused):
        open_receipts(honest, {node: PUBLIC[node] for node in NODES[1:]}, **rest)  # type: ignore[arg-type]
    forged = Signed(honest[0].payload, honest[1].signature)
    with pytest.raises(Refused):
        open_receipts([forged], PUBLIC, **rest)  # type: ignore[arg-type]


def test_a_group_that_moved_or_never_was() -> None:
    with pytest.raises(GroupMoved):
        judged(*[Said(slot) for slot in range(6)], commit=chunk(group_version=2))
    with pytest.raises(NotFound):
        judged(*[Said(slot) for slot in range(6)], commit=chunk(group=8))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Said,
            slot=st.integers(0, 5),
            node=st.integers(0, 7),
            version=st.sampled_from([3, 3, 3, 2]),
            generation=st.sampled_from([UPLOAD, UPLOAD, UploadId(b"x" * 16)]),
            digest=st.sampled_from([b"", b"", b"x" * 32]),
        ),
        max_size=10,
    )
)
def test_whatever_receipts_come_stored_means_a_quorum_of_distinct_right_ones(said: list[Said]) -> None:
    # A node that signs for two versions of a group within one commit is not believed for either.
    versions: dict[int, set[int]] = {}
    for one in said:
        versions.setdefault(one.node, set()).add(one.version)
    right = {
        one.slot
        for one in said
        if one.node == one.slot and one.generation == UPLOAD and not one.digest and versions[one.node] == {3}
    }
    try:
        durable = judged(*said)
    except NoQuorum:
        assert len(right) < PROFILE.write_quorum
    else:
        assert len(durable) >= PROFILE.write_quorum
        honest = {
            one.slot for one in said if one.node == one.slot and one.generation == UPLOAD and not one.digest
        }
        assert durable <= honest


@given(st.builds(Profile, st.integers(1, 60), st.integers(1, 60)))
def test_a_quorum_outlives_the_loss_of_half_the_parity(profile: Profile) -> None:
    assert profile.write_quorum - profile.m // 2 >= profile.k + profile.m % 2
    assert profile.k < profile.write_quorum <= profile.n


def test_said_defaults_are_right() -> None:
    assert replace(Said(1)).slot == 1
    assert NodeId(NODES[0]) in GROUP.members
