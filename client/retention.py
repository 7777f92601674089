"""Which snapshots to keep: restic's policy, as a pure function of (snapshots, policy).

Snapshots are taken in groups (by default: of one device and the same paths), newest first. Each
rule names those it keeps; what no rule names may go. The rules are restic's
(``restic forget``, its documentation "Removing backup snapshots"):

- ``last`` N: the N newest ones.
- ``hourly`` N ... ``yearly`` N: of each hour (day, ISO week, month, year) that has one, the newest,
  for the N newest such hours. While N is not used up, the oldest snapshot of all is kept, too.
- ``within`` a duration: those that are younger than it, seen from the newest one of the group, not
  from now: a device that was off for a year loses nothing for it.
- ``tags``: those that have all tags of one of the lists.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Final, Literal

from holdfast.client.snapshots import Snapshot
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import DeviceId

__all__ = [
    "KEEP_ALL",
    "Decision",
    "Duration",
    "GroupBy",
    "Kept",
    "RetentionPolicy",
    "apply_policy",
    "require_something_kept",
]

KEEP_ALL: Final = -1
"""A count that never runs out."""
GroupBy = Literal["device", "paths"]
_YEAR_MIN = 1
_DURATION = re.compile(r"(?:(\d{1,4})y)?(?:(\d{1,5})m)?(?:(\d{1,6})d)?(?:(\d{1,7})h)?")


@dataclass(frozen=True, slots=True)
class Duration:
    """Years, months, days and hours on the calendar, in restic's form: "1y5m7d2h", "30d"."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Raises BadRequest."""
        found = _DURATION.fullmatch(text.strip())
        if found is None or not any(found.groups()):
            raise BadRequest(
                f"{text!r} is not a duration",
                do="Write years, months, days and hours in this order, e.g. 1y5m7d2h or 30d.",
            )
        return cls(*(int(number or 0) for number in found.groups()))

    def __str__(self) -> str:
        units = ((self.years, "y"), (self.months, "m"), (self.days, "d"), (self.hours, "h"))
        return "".join(f"{number}{unit}" for number, unit in units if number) or "0h"

    def before(self, moment: datetime) -> datetime:
        """The moment so long before; a day that the month does not have becomes its last one.

        What lies before the calendar's beginning is its beginning.
        """
        month = moment.year * 12 + moment.month - 1 - 12 * self.years - self.months
        year = month // 12
        if year < _YEAR_MIN:
            return moment.replace(year=_YEAR_MIN, month=1, day=1)
        day = min(moment.day, calendar.monthrange(year, month % 12 + 1)[1])
        try:
            return moment.replace(year=year, month=month % 12 + 1, day=day) - timedelta(
                self.days, 0, 0, 0, 0, self.hours
            )
        except OverflowError:
            return moment.replace(year=_YEAR_MIN, month=1, day=1)


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What to keep; counts of 0 say nothing, KEEP_ALL (-1) never runs out.

    Attributes:
        tags: lists of tags; a snapshot that has all of one list is kept.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Duration | None = None
    tags: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("last", *_PERIODS):
            if getattr(self, name) < KEEP_ALL:
                raise BadRequest(f"a policy cannot keep {getattr(self, name)} snapshots ({name})")

    @property
    def is_empty(self) -> bool:
        """Does it keep nothing at all?"""
        return not (self.within or self.tags or any(getattr(self, name) for name in ("last", *_PERIODS)))


