"""What the catalogue promises, whichever engine keeps it; against a model that is a dict."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import text
from support.catalogue import NODES, Book, chunk_id, let_in, upload_id

from holdfast.coordinator.catalogue.accounts import account_row
from holdfast.coordinator.catalogue.engine import Catalogue
from holdfast.coordinator.catalogue.schema import metadata
from holdfast.coordinator.limits import COUNTED_BYTES_MAX
from holdfast.protocol.errors import BadRequest, Conflict, QuotaExceeded, Refused, UploadEnded, WrongDirectory
from holdfast.protocol.ids import NodeId
from holdfast.protocol.limits import UPLOAD_SILENCE_MS
from holdfast.protocol.messages.uploads import ReportEntry

ALL = set(range(6))


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    made = Book.open(tmp_path)
    yield made
    made.catalogue.close()


def test_migrations_make_exactly_the_schema(book: Book) -> None:
    def differences(connection: object) -> list[object]:
        return compare_metadata(MigrationContext.configure(connection), metadata)  # type: ignore[arg-type]

    assert book.catalogue.read_now(differences) == []


def test_a_newer_catalogue_is_refused_and_left_alone(tmp_path: Path) -> None:
    book = Book.open(tmp_path)
    book.catalogue.write_now(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    book.catalogue.close()
    before = (tmp_path / "catalogue.sqlite").read_bytes()
    with pytest.raises(WrongDirectory, match="9999") as caught:
        Catalogue(f"sqlite:///{tmp_path / 'catalogue.sqlite'}")
    assert caught.value.do
    assert (tmp_path / "catalogue.sqlite").read_bytes() == before


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    book = Book.open(tmp_path)
    ada = book.account(b"ada")
    book.begin(ada, 1)
    book.commit(ada, 1, [book.stripe(chunk_id(1), ALL)])
    book.catalogue.close()
    book = Book.open(tmp_path)
    (row,) = book.locate(ada, [chunk_id(1)])
    assert row is not None and row.generation == upload_id(1) and not row.missing
    book.catalogue.close()


def test_a_command_that_fails_halfway_changes_nothing(book: Book) -> None:
    ada = book.account(b"ada", quota_bytes=1500)
    book.begin(ada, 1)
    with pytest.raises(QuotaExceeded):
        book.commit(ada, 1, [book.stripe(chunk_id(1), ALL), book.stripe(chunk_id(2), ALL)])
    assert book.locate(ada, [chunk_id(1), chunk_id(2)]) == [None, None]
    book.commit(ada, 1, [book.stripe(chunk_id(1), ALL)])


def test_accounts_do_not_see_each_other(book: Book) -> None:
    ada, eve = book.account(b"ada"), book.account(b"eve")
    book.begin(ada, 1)
    book.begin(eve, 2)
    book.commit(ada, 1, [book.stripe(chunk_id(1), ALL)])
    assert book.locate(eve, [chunk_id(1)]) == [None]
    stored, send = book.claim(eve, 2, [chunk_id(1)])
    assert stored == [None] and send[0] is not None and send[0].replaces == b""
    with pytest.raises(UploadEnded):
        book.claim(eve, 1, [chunk_id(1)])
    with pytest.raises(UploadEnded):
        book.commit(eve, 1, [book.stripe(chunk_id(1), ALL)])
    book.end(eve, 1)
    book.claim(ada, 1, [chunk_id(1)])
    with pytest.raises(Conflict):
        book.begin(eve, 1)
    entry = ReportEntry(chunk_id(1), upload_id(1), 0, NODES[0], "absent", b"")
    assert book.report(eve, [entry]) == 0
    (row,) = book.locate(ada, [chunk_id(1)])
    assert row is not None and not row.missing


def test_a_report_degrades_only_what_it_can_know(book: Book) -> None:
    ada = book.account(b"ada")
    book.begin(ada, 1)
    book.commit(ada, 1, [book.stripe(chunk_id(1), ALL)])

    def entry(slot: int, node: NodeId, generation: int = 1) -> ReportEntry:
        return ReportEntry(chunk_id(1), upload_id(generation), slot, node, "wrong", b"")

    assert book.report(ada, [entry(0, NODES[1])]) == 0, "not the holder"
    assert book.report(ada, [entry(6, NODES[0]), entry(-1, NODES[0])]) == 0, "no such slot"
    assert book.report(ada, [entry(0, NODES[0], 9)]) == 0, "another generation"
    assert book.report(ada, [entry(0, NODES[0]), entry(0, NODES[0])]) == 1
    assert book.report(ada, [entry(0, NODES[0])]) == 0
    (row,) = book.locate(ada, [chunk_id(1)])
    assert row is not None and row.missing == [0]


def test_without_a_quota_any_expectations_are_fine_together(book: Book) -> None:
    """Nobody adds them up: eight of the largest are more than the database counts to."""
    ada = book.account(b"ada")
    for number in range(1, 12):
        book.begin(ada, number, expected=COUNTED_BYTES_MAX)


def test_quota_counts_what_is_used_and_what_open_uploads_reserved(book: Book) -> None:
    ada = book.account(b"ada", quota_bytes=10_000)
    book.begin(ada, 1, expected=6_000)
    with pytest.raises(QuotaExceeded):
        book.begin(ada, 2, expected=5_000)
    book.end(ada, 1)
    book.begin(ada, 2, expected=5_000)


def test_an_invite_is_used_once_but_may_be_repeated_by_its_user(book: Book) -> None:
    book.account(b"ada")
    for _ in range(2):  # the answer was lost: asked again
        book.catalogue.write_now(lambda c: let_in(c, b"ada", b"invite of ada"))
    with pytest.raises(Refused):
        book.catalogue.write_now(lambda c: let_in(c, b"eve", b"invite of ada"))
    with pytest.raises(Refused):
        book.catalogue.write_now(lambda c: let_in(c, b"eve", b"made up"))


def test_silent_uploads_end_and_nothing_of_them_but_committed_chunks_stays(book: Book) -> None:
    ada = book.account(b"ada")
    book.begin(ada, 1, now_ms=0)
    book.commit(ada, 1, [book.stripe(chunk_id(1), ALL)])
    assert book.expire(UPLOAD_SILENCE_MS) == 0
    assert book.expire(UPLOAD_SILENCE_MS + 1) == 1
    assert book.expire(UPLOAD_SILENCE_MS + 1) == 0
    with pytest.raises(UploadEnded):
        book.claim(ada, 1, [chunk_id(1)])
    with pytest.raises(UploadEnded):
        book.begin(ada, 1)
    book.begin(ada, 2)
    stored, _ = book.claim(ada, 2, [chunk_id(1)])
    assert stored[0] is not None, "what was committed is not sent again"


def test_an_upload_replaces_its_own_stripe_when_that_was_lost_meanwhile(book: Book) -> None:
    ada = book.account(b"ada")
    book.begin(ada, 1)
    book.commit(ada, 1, [book.stripe(chunk_id(1), ALL)])
    book.report(
        ada, [ReportEntry(chunk_id(1), upload_id(1), slot, NODES[slot], "absent", b"") for slot in range(3)]
    )
    _, (send,) = book.claim(ada, 1, [chunk_id(1)])
    assert send is not None and send.replaces == upload_id(1)
    again = book.stripe(chunk_id(1), ALL, replaces=send.replaces, variant=1)
    (answer,) = book.commit(ada, 1, [again])
    assert answer.missing == 0
    (row,) = book.locate(ada, [chunk_id(1)])
    assert row is not None and row.stripe == again.stripe and not row.missing


def test_a_commit_that_names_a_chunk_twice_is_refused(book: Book) -> None:
    ada = book.account(b"ada")
    book.begin(ada, 1)
    with pytest.raises(BadRequest):
        book.commit(ada, 1, [book.stripe(chunk_id(1), ALL), book.stripe(chunk_id(1), ALL)])


def test_thousands_of_chunks_in_one_question(book: Book) -> None:
    ada = book.account(b"ada")
    book.begin(ada, 1)
    chunks = [chunk_id(number) for number in range(3000)]
    for start in range(0, 3000, 500):
        book.commit(ada, 1, [book.stripe(chunk, ALL) for chunk in chunks[start : start + 500]])
    assert all(row is not None for row in book.locate(ada, chunks))
    assert book.catalogue.read_now(lambda c: account_row(c, ada[0])).used_bytes == 3_000_000


@dataclass
class Row:
    """The model's row."""

    generation: int
    variant: int
    missing: set[int]


