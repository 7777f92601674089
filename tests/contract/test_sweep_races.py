"""Backups, forgetting, undeleting and pruning on several devices at once, cut into single requests.

Each device is a client as client/posting.py, forgetting.py and sweeping.py write it, stopped between any two
requests; chance chooses who goes on, who dies, whose upload is given up, and when trash is emptied. What
must hold at every moment: what the newest head's snapshots reach is stored, and nothing of it is erased.
Some clients trust their caches and do not look whether the snapshot they build upon is still listed: that
must be safe, too.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select
from support.catalogue import CLUSTER, NODES, Book, chunk_id, first_list, upload_id

from holdfast.client.identity import DeviceKeys
from holdfast.coordinator.catalogue import heads as head_rows
from holdfast.coordinator.catalogue import sweeps, trash
from holdfast.coordinator.catalogue.accounts import account_row
from holdfast.coordinator.catalogue.schema import erasures
from holdfast.protocol.accounts import (
    NO_DIGEST,
    Head,
    SnapshotList,
    Witness,
    list_digest,
    open_device_list,
    signed_digest,
)
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import Conflict, HeadMoved, HoldfastError, Locked, SweptSince, UploadEnded
from holdfast.protocol.ids import DeviceId, Digest, PublicKey, SnapshotId
from holdfast.protocol.limits import SWEEP_LEASE_MS
from holdfast.protocol.messages.heads import PostHead
from holdfast.protocol.messages.sweep import LiveSet, live_set_digest
from holdfast.protocol.signing import Signed, sign
from holdfast.protocol.stripes import digest_of

ALL = set(range(6))
HOLD_MS = 1000
WITNESS = Witness(NODES[0], PublicKey(NODES[0] * 2))
CHUNKS = 3
STEPS = (1, 2, 3, 5, 99, 99, 99)
"""How many requests a device makes before others have their turn."""


@dataclass(frozen=True)
class View:
    """The newest head, as a device read it."""

    signed: Signed | None
    listed: tuple[SnapshotId, ...]

    @property
    def seq(self) -> int:
        return decode(self.signed.payload, Head).seq if self.signed is not None else 0

    @property
    def digest(self) -> Digest:
        return signed_digest(self.signed) if self.signed is not None else NO_DIGEST


Work = Iterator[None]
"""A device at work: between two requests it yields."""


class Races:
    """One account, its devices at work, and the coordinator's turns."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.ada = self.book.account(b"ada")
        _, _, self.device_list = first_list(b"ada")
        self.key = DeviceKeys.from_bytes(digest_of(b"ada") * 2)
        self.made: dict[SnapshotId, frozenset[int]] = {}
        self.at_work: dict[int, Work] = {}
        self.uploads = 0
        self.is_witnessed = False
        self.now_ms = HOLD_MS

    # What clients ask

    def read_head(self) -> View:
        state = self.book.catalogue.read_now(
            lambda c: head_rows.head_state(c, account_row(c, self.ada[0]), 0)
        )
        if state.head is None:
            return View(None, ())
        return View(state.head, tuple(decode(state.snapshot_list, SnapshotList).snapshots))

    def open(self) -> int:
        self.uploads += 1
        self.book.begin(self.ada, self.uploads)
        return self.uploads

    def claim_all(self, upload: int, wanted: Iterable[int]) -> bool:
        stored, _ = self.book.claim(self.ada, upload, [chunk_id(chunk) for chunk in sorted(wanted)])
        return None not in stored

    def post(
        self, upload: int, view: View, listed: Sequence[SnapshotId], records: Sequence[bytes] = ()
    ) -> None:
        exact = encode(SnapshotList(1, list(listed)))
        opened = open_device_list(self.device_list, CLUSTER)
        payload = encode(
            Head(
                1,
                opened.account,
                self.key.id,
                view.seq + 1,
                view.digest,
                opened.seq,
                signed_digest(self.device_list),
                [WITNESS] if self.is_witnessed else [],
                upload,
                list_digest(exact),
            )
        )
        signed = Signed(payload, sign(self.key.sign_key, "head", CLUSTER, payload))
        message = PostHead(head=signed, snapshot_list=exact, records=list(records), upload=upload_id(upload))
        nodes = {WITNESS.node: WITNESS.key}
        self.book.catalogue.write_now(
            lambda c: head_rows.begin_head(c, CLUSTER, account_row(c, self.ada[0]), message, nodes, 1)
        )

    def agree(self) -> None:
        """The witnesses of a head that waits for them keep it."""

        def settle(connection: Connection) -> None:
            account = account_row(connection, self.ada[0])
            if (waiting := head_rows.pending_head(connection, account)) is not None:
                head_rows.settle_head(connection, account, waiting.digest)

        self.book.catalogue.write_now(settle)

    # What clients do

    def backing_up(self, chunks: Sequence[int], reuse: bool = False, careful: bool = True) -> Work:
        upload = self.open()
        yield
        view = self.read_head()
        parent = view.listed[-1] if view.listed else None
        unclaimed = self.made[parent] & set(chunks) if reuse and parent is not None else frozenset()
        for chunk in chunks:
            if chunk in unclaimed:
                continue
            yield
            (stored,), (send,) = self.book.claim(self.ada, upload, [chunk_id(chunk)])
            if stored is None:
                assert send is not None
                yield
                stripe = self.book.stripe(chunk_id(chunk), ALL, replaces=send.replaces)
                self.book.commit(self.ada, upload, [stripe])
        sealed = b"snapshot of upload %d" % upload
        snapshot = SnapshotId(digest_of(sealed))
        while True:
            yield
            try:
                self.post(upload, view, [*view.listed, snapshot], [sealed])
                self.made[snapshot] = frozenset(chunks)
                break
            except HeadMoved:
                yield
                view = self.read_head()
                if careful and unclaimed and parent not in view.listed:
                    yield
                    if not self.claim_all(upload, unclaimed):
                        return  # said so, and nothing is posted
            except SweptSince:
                # The upload before stays open: what it claimed is not erased meanwhile.
                yield
                upload = self.open()
                yield
                view = self.read_head()
                yield
                if not self.claim_all(upload, chunks):
                    return
        yield
        self.agree()
        yield
        self.book.end(self.ada, upload)

    def changing(self, target: SnapshotId, is_back: bool) -> Work:
        """Forget a snapshot, or take it back in."""
        while True:
            upload = self.open()
            yield
            view = self.read_head()
            if is_back:
                yield
                if not self.claim_all(upload, self.made[target]):
                    return
            while (target in view.listed) != is_back:
                yield
                listed = [*view.listed, target] if is_back else [x for x in view.listed if x != target]
                try:
                    self.post(upload, view, listed)
                except HeadMoved:
                    yield
                    view = self.read_head()
                    continue
                except SweptSince:
                    break
                yield
                self.agree()
                self.book.end(self.ada, upload)
                return
            else:
                return
            yield

    def pruning(self, device: int) -> Work:
        own, view = DeviceId(bytes([device]) * 16), self.read_head()
        yield
        number = self.book.catalogue.write_now(
            lambda c: sweeps.begin(c, account_row(c, self.ada[0]), own, view.seq, view.digest, self.now_ms)
        ).number
        reached = sorted({chunk_id(chunk) for snapshot in view.listed for chunk in self.made[snapshot]})
        for start in range(0, len(reached), 2):
            yield
            portion = reached[start : start + 2]
            self.book.catalogue.write_now(
                lambda c, p=portion: sweeps.mark(  # type: ignore[misc]
                    c, account_row(c, self.ada[0]), own, number, p, self.now_ms
                )
            )
        yield
        digest = live_set_digest(reached)
        live = LiveSet(1, self.ada[0], own, number, view.seq, view.digest, digest, len(reached))
        self.book.catalogue.write_now(
            lambda c: sweeps.seal(c, account_row(c, self.ada[0]), own, live, Signed(encode(live), b"s" * 64))
        )

    # Who goes on

    def go_on(self, device: int, steps: int = 99, work: Work | None = None) -> HoldfastError | None:
        """Some requests of a device: of new work, or of what it is at. Gives what it was refused with."""
        if work is not None and device not in self.at_work:
            self.at_work[device] = work
        for _ in range(steps if device in self.at_work else 0):
            try:
                next(self.at_work[device])
            except StopIteration:
                del self.at_work[device]
                return None
            except (UploadEnded, Locked, Conflict, HeadMoved) as refused:
                del self.at_work[device]
                return refused
        return None

    def sweep(self, most: int = 99, whole: bool = True) -> None:
        """A turn of the coordinator's; or the beginning of one, and then it dies."""
        number = self.book.catalogue.read_now(lambda c: account_row(c, self.ada[0])).number
        after, first = b"", None
        while True:
            done = self.book.catalogue.write_now(
                lambda c, a=after: trash.move_to_trash(c, number, a, most, self.now_ms)  # type: ignore[misc]
            )
            if done is None or not whole:
                return
            first = first or done
            if done.last is None:
                break
            after = done.last
        if first.floor >= first.generation:
            self.book.catalogue.write_now(lambda c: trash.finish(c, number, first.number))

    def empty_the_trash(self, passed_ms: int = HOLD_MS, most: int = 99) -> None:
        self.now_ms += passed_ms
        self.book.catalogue.write_now(lambda c: trash.empty_trash(c, self.now_ms - HOLD_MS, most, 1))

    def sweep_and_erase(self) -> None:
        self.sweep()
        self.empty_the_trash()

    def anything(self, chance: random.Random) -> None:
        """Something happens."""
        device, steps = chance.randrange(2), chance.choice(STEPS)
        listed = self.read_head().listed
        gone = sorted(self.made.keys() - set(listed))
        match chance.randrange(12):
            case 0 | 1 | 2:
                chunks = chance.sample(range(CHUNKS), chance.randint(1, 2))
                self.go_on(
                    device, steps, self.backing_up(chunks, chance.random() < 0.5, chance.random() < 0.5)
                )
            case 3 if listed:
                self.go_on(device, steps, self.changing(chance.choice(listed), False))
            case 4 if gone:
                self.go_on(device, steps, self.changing(chance.choice(gone), True))
            case 5 | 6:
                self.go_on(device, steps, self.pruning(device))
            case 7:
                self.go_on(device, steps)
            case 8 | 9:
                self.sweep(chance.randint(1, 3), chance.random() < 0.8)
            case 10 if chance.random() < 0.3:
                self.agree()
            case 10:
                self.empty_the_trash(chance.choice([0, HOLD_MS]), chance.choice([1, 99]))
            case 11 if chance.random() < 0.5:
                self.at_work.pop(device, None)
            case 11 if self.uploads:
                self.book.end(self.ada, max(1, self.uploads - chance.randrange(4)))

    # What must hold

    def stored(self) -> dict[int, bytes]:
        rows = self.book.locate(self.ada, [chunk_id(chunk) for chunk in range(CHUNKS)])
        return {number: bytes(row.generation) for number, row in enumerate(rows) if row is not None}

    def all_that_snapshots_reach_is_stored(self) -> None:
        stored = self.stored()
        for snapshot in self.read_head().listed:
            assert self.made[snapshot] <= stored.keys(), "a listed snapshot lacks chunks"
        erased = self.book.catalogue.read_now(
            lambda c: c.execute(select(erasures.c.chunk, erasures.c.generation)).all()
        )
        current = {(bytes(chunk_id(number)), generation) for number, generation in stored.items()}
        assert not current & {(row.chunk, row.generation) for row in erased}, "what is stored is being erased"

    def all_is_swept_in_the_end(self) -> None:
        """Once nobody is at work a prune leaves exactly what snapshots reach, and the quota says so."""
        self.at_work.clear()
        self.agree()
        for number in range(1, self.uploads + 1):
            self.book.end(self.ada, number)
        self.now_ms += 10**9
        assert self.go_on(0, 99, self.pruning(0)) is None
        self.sweep_and_erase()
        reached = {chunk for snapshot in self.read_head().listed for chunk in self.made[snapshot]}
        assert self.stored().keys() == reached
        found = self.book.catalogue.read_now(
            lambda c: head_rows.records(c, account_row(c, self.ada[0]), list(self.made))
        )
        used = self.book.catalogue.read_now(lambda c: account_row(c, self.ada[0])).used_bytes
        assert used == 1000 * len(reached) + sum(len(record) for record in found if record is not None)