@dataclass(frozen=True, slots=True)
class Kept:
    """A snapshot that stays, and every rule that says so."""

    snapshot: Snapshot
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one group; both lists newest first.

    Attributes:
        device, device_name, paths: what they have in common; empty or None where not grouped by it.
    """

    device: DeviceId | None
    device_name: str
    paths: tuple[str, ...]
    keep: tuple[Kept, ...]
    remove: tuple[Snapshot, ...]


_PERIODS: Final[dict[str, Callable[[datetime], tuple[int, ...]]]] = {
    "hourly": lambda at: (at.year, at.month, at.day, at.hour),
    "daily": lambda at: (at.year, at.month, at.day),
    "weekly": lambda at: tuple(at.isocalendar()[:2]),
    "monthly": lambda at: (at.year, at.month),
    "yearly": lambda at: (at.year,),
}


@dataclass(slots=True)
class _Rule:
    """One counting rule while it goes over a group."""

    name: str
    left: int
    period: Callable[[datetime, int], tuple[int, ...]]
    seen: tuple[int, ...] = field(default=())

    def reason(self, local: datetime, number: int, is_oldest: bool) -> str | None:
        """Why this snapshot is kept by the rule, if it is."""
        if self.left == 0:
            return None
        period = self.period(local, number)
        if period == self.seen and not is_oldest:
            return None
        is_new, self.seen = period != self.seen, period
        if self.left > 0:
            self.left -= 1
        return f"{self.name} snapshot" if is_new else f"oldest {self.name} snapshot"


def _ignoring_number(
    period: Callable[[datetime], tuple[int, ...]],
) -> Callable[[datetime, int], tuple[int, ...]]:
    return lambda at, _: period(at)


def _rules(policy: RetentionPolicy) -> list[_Rule]:
    rules = [_Rule("last", policy.last, lambda _, number: (number,))]
    for name, period in _PERIODS.items():
        rules.append(_Rule(name, getattr(policy, name), _ignoring_number(period)))
    return rules


def _decide(
    snapshots: Sequence[Snapshot], policy: RetentionPolicy, zone: tzinfo | None
) -> tuple[list[Kept], list[Snapshot]]:
    keep: list[Kept] = []
    remove: list[Snapshot] = []
    rules = _rules(policy)
    since = policy.within.before(snapshots[0].time.astimezone(zone)) if policy.within else None
    for number, snapshot in enumerate(snapshots):
        local = snapshot.time.astimezone(zone)
        reasons = [
            f"has {'tag' if len(tags) == 1 else 'tags'} {', '.join(tags)}"
            for tags in policy.tags
            if set(tags) <= set(snapshot.tags)
        ]
        if since is not None and local > since:
            reasons.append(f"within {policy.within}")
        is_oldest = number == len(snapshots) - 1
        reasons += filter(None, (rule.reason(local, number, is_oldest) for rule in rules))
        if reasons:
            keep.append(Kept(snapshot, tuple(reasons)))
        else:
            remove.append(snapshot)
    return keep, remove


def apply_policy(
    snapshots: Iterable[Snapshot],
    policy: RetentionPolicy,
    *,
    group_by: Iterable[GroupBy] = ("device", "paths"),
    zone: tzinfo | None = None,
) -> list[Decision]:
    """What a policy keeps of these snapshots and what it lets go, by group; groups ordered by name and paths.

    Args:
        zone: in which days begin and end; None: this machine's.

    Raises:
        BadRequest: the policy is empty.
    """
    if policy.is_empty:
        raise BadRequest(
            "no rule says what to keep", do="Give at least one, e.g. --keep-daily 7 --keep-monthly 12."
        )
    by = set(group_by)
    groups: dict[tuple[bytes, tuple[str, ...]], list[Snapshot]] = {}
    for snapshot in snapshots:
        key = (
            bytes(snapshot.device) if "device" in by else b"",
            tuple(sorted(snapshot.paths)) if "paths" in by else (),
        )
        groups.setdefault(key, []).append(snapshot)
    made = []
    for (device, paths), members in groups.items():
        # Equal times: the id decides, so that the same snapshots always give the same answer.
        newest_first = sorted(members, key=lambda s: (s.time, bytes(s.id)), reverse=True)
        keep, remove = _decide(newest_first, policy, zone)
        name = newest_first[0].device_name if device else ""
        made.append(Decision(DeviceId(device) if device else None, name, paths, tuple(keep), tuple(remove)))
    return sorted(made, key=lambda d: (d.device_name, d.paths, bytes(d.device or b"")))


def require_something_kept(decisions: Iterable[Decision]) -> None:
    """Raises BadRequest when a group would lose all its snapshots."""
    for decision in decisions:
        if decision.remove and not decision.keep:
            what = " ".join(decision.paths) or "this group"
            of = f" of {decision.device_name}" if decision.device_name else ""
            raise BadRequest(
                f"the policy keeps none of the {len(decision.remove)} snapshots of {what}{of}",
                do="Change the policy, or say --allow-remove-all if that is what you want.",
            )
