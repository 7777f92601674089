"""What every shard store promises: the real one on LMDB, and the model it is compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from support.shards import ACCOUNT, ModelStore, flip, key_of, made_put

from holdfast.node.store import Absent, Compaction, Damaged, Found, Put, ShardKey, ShardStore, StoreStats
from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import Conflict, NoRoom, StoreFailed
from holdfast.protocol.ids import AccountId
from holdfast.protocol.stripes import ShardRecord


@dataclass
class Subject:
    """A store under test, and what is done to it from outside."""

    store: ShardStore
    reopen: Callable[[], ShardStore]
    fail_next_commit: Callable[[], None]
    damage: Callable[[Put, int], None]


def lmdb_subject(folder: Path, capacity_bytes: int) -> Subject:
    failing: list[bool] = []

    def seam() -> None:
        if failing:
            failing.clear()
            raise OSError(5, "Input/output error")

    def open_() -> LmdbStore:
        return LmdbStore(folder, source=FixedSource(), capacity_bytes=capacity_bytes, commit_seam=seam)

    def reopen() -> ShardStore:
        subject.store.close()
        subject.store = open_()
        return subject.store

    def damage(put: Put, at: int) -> None:
        """Flip a bit on disk, behind the store's back."""
        store = subject.store
        assert isinstance(store, LmdbStore)
        key = key_of(put).pack()
        with store._env.begin(write=True) as txn:
            txn.put(key, flip(txn.get(key, db=store._shards), at), db=store._shards)

    subject = Subject(open_(), reopen, lambda: failing.append(True), damage)
    return subject


def model_subject(capacity_bytes: int) -> Subject:
    store = ModelStore(capacity_bytes)

    def reopen() -> ShardStore:
        store.failed, store.damaged, store.changes = False, 0, 0
        if store.compaction is not None:
            store.compaction.abandon()
        return store

    def damage(put: Put, at: int) -> None:
        key = key_of(put).pack()
        store.shards[key] = flip(store.shards[key], at)

    return Subject(store, reopen, lambda: setattr(store, "fail_next_commit", True), damage)