@settings(max_examples=12, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32))
def test_whatever_races_with_what_nothing_that_is_listed_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    with TemporaryDirectory() as folder:
        races = Races(Book.open(Path(folder)))
        races.is_witnessed = chance.random() < 0.5
        try:
            for _ in range(50):
                races.anything(chance)
                races.all_that_snapshots_reach_is_stored()
            races.all_is_swept_in_the_end()
        finally:
            races.book.catalogue.close()


# The same, one race at a time


@pytest.fixture
def races(tmp_path: Path) -> Iterator[Races]:
    """Snapshot of chunk 0 alone, then nothing listed any more: chunk 0 is stored, and nothing needs it."""
    made = Races(Book.open(tmp_path))
    made.go_on(0, 99, made.backing_up([0]))
    made.go_on(0, 99, made.changing(made.read_head().listed[0], False))
    assert not made.read_head().listed and made.stored().keys() == {0}
    yield made
    made.all_that_snapshots_reach_is_stored()
    made.all_is_swept_in_the_end()
    made.book.catalogue.close()


OPENED, CLAIMED, COMMITTED = 1, 3, 4
"""Requests after which a backup of one chunk has got so far."""
BEGUN = 2
"""And a prune."""


def test_a_live_set_that_is_sealed_after_the_head_moved_counts_for_nothing(races: Races) -> None:
    races.go_on(0, BEGUN, races.pruning(0))
    races.go_on(1, 99, races.backing_up([0, 1]))
    assert isinstance(races.go_on(0), HeadMoved)
    races.sweep_and_erase()
    assert races.stored().keys() == {0, 1}


