"""The retention policy: restic's rules, and what holds for every policy and every history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.client.retention import (
    KEEP_ALL,
    Decision,
    Duration,
    RetentionPolicy,
    apply_policy,
    require_something_kept,
)
from holdfast.client.snapshots import Snapshot
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import DeviceId, SnapshotId

LAPTOP, PHONE = DeviceId(b"l" * 16), DeviceId(b"p" * 16)
NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)


def snapshot(
    when: datetime,
    *tags: str,
    device: DeviceId = LAPTOP,
    paths: tuple[str, ...] = ("/home",),
    number: int | None = None,
) -> Snapshot:
    mark = number if number is not None else int(when.timestamp())
    name = "laptop" if device == LAPTOP else "phone"
    return Snapshot(SnapshotId(mark.to_bytes(32, "big")), when, device, name, paths, tags, 0, 0, 0, 0, 0, ())


def every(hours: float, count: int, end: datetime = NOON) -> list[Snapshot]:
    """So many snapshots, the newest at ``end``."""
    return [snapshot(end - timedelta(hours=hours * number)) for number in range(count)]


def kept(snapshots: list[Snapshot], **rules: Any) -> list[str]:
    """Times of what one group keeps, newest first."""
    (decision,) = apply_policy(snapshots, RetentionPolicy(**rules), zone=UTC)
    return [f"{one.snapshot.time:%m-%d %H}" for one in decision.keep]


def test_the_last_ones_stay() -> None:
    assert kept(every(1, 5), last=2) == ["03-15 12", "03-15 11"]


def test_of_each_hour_and_day_the_newest_stays() -> None:
    halves = every(0.5, 96)
    assert kept(halves, hourly=3) == ["03-15 12", "03-15 11", "03-15 10"]
    assert kept(halves, daily=2) == ["03-15 12", "03-14 23"]
    assert kept(halves, daily=3) == ["03-15 12", "03-14 23", "03-13 23"]


def test_while_a_rule_has_counts_left_the_oldest_snapshot_stays_too() -> None:
    halves = every(0.5, 96)
    (decision,) = apply_policy(halves, RetentionPolicy(daily=7), zone=UTC)
    assert decision.keep[-1].snapshot == halves[-1]
    assert decision.keep[-1].reasons == ("oldest daily snapshot",)
    (decision,) = apply_policy(halves, RetentionPolicy(daily=2), zone=UTC)
    assert decision.remove[-1] == halves[-1]


def test_weeks_are_iso_weeks_across_the_year() -> None:
    around = every(24, 12, datetime(2026, 1, 6, 12, tzinfo=UTC))
    assert kept(around, weekly=2) == ["01-06 12", "01-04 12"], "2026-01-01 is in the week of 2025-12-29"
    assert kept(around, monthly=2) == ["01-06 12", "12-31 12"]
    assert kept(around, yearly=2) == ["01-06 12", "12-31 12"]


def test_days_begin_where_the_person_lives() -> None:
    late = [snapshot(datetime(2026, 3, 15, hour, tzinfo=UTC)) for hour in (1, 9)]
    (utc,) = apply_policy(late, RetentionPolicy(daily=1), zone=UTC)
    (west,) = apply_policy(late, RetentionPolicy(daily=1), zone=ZoneInfo("America/New_York"))
    assert len(utc.remove) == 1
    assert [one.snapshot.time.hour for one in west.keep] == [9]
    assert kept(late, daily=2) == ["03-15 09", "03-15 01"]
    (west,) = apply_policy(late, RetentionPolicy(daily=2), zone=ZoneInfo("America/New_York"))
    assert west.keep[1].reasons == ("daily snapshot",), "in New York it was the evening before"


def test_within_counts_from_the_newest_snapshot_not_from_now() -> None:
    old = every(24, 40, datetime(2001, 5, 1, tzinfo=UTC))
    assert len(kept(old, within=Duration(days=30))) == 30
    assert len(kept(old, within=Duration(months=1))) == 30, "April has 30 days"


def test_tags_keep_what_has_all_of_one_list() -> None:
    both = snapshot(NOON, "a", "b")
    one = snapshot(NOON - timedelta(hours=1), "a")
    none = snapshot(NOON - timedelta(hours=2))
    (decision,) = apply_policy([none, one, both], RetentionPolicy(tags=(("a", "b"), ("c",))), zone=UTC)
    assert [kept.snapshot for kept in decision.keep] == [both]
    assert decision.keep[0].reasons == ("has tags a, b",)
    assert decision.remove == (one, none)


def test_every_rule_that_keeps_a_snapshot_is_named() -> None:
    (decision,) = apply_policy(
        every(1, 3), RetentionPolicy(last=1, daily=1, within=Duration(hours=2)), zone=UTC
    )
    assert decision.keep[0].reasons == ("within 2h", "last snapshot", "daily snapshot")
    assert decision.keep[1].reasons == ("within 2h",)


def test_devices_and_paths_are_groups_of_their_own() -> None:
    mixed = [
        snapshot(NOON, number=1),
        snapshot(NOON, device=PHONE, number=2),
        snapshot(NOON, paths=("/srv", "/home"), number=3),
        snapshot(NOON, paths=("/home", "/srv"), number=4),
    ]
    decisions = apply_policy(mixed, RetentionPolicy(last=1), zone=UTC)
    assert [(d.device_name, d.paths, len(d.remove)) for d in decisions] == [
        ("laptop", ("/home",), 0),
        ("laptop", ("/home", "/srv"), 1),
        ("phone", ("/home",), 0),
    ]
    (everything,) = apply_policy(mixed, RetentionPolicy(last=1), group_by=(), zone=UTC)
    assert len(everything.remove) == 3


def test_a_policy_that_says_nothing_is_refused_and_one_that_leaves_nothing_must_be_meant() -> None:
    with pytest.raises(BadRequest) as refused:
        apply_policy(every(1, 3), RetentionPolicy(), zone=UTC)
    assert refused.value.do
    with pytest.raises(BadRequest):
        RetentionPolicy(daily=-2)
    nothing = apply_policy(every(1, 3), RetentionPolicy(tags=(("never",),)), zone=UTC)
    with pytest.raises(BadRequest, match="none of the 3"):
        require_something_kept(nothing)
    require_something_kept(apply_policy(every(1, 3), RetentionPolicy(last=1), zone=UTC))


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("30d", Duration(days=30)),
        ("1y5m7d2h", Duration(1, 5, 7, 2)),
        ("2m", Duration(months=2)),
        ("12h", Duration(hours=12)),
    ],
)
def test_durations_are_read_as_restic_reads_them(text: str, duration: Duration) -> None:
    assert Duration.parse(text) == duration
    assert str(duration) == text


@pytest.mark.parametrize("text", ["", "d", "5", "5w", "2h1d", "-1d", "1.5d", "99999y", "d5"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Duration.parse(text)


def test_a_day_that_a_month_lacks_is_its_last() -> None:
    assert Duration(months=1).before(datetime(2026, 3, 31, tzinfo=UTC)).day == 28
    assert Duration(years=1).before(datetime(2024, 2, 29, tzinfo=UTC)) == datetime(2023, 2, 28, tzinfo=UTC)
    assert Duration(years=9999).before(NOON).year == 1
    assert Duration(days=999_999).before(NOON).year == 1


counts = st.one_of(st.just(KEEP_ALL), st.integers(0, 5))
policies = st.builds(
    RetentionPolicy,
    last=counts,
    hourly=counts,
    daily=counts,
    weekly=counts,
    monthly=counts,
    yearly=counts,
    within=st.one_of(
        st.none(),
        st.builds(Duration, st.integers(0, 2), st.integers(0, 5), st.integers(0, 40), st.integers(1, 30)),
    ),
    tags=st.lists(st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2).map(tuple), max_size=2).map(
        tuple
    ),
).filter(lambda policy: not policy.is_empty)
histories = st.lists(
    st.builds(
        lambda hours, tags, device: (NOON - timedelta(hours=hours), tuple(tags), device),
        st.integers(0, 24 * 800),
        st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
        st.sampled_from([LAPTOP, PHONE]),
    ),
    min_size=1,
    max_size=60,
).map(
    lambda rows: [
        snapshot(when, *tags, device=device, number=number)
        for number, (when, tags, device) in enumerate(rows)
    ]
)


def remaining(decisions: list[Decision]) -> list[Snapshot]:
    return [kept.snapshot for decision in decisions for kept in decision.keep]


@given(histories, policies)
def test_nothing_is_lost_from_sight_and_what_stays_has_a_reason(
    history: list[Snapshot], policy: RetentionPolicy
) -> None:
    decisions = apply_policy(history, policy, zone=UTC)
    gone = [one for decision in decisions for one in decision.remove]
    assert sorted(one.id for one in [*remaining(decisions), *gone]) == sorted(one.id for one in history)
    assert all(one.reasons for decision in decisions for one in decision.keep)


@given(histories, policies)
def test_the_newest_of_a_group_stays_unless_only_tags_decide(
    history: list[Snapshot], policy: RetentionPolicy
) -> None:
    only_tags = policy == RetentionPolicy(tags=policy.tags)
    for decision in apply_policy(history, policy, zone=UTC):
        everyone = [*(one.snapshot for one in decision.keep), *decision.remove]
        newest = max(everyone, key=lambda one: (one.time, bytes(one.id)))
        assert only_tags or newest in [one.snapshot for one in decision.keep]


@given(histories, policies, st.randoms(use_true_random=False))
def test_the_order_in_which_snapshots_are_listed_does_not_matter(
    history: list[Snapshot], policy: RetentionPolicy, random: Any
) -> None:
    shuffled = list(history)
    random.shuffle(shuffled)
    assert apply_policy(history, policy, zone=UTC) == apply_policy(shuffled, policy, zone=UTC)


@given(histories, policies)
def test_a_larger_count_never_keeps_less_of_what_a_rule_named(
    history: list[Snapshot], policy: RetentionPolicy
) -> None:
    before = {
        one.snapshot.id
        for decision in apply_policy(history, policy, zone=UTC)
        for one in decision.keep
        if any(not reason.startswith("oldest") for reason in one.reasons)
    }
    if policy.daily != KEEP_ALL:
        from dataclasses import replace

        more = replace(policy, daily=policy.daily + 1)
        assert before <= {one.id for one in remaining(apply_policy(history, more, zone=UTC))}


@given(histories, policies)
def test_applying_a_policy_again_to_what_it_kept_drops_no_rule_s_first_choice(
    history: list[Snapshot], policy: RetentionPolicy
) -> None:
    """A head that moved has the policy applied anew: what was kept as the newest of its time stays so."""
    once = apply_policy(history, policy, zone=UTC)
    again = (
        {one.id for one in remaining(apply_policy(remaining(once), policy, zone=UTC))}
        if remaining(once)
        else set()
    )
    named = {
        one.snapshot.id
        for decision in once
        for one in decision.keep
        if any(not reason.startswith("oldest") for reason in one.reasons)
    }
    assert named <= again
