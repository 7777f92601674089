"""reedsolo defines the code: every kernel gives its bytes, in every direction."""

from __future__ import annotations

import os
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reedsolo import RSCodec

from holdfast.protocol import erasure
from holdfast.protocol.erasure.isal import isal_kernels
from holdfast.protocol.erasure.kernel import Kernel
from holdfast.protocol.erasure.portable import PortableKernel
from holdfast.protocol.errors import BadRequest, TooFewShards
from holdfast.protocol.profiles import Profile

KERNELS: list[Kernel] = [PortableKernel(), *isal_kernels()]
each_kernel = pytest.mark.parametrize("use", KERNELS, ids=lambda kernel: kernel.name)
profiles = st.builds(Profile, st.integers(1, 20), st.integers(1, 10))
extreme = pytest.mark.parametrize(
    "profile", [Profile(1, 1), Profile(100, 20), Profile(1, 254), Profile(254, 1), Profile(128, 127)], ids=str
)


def by_reedsolo(profile: Profile, sealed: bytes) -> list[bytes]:
    """The stripe as reedsolo makes it, column by column."""
    length = profile.shard_bytes(len(sealed))
    padded = sealed.ljust(profile.k * length, b"\0")
    data = [padded[i * length : (i + 1) * length] for i in range(profile.k)]
    codec = RSCodec(profile.m, nsize=profile.n)
    words = [bytes(codec.encode(bytes(column))) for column in zip(*data, strict=True)]
    return [bytes(word[slot] for word in words) for slot in range(profile.n)]


def plain(shards: list[bytes | memoryview]) -> list[bytes]:
    return [bytes(shard) for shard in shards]


def test_both_kernels_are_here() -> None:
    assert len(KERNELS) >= 2, "no ISA-L on this machine: the wheel of pyeclib should have brought one"


@each_kernel
@settings(max_examples=60, deadline=None)
@given(profile=profiles, sealed=st.binary(min_size=1, max_size=300))
def test_every_kernel_gives_reedsolo_s_codewords(use: Kernel, profile: Profile, sealed: bytes) -> None:
    assert plain(erasure.encode(profile, sealed, use=use)) == by_reedsolo(profile, sealed)


@each_kernel
@extreme
def test_extreme_profiles_give_reedsolo_s_codewords(use: Kernel, profile: Profile) -> None:
    sealed = os.urandom(3 * profile.k + 1)
    assert plain(erasure.encode(profile, sealed, use=use)) == by_reedsolo(profile, sealed)


@settings(max_examples=15, deadline=None)
@given(profile=profiles, length=st.integers(500_000, 1_100_000))
def test_kernels_agree_on_large_chunks(profile: Profile, length: int) -> None:
    sealed = os.urandom(length)
    made = [plain(erasure.encode(profile, sealed, use=use)) for use in KERNELS]
    assert all(one == made[0] for one in made)


@each_kernel
@pytest.mark.parametrize("profile", [Profile(4, 2), Profile(10, 4)], ids=str)
def test_every_loss_pattern_is_survived(use: Kernel, profile: Profile) -> None:
    sealed = os.urandom(profile.k * 5 + 3)
    shards = plain(erasure.encode(profile, sealed, use=use))
    patterns = 0
    for count in range(profile.m + 1):
        for lost in combinations(range(profile.n), count):
            kept = {slot: shards[slot] for slot in range(profile.n) if slot not in lost}
            assert erasure.decode(profile, kept, len(sealed), use=use) == sealed
            made = erasure.rebuild(profile, kept, lost, use=use)
            assert made == {slot: shards[slot] for slot in lost}
            patterns += 1
    assert patterns == {6: 22, 14: 1471}[profile.n]


@each_kernel
@settings(max_examples=60, deadline=None)
@given(data=st.data(), profile=profiles, sealed=st.binary(min_size=1, max_size=500))
def test_any_k_of_n_give_the_chunk_and_every_shard_back(
    use: Kernel, data: st.DataObject, profile: Profile, sealed: bytes
) -> None:
    shards = plain(erasure.encode(profile, sealed, use=use))
    slots = data.draw(st.permutations(range(profile.n)))[: profile.k]
    kept = {slot: shards[slot] for slot in slots}
    assert erasure.decode(profile, kept, len(sealed), use=use) == sealed
    rebuilt = erasure.rebuild(profile, kept, range(profile.n), use=use)
    assert [rebuilt[slot] for slot in range(profile.n)] == shards