class CatalogueAgainstModel(RuleBasedStateMachine):
    """Claims, commits, late receipts, reports, ends, in any order and repeated."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.book = Book.open(Path(self.folder.name))
        self.ada = self.book.account(b"ada")
        self.rows: dict[int, Row] = {}
        self.open: set[int] = set()
        self.ended: set[int] = set()

    @rule(number=st.integers(1, 4))
    def begin(self, number: int) -> None:
        if number in self.ended:
            with pytest.raises(UploadEnded):
                self.book.begin(self.ada, number)
        else:
            self.book.begin(self.ada, number)
            self.open.add(number)

    @rule(number=st.integers(1, 4))
    def end(self, number: int) -> None:
        self.book.end(self.ada, number)
        if number in self.open:
            self.open.discard(number)
            self.ended.add(number)

    @rule(
        number=st.integers(1, 4),
        chunk=st.integers(0, 3),
        variant=st.integers(0, 1),
        missing=st.sets(st.integers(0, 5), max_size=1),
        obey=st.booleans(),
    )
    def claim_and_commit(self, number: int, chunk: int, variant: int, missing: set[int], obey: bool) -> None:
        wanted = chunk_id(chunk)
        if number not in self.open:
            with pytest.raises(UploadEnded):
                self.book.claim(self.ada, number, [wanted])
            return
        (stored,), (send,) = self.book.claim(self.ada, number, [wanted])
        row = self.rows.get(chunk)
        usable = row is not None and 6 - len(row.missing) >= 4
        assert (stored is not None) == usable and (send is None) == usable
        replaces = b""
        if row is not None and send is not None:
            assert send.replaces == upload_id(row.generation)
            replaces = send.replaces if obey else b""
        durable = ALL - missing
        stripe = self.book.stripe(wanted, durable, replaces=replaces, variant=variant)
        (answer,) = self.book.commit(self.ada, number, [stripe])
        (again,) = self.book.commit(self.ada, number, [stripe])
        own = row is not None and (row.generation, row.variant) == (number, variant)
        if row is None or (replaces and not own):
            self.rows[chunk] = Row(number, variant, set(missing))
        elif own:
            row.missing -= durable
        row = self.rows[chunk]
        assert answer.generation == again.generation == upload_id(row.generation)
        assert answer.missing == again.missing == len(row.missing)

    @rule(chunk=st.integers(0, 3), slots=st.sets(st.integers(0, 5), max_size=3))
    def report(self, chunk: int, slots: set[int]) -> None:
        row = self.rows.get(chunk)
        if row is None:
            return
        entries = [
            ReportEntry(chunk_id(chunk), upload_id(row.generation), slot, NODES[slot], "absent", b"")
            for slot in slots
        ]
        assert self.book.report(self.ada, entries) == len(slots - row.missing)
        row.missing |= slots

    @invariant()
    def located_is_the_model(self) -> None:
        if not hasattr(self, "book"):
            return
        found = self.book.locate(self.ada, [chunk_id(number) for number in range(4)])
        for number, row in enumerate(found):
            expected = self.rows.get(number)
            assert (row is None) == (expected is None)
            if row is not None and expected is not None:
                assert row.generation == upload_id(expected.generation)
                assert set(row.missing) == expected.missing
        used = self.book.catalogue.read_now(lambda c: account_row(c, self.ada[0])).used_bytes
        assert used == 1000 * len(self.rows)

    def teardown(self) -> None:
        if hasattr(self, "book"):
            self.book.catalogue.close()
            self.folder.cleanup()


TestCatalogueAgainstModel = CatalogueAgainstModel.TestCase
TestCatalogueAgainstModel.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