@pytest.fixture(params=["lmdb", "model"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    made = lmdb_subject(tmp_path / "store", 100_000) if request.param == "lmdb" else model_subject(100_000)
    yield made
    made.store.close()


def the(outcomes: list[object]) -> object:
    (outcome,) = outcomes
    return outcome


def test_what_was_put_comes_back_even_after_reopening(subject: Subject) -> None:
    puts = [made_put(number, slot=number % 6) for number in range(20)]
    assert subject.store.put([puts[:5], puts[5:]]) == [None, None]
    for reopened in (False, True):
        store = subject.reopen() if reopened else subject.store
        for put, outcome in zip(puts, store.read([key_of(put) for put in puts]), strict=True):
            assert outcome == Found(put.record.pack(), put.shard)


def test_the_same_bytes_again_are_fine_and_take_no_room(subject: Subject) -> None:
    put = made_put(1)
    assert subject.store.put([[put]]) == [None]
    used = subject.store.stats().used_bytes
    assert subject.store.put([[put], [put]]) == [None, None]
    assert subject.store.stats().used_bytes == used
    assert subject.store.stats().shards == 1


def test_other_bytes_under_the_same_key_are_a_conflict_and_change_nothing(subject: Subject) -> None:
    put, other, third = made_put(1), made_put(1, variant=1), made_put(2)
    subject.store.put([[put]])
    first, second = subject.store.put([[other, third], [third]])
    assert isinstance(first, Conflict) and second is None
    assert the(subject.store.read([key_of(put)])) == Found(put.record.pack(), put.shard)


def test_a_batch_is_stored_whole_or_not_at_all(subject: Subject) -> None:
    subject.store.put([[made_put(1)]])
    refused = the(subject.store.put([[made_put(2), made_put(1, variant=1), made_put(3)]]))
    assert isinstance(refused, Conflict)
    assert subject.store.read([key_of(made_put(2)), key_of(made_put(3))]) == [Absent(), Absent()]


def test_every_part_of_the_key_tells_shards_apart(subject: Subject) -> None:
    others = [
        made_put(1, slot=1),
        made_put(1, group=2),
        made_put(1, generation=2),
        made_put(2),
        made_put(1, account=AccountId(b"b" * 32)),
    ]
    subject.store.put([[made_put(1)]])
    assert subject.store.read([key_of(put) for put in others]) == [Absent()] * 5
    assert subject.store.put([others]) == [None]
    assert subject.store.stats().shards == 6


def test_a_full_store_refuses_new_shards_and_goes_on_serving(subject: Subject) -> None:
    stored, refused = [], None
    for number in range(100):
        put = made_put(number, sealed_bytes=16_000)
        refused = the(subject.store.put([[put]]))
        if refused is not None:
            break
        stored.append(put)
    assert isinstance(refused, NoRoom)
    assert stored
    assert all(isinstance(found, Found) for found in subject.store.read([key_of(put) for put in stored]))
    assert subject.store.put([[stored[0]]]) == [None], "what is there already needs no room"
    assert subject.store.mark(1, [key_of(stored[0])], 0) == (1, 0)
    assert subject.store.erase_due(0, 10) == 1
    assert subject.store.put([[stored[0]]]) == [None], "what was erased has made room"


def test_one_batch_too_large_does_not_keep_others_out(subject: Subject) -> None:
    large = [made_put(number, sealed_bytes=16_000) for number in range(100)]
    outcomes = subject.store.put([[made_put(1000)], large, [made_put(1001)]])
    assert outcomes[0] is None and isinstance(outcomes[1], NoRoom) and outcomes[2] is None


def test_a_deletion_marks_first_and_erases_when_its_time_has_come(subject: Subject) -> None:
    puts = [made_put(number) for number in range(3)]
    subject.store.put([puts])
    keys = [key_of(put) for put in puts]
    assert subject.store.mark(1, [*keys[:2], key_of(made_put(9))], due_ms=500) == (2, 1)
    assert subject.store.stats().marked == 2
    assert subject.store.erase_due(499, 10) == 0
    assert all(isinstance(outcome, Found) for outcome in subject.store.read(keys)), "marked is not gone"
    assert subject.store.erase_due(500, 1) == 1
    assert subject.store.erase_due(500, 10) == 1
    assert [isinstance(outcome, Found) for outcome in subject.store.read(keys)] == [False, False, True]
    assert (subject.store.stats().shards, subject.store.stats().marked) == (1, 0)


def test_a_shard_put_again_is_no_longer_marked(subject: Subject) -> None:
    put = made_put(1)
    subject.store.put([[put]])
    subject.store.mark(1, [key_of(put)], due_ms=0)
    assert subject.store.put([[put]]) == [None]
    assert subject.store.erase_due(10**9, 10) == 0
    assert isinstance(the(subject.store.read([key_of(put)])), Found)


def test_a_shard_that_is_needed_after_all_is_kept(subject: Subject) -> None:
    puts = [made_put(number) for number in range(3)]
    subject.store.put([puts])
    keys = [key_of(put) for put in puts]
    subject.store.mark(1, keys, due_ms=0)
    assert subject.store.keep([keys[0], key_of(made_put(9))]) == [True, False]
    assert subject.store.stats().marked == 2
    subject.reopen()
    assert subject.store.erase_due(1, 10) == 2
    assert subject.store.keep(keys) == [True, False, False]
    counter = subject.store.stats().counter
    subject.store.keep(keys)
    assert subject.store.stats().counter == counter, "nothing is written where nothing is marked"


def test_an_order_that_comes_again_or_late_marks_nothing(subject: Subject) -> None:
    put = made_put(1)
    subject.store.put([[put]])
    subject.store.mark(5, [], due_ms=0)
    for number in (5, 4):
        assert subject.store.mark(number, [key_of(put)], due_ms=0) == (1, 0)
        assert subject.store.stats().marked == 0
    subject.reopen()
    subject.store.mark(5, [key_of(put)], due_ms=0)
    assert subject.store.stats().marked == 0, "the last number is durable"


def test_a_second_order_does_not_move_the_first_one_s_date(subject: Subject) -> None:
    put = made_put(1)
    subject.store.put([[put]])
    subject.store.mark(1, [key_of(put)], due_ms=1000)
    subject.store.mark(2, [key_of(put)], due_ms=5000)
    assert subject.store.erase_due(1000, 10) == 1


def test_the_counter_rises_with_every_durable_commit_and_never_falls(subject: Subject) -> None:
    seen = [subject.store.stats().counter]
    for change in (
        lambda: subject.store.put([[made_put(1)]]),
        lambda: subject.store.put([[made_put(1)]]),
        lambda: subject.store.mark(1, [key_of(made_put(1))], 0),
        lambda: subject.store.erase_due(0, 10),
        lambda: subject.store.save_running(77),
        lambda: subject.store.raise_term(3),
    ):
        change()
        seen.append(subject.store.stats().counter)
    assert seen == sorted(set(seen))
    assert subject.reopen().stats().counter == seen[-1]


def test_term_pulse_clock_and_order_are_durable_and_the_first_two_only_rise(subject: Subject) -> None:
    subject.store.raise_term(7)
    subject.store.raise_term(3)
    subject.store.raise_pulse(9)
    subject.store.raise_pulse(8)
    subject.store.save_running(123_456)
    subject.store.mark(4, [], due_ms=0)
    store = subject.reopen()
    assert (store.term(), store.pulse(), store.running_ms, store.stats().order) == (7, 9, 123_456, 4)


def test_after_a_failed_commit_nothing_more_is_accepted_until_it_is_reopened(subject: Subject) -> None:
    kept, lost = made_put(1), made_put(2)
    subject.store.put([[kept]])
    counter = subject.store.stats().counter
    subject.fail_next_commit()
    with pytest.raises(StoreFailed):
        subject.store.put([[lost]])
    for change in (
        lambda: subject.store.put([[made_put(3)]]),
        lambda: subject.store.mark(1, [key_of(kept)], 0),
        lambda: subject.store.save_running(1),
    ):
        with pytest.raises(StoreFailed):
            change()
    assert isinstance(the(subject.store.read([key_of(kept)])), Found), "reading goes on"
    store = subject.reopen()
    assert store.stats().counter >= counter
    assert isinstance(the(store.read([key_of(kept)])), Found)
    assert store.put([[lost]]) == [None]


def test_a_scan_walks_one_slot_or_one_group_in_order_and_in_portions(subject: Subject) -> None:
    puts = [
        made_put(number, group=group, slot=slot) for group in (1, 2) for slot in (0, 1) for number in range(5)
    ]
    assert subject.store.put([puts]) == [None]
    wanted = sorted(key_of(put).pack() for put in puts if (put.record.group, put.record.slot) == (1, 1))
    after, until = ShardKey.range_of(1, 1)
    found: list[bytes] = []
    while portion := subject.store.scan(after, until, 2):
        found += [key.pack() for key in portion]
        after = found[-1]
    assert found == wanted
    assert len(subject.store.scan(*ShardKey.range_of(2), 100)) == 10
    assert subject.store.scan(*ShardKey.range_of(3), 100) == []


def test_an_inventory_leaves_out_what_is_to_be_erased_and_goes_on_where_it_was(subject: Subject) -> None:
    puts = [made_put(number) for number in range(7)]
    subject.store.put([puts])
    in_order = sorted(puts, key=lambda put: key_of(put).pack())
    subject.store.mark(1, [key_of(in_order[2]), key_of(in_order[3])], due_ms=1000)
    found: list[bytes] = []
    after, until = ShardKey.range_of(1, 0)
    while True:
        portion, after = subject.store.unmarked(after, until, 3)
        found += portion
        if not after:
            break
    assert found == [key_of(put).pack() for put in (*in_order[:2], *in_order[4:])]
    assert subject.store.put([[in_order[2]]]) == [None]
    assert len(subject.store.unmarked(*ShardKey.range_of(1, 0), 100)[0]) == 6, "stored again is there again"


def test_record_headers_prove_themselves(subject: Subject) -> None:
    good, bad = made_put(1), made_put(2)
    subject.store.put([[good, bad]])
    subject.damage(bad, HEADER)
    keys = [key_of(put).pack() for put in (good, bad, made_put(3))]
    assert subject.store.headers(keys) == [good.record.pack(), None, None]


HEADER, KEY, SHARD = 60, 20, -1
"""Where in a record a bit may flip: its digests, the chunk id it names, the shard."""


@pytest.mark.parametrize("at", [HEADER, KEY, SHARD])
def test_a_damaged_shard_is_put_aside_whole_noted_and_out_of_the_way(subject: Subject, at: int) -> None:
    good, bad = made_put(1), made_put(2)
    subject.store.put([[good, bad]])
    used = subject.store.stats().used_bytes
    subject.damage(bad, at)
    assert isinstance(the(subject.store.read([key_of(bad)])), Damaged)
    assert subject.store.quarantine([key_of(good), key_of(bad), key_of(made_put(3))]) == 1
    for reopened in (False, True):
        store = subject.reopen() if reopened else subject.store
        assert store.read([key_of(good), key_of(bad)])[1] == Absent()
        (entry,) = store.quarantined(0, 10)
        assert entry.key == key_of(bad)
        assert entry.stored_bytes == len(bad.record.pack()) + len(bad.shard)
        assert store.findings(10) == [key_of(bad)]
        told = store.stats()
        assert (told.quarantined, told.quarantined_bytes, told.findings) == (1, entry.stored_bytes, 1)
        assert (told.shards, told.used_bytes) == (1, used - entry.stored_bytes)
    assert subject.store.put([[bad]]) == [None], "the same key can be put again"
    assert isinstance(the(subject.store.read([key_of(bad)])), Found)
    assert subject.store.stats().quarantined == 1, "and what was damaged is still kept"


def test_a_put_that_meets_a_damaged_shard_replaces_it_and_keeps_the_damage_aside(subject: Subject) -> None:
    put, other = made_put(1), made_put(2)
    subject.store.put([[put]])
    subject.damage(put, SHARD)
    assert subject.store.put([[other, put]]) == [None]
    assert the(subject.store.read([key_of(put)])) == Found(put.record.pack(), put.shard)
    told = subject.store.stats()
    assert (told.shards, told.quarantined, told.findings) == (2, 1, 0), "it is whole: nothing to report"


def test_a_shard_that_is_marked_and_damaged_leaves_nothing_behind(subject: Subject) -> None:
    put = made_put(1)
    subject.store.put([[put]])
    subject.store.mark(1, [key_of(put)], due_ms=5)
    subject.damage(put, SHARD)
    assert subject.store.quarantine([key_of(put)]) == 1
    assert subject.store.stats().marked == 0
    assert subject.store.put([[put]]) == [None]
    assert subject.store.erase_due(10, 10) == 0, "the order was for the shard that is gone"


def test_the_quarantine_is_bounded_and_says_how_many_it_dropped(subject: Subject) -> None:
    """A store of 100,000 bytes keeps 65,536 damaged ones; each of these takes about 4,400."""
    for number in range(20):
        put = made_put(number, sealed_bytes=16_000)
        subject.store.put([[put]])
        subject.damage(put, SHARD)
        assert subject.store.quarantine([key_of(put)]) == 1
    told = subject.store.stats()
    assert told.quarantined_bytes <= 65_536 and told.quarantined + told.dropped == 20 and told.dropped > 0
    numbers = [entry.number for entry in subject.store.quarantined(0, 100)]
    assert numbers == list(range(told.dropped + 1, 21)), "the oldest made room"
    assert [entry.number for entry in subject.store.quarantined(numbers[0], 2)] == numbers[1:3]
    assert told.findings == 20, "no finding is lost with its entry"


def test_findings_stay_until_they_are_told(subject: Subject) -> None:
    puts = [made_put(number) for number in range(3)]
    subject.store.put([puts])
    for put in puts:
        subject.damage(put, SHARD)
    subject.store.quarantine([key_of(put) for put in puts])
    first, *rest = subject.store.findings(10)
    subject.store.findings_told([first, key_of(made_put(9))])
    store = subject.reopen()
    assert store.findings(10) == rest and store.findings(1) == rest[:1]
    assert store.stats().findings == 2


def test_how_far_the_scrub_is_survives_a_restart(subject: Subject) -> None:
    assert subject.store.scrub_state() == b""
    subject.store.save_scrub_state(b"half way")
    assert subject.reopen().scrub_state() == b"half way"


def test_a_compacted_store_says_the_same_whatever_was_done_meanwhile(subject: Subject) -> None:
    puts = [made_put(number, sealed_bytes=4000) for number in range(12)]
    store = subject.store
    store.put([puts[:10]])
    store.raise_term(3)
    store.mark(1, [key_of(put) for put in puts[:3]], due_ms=5)
    compaction = store.compact()
    with pytest.raises(Conflict):
        store.compact()
    done = compaction.step(2000)
    # Behind where the copy is, and ahead of it: erased, stored anew, marked, kept, put aside.
    assert store.erase_due(5, 1) == 1
    store.put([[puts[10]]])
    done = done or compaction.step(3000)
    assert store.erase_due(5, 10) == 2
    store.put([[puts[0], puts[11]]])
    subject.damage(puts[5], SHARD)
    store.quarantine([key_of(puts[5])])
    store.mark(2, [key_of(puts[6])], due_ms=9)
    store.save_running(77)
    while not done:
        done = compaction.step(2000)
    store.save_scrub_state(b"so far")
    before, counter = store.stats(), store.stats().counter
    compaction.finish()
    for reopened in (False, True):
        if reopened:
            store = subject.reopen()
        told = store.stats()
        assert (told.shards, told.used_bytes, told.marked) == (
            before.shards,
            before.used_bytes,
            before.marked,
        )
        assert told.counter >= counter and told.order == 2 and told.quarantined == 1 and told.findings == 1
        assert (store.term(), store.running_ms, store.scrub_state()) == (3, 77, b"so far")
        found = store.read([key_of(put) for put in puts])
        wanted = {0, 3, 4, 6, 7, 8, 9, 10, 11}
        assert {number for number, one in enumerate(found) if isinstance(one, Found)} == wanted
        assert store.erase_due(8, 10) == 0
    assert store.erase_due(9, 10) == 1
    assert store.put([[made_put(50)]]) == [None]


def test_a_compaction_that_is_given_up_changes_nothing(subject: Subject) -> None:
    puts = [made_put(number) for number in range(5)]
    subject.store.put([puts])
    compaction = subject.store.compact()
    compaction.step(100)
    compaction.abandon()
    with pytest.raises(StoreFailed):
        compaction.step(100)
    assert all(isinstance(found, Found) for found in subject.store.read([key_of(put) for put in puts]))
    again = subject.store.compact()
    store = subject.reopen()
    with pytest.raises(StoreFailed):
        again.step(100)
    assert store.stats().shards == 5
    store.compact().finish()
    assert subject.reopen().stats().shards == 5


def test_the_store_keeps_its_id(subject: Subject) -> None:
    before = subject.store.id
    assert subject.reopen().id == before


class StoreAgainstModel(RuleBasedStateMachine):
    """Whatever is done, LMDB and the model say the same."""

    puts = Bundle("puts")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.real = lmdb_subject(Path(self.folder.name) / "store", 12_000)
        self.model = ModelStore(12_000)
        self.known: dict[bytes, Put] = {}
        self.order = 0
        self.compaction: Compaction | None = None

    @rule(
        target=puts,
        number=st.integers(0, 4),
        slot=st.integers(0, 1),
        group=st.integers(1, 2),
        generation=st.integers(1, 2),
        size=st.sampled_from([60, 400, 9000]),
        variant=st.integers(0, 1),
    )
    def draw(self, number: int, slot: int, group: int, generation: int, size: int, variant: int) -> Put:
        made = made_put(
            number, slot=slot, group=group, generation=generation, sealed_bytes=size, variant=variant
        )
        self.known[key_of(made).pack()] = made
        return made

    @rule(batches=st.lists(st.lists(puts, max_size=4, unique_by=lambda put: key_of(put)), max_size=3))
    def put(self, batches: list[list[Put]]) -> None:
        told = [type(outcome) for outcome in self.real.store.put(batches)]
        assert told == [type(outcome) for outcome in self.model.put(batches)]

    @rule(chosen=st.lists(puts, max_size=4), late=st.booleans(), due=st.integers(0, 20))
    def mark(self, chosen: list[Put], late: bool, due: int) -> None:
        self.order += 0 if late else 1
        keys = [key_of(put) for put in dict.fromkeys(chosen)]
        told = self.real.store.mark(self.order, keys, due)
        assert told == self.model.mark(self.order, keys, due)

    @rule(chosen=st.lists(puts, max_size=4))
    def keep(self, chosen: list[Put]) -> None:
        keys = [key_of(put) for put in chosen]
        assert self.real.store.keep(keys) == self.model.keep(keys)

    @rule(now=st.integers(0, 20))
    def erase(self, now: int) -> None:
        assert self.real.store.erase_due(now, 1000) == self.model.erase_due(now, 1000)

    @rule(bytes_=st.sampled_from([50, 3000, 10**6]))
    def compact_on(self, bytes_: int) -> None:
        """A copy is begun, goes on, and takes the file's place, whatever happens in between."""
        if self.compaction is None:
            self.compaction = self.real.store.compact()
        elif self.compaction.step(bytes_):
            self.compaction.finish()
            self.compaction = None

    @precondition(lambda self: self.compaction is None)  # what somebody else writes is not copied again
    @rule(chosen=puts, at=st.sampled_from([HEADER, KEY, SHARD]))
    def damage(self, chosen: Put, at: int) -> None:
        key = key_of(chosen).pack()
        if key in self.model.shards:
            self.real.damage(chosen, at)
            self.model.shards[key] = flip(self.model.shards[key], at)

    @rule(chosen=st.lists(puts, max_size=4))
    def quarantine(self, chosen: list[Put]) -> None:
        keys = [key_of(put) for put in chosen]
        assert self.real.store.quarantine(keys) == self.model.quarantine(keys)

    @rule()
    def tell(self) -> None:
        told = self.real.store.findings(2)
        assert told == self.model.findings(2)
        self.real.store.findings_told(told)
        self.model.findings_told(told)

    @rule()
    def reopen(self) -> None:
        self.real.reopen()
        self.compaction = None

    @rule()
    def fail_a_commit(self) -> None:
        self.real.fail_next_commit()
        with pytest.raises(StoreFailed):
            self.real.store.put([[made_put(99)]])
        self.real.reopen()
        self.compaction = None

    @invariant()
    def same(self) -> None:
        keys = [ShardKey.unpack(key) for key in self.known]
        told, expected = self.real.store.read(keys), self.model.read(keys)
        assert [type(outcome) for outcome in told] == [type(outcome) for outcome in expected]
        assert all(a == b for a, b in zip(told, expected, strict=True) if isinstance(a, Found))
        self.same_counts(self.real.store.stats(), self.model.stats())

    def same_counts(self, told: StoreStats, expected: StoreStats) -> None:
        assert (told.shards, told.used_bytes, told.marked) == (
            expected.shards,
            expected.used_bytes,
            expected.marked,
        )
        assert (told.quarantined, told.quarantined_bytes, told.dropped, told.findings) == (
            expected.quarantined,
            expected.quarantined_bytes,
            expected.dropped,
            expected.findings,
        )

    def teardown(self) -> None:
        self.real.store.close()
        self.folder.cleanup()


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_keys_sort_by_group_slot_account_chunk_generation() -> None:
    keys = [
        key_of(made_put(number, slot=slot, group=group, generation=generation))
        for group in (1, 2, 2**40)
        for slot in (0, 5)
        for number in (1, 2)
        for generation in (1, 2)
    ]
    by_fields = sorted(keys, key=lambda k: (k.group, k.slot, k.account, k.chunk, k.generation))
    assert sorted(keys, key=ShardKey.pack) == by_fields
    assert all(ShardKey.unpack(key.pack()) == key for key in keys)
    assert ShardRecord.unpack_header(made_put(1).record.pack()).account == ACCOUNT