@each_kernel
@settings(max_examples=40, deadline=None)
@given(profile=profiles, sizes=st.lists(st.integers(1, 70_000), min_size=1, max_size=12))
def test_chunks_coded_together_come_out_as_coded_alone(
    use: Kernel, profile: Profile, sizes: list[int]
) -> None:
    chunks = [os.urandom(size) for size in sizes]
    together = erasure.encode_many(profile, chunks, use=use)
    assert [plain(stripe) for stripe in together] == [
        plain(erasure.encode(profile, chunk, use=use)) for chunk in chunks
    ]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 9, 4095, 4096, 4097])
def test_a_chunk_of_any_length_comes_back_exactly(length: int) -> None:
    profile, sealed = Profile(4, 2), os.urandom(length)
    shards = erasure.encode(profile, sealed)
    assert {len(shard) for shard in shards} == {-(-length // 4)}
    kept = {slot: shards[slot] for slot in (2, 3, 4, 5)}
    assert erasure.decode(profile, kept, length) == sealed


def test_reedsolo_names_the_liars_of_a_column() -> None:
    """What the audit will build on: any column is a codeword, so up to floor(m/2) wrong shards have names."""
    profile = Profile(10, 4)
    shards = [bytearray(shard) for shard in erasure.encode(profile, os.urandom(1000))]
    for liar in (3, 12):
        shards[liar] = bytearray(byte ^ 0x5A for byte in shards[liar])
    column = bytes(shard[17] for shard in shards)
    _, _, positions = RSCodec(profile.m, nsize=profile.n).decode(column)
    assert sorted(positions) == [3, 12]


class TestRefusals:
    profile = Profile(4, 2)

    def shards(self) -> dict[int, bytes]:
        return dict(enumerate(plain(erasure.encode(self.profile, b"x" * 99))))

    def test_an_empty_chunk(self) -> None:
        with pytest.raises(BadRequest):
            erasure.encode(self.profile, b"")
        with pytest.raises(BadRequest):
            erasure.encode_many(self.profile, [b"a", b""])

    def test_too_few_shards_say_how_many(self) -> None:
        three = {slot: shard for slot, shard in self.shards().items() if slot < 3}
        for ask in (
            lambda: erasure.decode(self.profile, three, 99),
            lambda: erasure.rebuild(self.profile, three, [5]),
        ):
            with pytest.raises(TooFewShards) as caught:
                ask()
            assert (caught.value.details["have"], caught.value.details["need"]) == (3, 4)

    @pytest.mark.parametrize("slot", [-1, 6, 255])
    def test_a_slot_that_the_stripe_does_not_have(self, slot: int) -> None:
        with pytest.raises(BadRequest):
            erasure.decode(self.profile, {**self.shards(), slot: b"x" * 25}, 99)
        with pytest.raises(BadRequest):
            erasure.rebuild(self.profile, self.shards(), [slot])

    def test_shards_of_another_length(self) -> None:
        for wrong in (b"", b"x" * 24, b"x" * 26):
            with pytest.raises(BadRequest):
                erasure.decode(self.profile, {**self.shards(), 1: wrong}, 99)
            with pytest.raises(BadRequest):
                erasure.rebuild(self.profile, {**self.shards(), 1: wrong}, [0])

    def test_a_length_that_does_not_fit_the_shards(self) -> None:
        for length in (0, -1, 96, 101, 10**12):
            with pytest.raises(BadRequest):
                erasure.decode(self.profile, self.shards(), length)

    def test_memory_that_is_no_run_of_bytes(self) -> None:
        with pytest.raises(BadRequest):
            erasure.encode(self.profile, memoryview(bytes(100))[::2])
        with pytest.raises(BadRequest):
            erasure.encode(self.profile, memoryview(bytes(100)).cast("I"))