def test_a_backup_under_way_keeps_what_it_claimed_while_another_device_prunes(races: Races) -> None:
    races.go_on(1, CLAIMED, races.backing_up([0]))  # and told that it is stored
    assert races.go_on(0, 99, races.pruning(0)) is None
    races.sweep_and_erase()
    assert races.stored().keys() == {0}
    assert races.go_on(1) is None and len(races.read_head().listed) == 1


def test_a_claim_under_a_sweep_that_waits_for_older_backups_is_kept_too(races: Races) -> None:
    races.go_on(2, OPENED, races.backing_up([1]))  # under way from before the seal
    races.go_on(0, 99, races.pruning(0))
    races.sweep()
    races.go_on(1, CLAIMED, races.backing_up([0]))
    races.at_work.pop(2)
    races.book.end(races.ada, 3)
    races.sweep_and_erase()
    assert races.go_on(1) is None and len(races.read_head().listed) == 1


def test_a_head_posted_from_a_stale_cache_while_another_device_prunes_is_refused(races: Races) -> None:
    """It takes a chunk over from a snapshot that is forgotten and swept before it posts."""
    races.go_on(1, 99, races.backing_up([1]))
    races.go_on(0, 99, races.pruning(0))
    races.sweep()
    races.go_on(1, COMMITTED, races.backing_up([1, 2], reuse=True, careful=False))
    races.go_on(0, 99, races.changing(races.read_head().listed[0], False))
    races.go_on(0, 99, races.pruning(0))
    races.sweep_and_erase()
    assert races.stored().keys() == {2}, "what it only took over is gone"
    races.go_on(1)
    assert not races.read_head().listed, "so nothing may be listed that needs it"


def test_a_chunk_that_is_stored_again_comes_out_of_the_trash(races: Races) -> None:
    races.go_on(0, 99, races.pruning(0))
    races.sweep()
    races.go_on(1, 99, races.backing_up([0]))
    races.empty_the_trash()
    assert races.stored().keys() == {0}


def test_undelete_works_until_the_trash_is_emptied_and_brings_no_half_snapshot_after(
    races: Races,
) -> None:
    (snapshot,) = races.made
    races.go_on(0, 99, races.pruning(0))
    races.sweep()
    races.go_on(1, 99, races.changing(snapshot, True))
    races.empty_the_trash()
    assert races.read_head().listed == (snapshot,)
    races.go_on(1, 99, races.changing(snapshot, False))
    races.go_on(0, 99, races.pruning(0))
    races.sweep_and_erase()
    races.go_on(1, 99, races.changing(snapshot, True))
    assert not races.read_head().listed


def test_while_a_head_waits_for_its_witnesses_nothing_is_sealed(races: Races) -> None:
    """Its upload may be given up before it is agreed; then only the seal's refusal holds its chunks."""
    races.is_witnessed = True
    races.go_on(0, BEGUN, races.pruning(0))
    races.go_on(1, CLAIMED + 1, races.backing_up([0]))
    races.at_work.pop(1)
    races.book.end(races.ada, races.uploads)
    assert isinstance(races.go_on(0), HeadMoved)
    races.sweep_and_erase()
    races.agree()
    assert len(races.read_head().listed) == 1 and races.stored().keys() == {0}


def test_who_lost_the_lease_seals_nothing(races: Races) -> None:
    races.go_on(0, BEGUN, races.pruning(0))
    races.now_ms += SWEEP_LEASE_MS + 1
    races.go_on(1, BEGUN, races.pruning(1))
    assert isinstance(races.go_on(0), Conflict)
    assert races.go_on(1) is None


def test_who_lost_the_lease_after_marking_everything_seals_nothing(races: Races) -> None:
    """Its marks are all there, and its head is still the newest: the lease alone says no."""
    races.go_on(0, 99, races.backing_up([0]))
    races.go_on(0, 3, races.pruning(0))
    races.now_ms += SWEEP_LEASE_MS + 1
    races.go_on(1, BEGUN, races.pruning(1))
    assert isinstance(races.go_on(0), Conflict)
    assert races.go_on(1) is None


def test_while_the_lease_is_held_others_are_told_who_holds_it_and_for_how_long(races: Races) -> None:
    races.go_on(0, BEGUN, races.pruning(0))
    refused = races.go_on(1, 99, races.pruning(1))
    assert isinstance(refused, Locked) and refused.do
    assert 0 < refused.details["left_ms"] <= SWEEP_LEASE_MS
