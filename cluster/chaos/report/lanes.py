"""A lane for each member: what its process did, what the coordinator thought, what was done to it."""

from __future__ import annotations

from typing import Final

from holdfast.cluster.chaos.report.shapes import Markup, element, seconds, share
from holdfast.cluster.chaos.report.story import Band, Lane, Mark, Span, Story

__all__ = ["FAMILIES", "family_of", "lane", "legend"]

FAMILIES: Final = {
    "process": ("kill", "pause", "restart", "power-cut"),
    "network": (
        "latency",
        "bandwidth",
        "slow-close",
        "timeout",
        "reset-peer",
        "slicer",
        "limit-data",
        "garble",
        "down",
        "partition",
    ),
    "disk": ("bit-rot", "truncate", "swap-values", "old-copy", "disk-swap", "disk-errors", "full-disk"),
    "lie": ("clock", "lie", "amnesia", "comeback"),
}
"""Kinds of faults by what they break: each family has a pattern, so that no colour is needed."""

_FAMILY_WORDS: Final = {
    "process": "its process was broken",
    "network": "its network was broken",
    "disk": "its disk was broken, or full",
    "lie": "it had a wrong clock, lied or forgot",
}
_MARKS: Final = {
    "killed": "M-5 -5L5 5M-5 5L5 -5",
    "stopped": "M-4 -4H4V4H-4Z",
    "started": "M-5 4L0 -5L5 4Z",
    "paused": "M-3 -5V5M3 -5V5",
    "resumed": "M-4 -5L5 0L-4 5Z",
}
_BAR_TOP, _BAR_HEIGHT, _BANDS_TOP, _BAND_HEIGHT = 8, 10, 30, 18


def family_of(kind: str) -> str:
    """Which family a kind of fault belongs to; "lie" for one that is not known here."""
    return next((name for name, kinds in FAMILIES.items() if kind in kinds), "lie")


def _process(span: Span, length: float) -> Markup:
    words = f"{span.what} from {seconds(span.begin)} to {seconds(span.end)}"
    return element(
        "rect",
        element("title", words),
        x=share(span.begin, length),
        width=share(span.end - span.begin, length),
        y=_BAR_TOP,
        height=_BAR_HEIGHT,
        class_=f"process {span.what}",
    )


def _seen(span: Span, length: float) -> Markup:
    y = _BAR_TOP + _BAR_HEIGHT + 4
    return element(
        "line",
        element("title", f"the coordinator took it for {span.what} until {seconds(span.end)}"),
        x1=share(span.begin, length),
        x2=share(span.end, length),
        y1=y,
        y2=y,
        class_=f"seen {span.what}",
    )


def _mark(mark: Mark, length: float) -> Markup:
    return element(
        "svg",
        element("title", f"{mark.what} at {seconds(mark.at)}"),
        element("path", d=_MARKS[mark.what], class_="mark-edge"),
        element("path", d=_MARKS[mark.what], class_=f"mark {mark.what}"),
        x=share(mark.at, length),
        y=_BAR_TOP + _BAR_HEIGHT / 2,
        overflow="visible",
    )


def _band(band: Band, length: float) -> Markup:
    top = _BANDS_TOP + band.row * _BAND_HEIGHT
    family = family_of(band.kind)
    if band.instant:
        words = f"{band.kind} at {seconds(band.begin)} (fault {band.number})"
        return element(
            "svg",
            element("title", words),
            element("path", d="M0 1L6 7L0 13L-6 7Z", class_=f"band {family}"),
            element("text", str(band.number), x="9", y="11", class_="band-name"),
            x=share(band.begin, length),
            y=top,
            overflow="visible",
        )
    words = f"{band.kind} from {seconds(band.begin)} to {seconds(band.end)} (fault {band.number})"
    return element(
        "svg",
        element("title", words),
        element("rect", x="0", y="0.5", width="100%", height=_BAND_HEIGHT - 4, class_=f"band {family}"),
        element("rect", x="0", y="0.5", width="2.5", height=_BAND_HEIGHT - 4, class_=f"band-begin {family}"),
        element("text", f"{band.number} {band.kind}", x="6", y="12", class_="band-name"),
        x=share(band.begin, length),
        y=top,
        width=share(band.end - band.begin, length),
        height=_BAND_HEIGHT,
    )


def _words(lane: Lane, length: float) -> str:
    """A lane for whoever does not see it."""
    told = [f"{mark.what} at {seconds(mark.at)}" for mark in lane.marks]
    told += [
        f"{band.kind} at {seconds(band.begin)}"
        if band.instant
        else f"{band.kind} from {seconds(band.begin)} to {seconds(band.end)}"
        for band in lane.bands
    ]
    return f"{lane.name}: {'; '.join(told) or f'nothing happened to it in {seconds(length)}'}."


def lane(one: Lane, story: Story) -> Markup:
    """One lane's picture, as wide as it is let."""
    length = story.length_s
    height = _BANDS_TOP + one.rows * _BAND_HEIGHT if one.rows else _BANDS_TOP - 4
    middle = _BAR_TOP + _BAR_HEIGHT / 2
    # Of clients nobody notes when they run.
    gone = [element("line", x1="0", x2="100%", y1=middle, y2=middle, class_="gone")]
    drawn = gone if one.process else []
    drawn += [_process(span, length) for span in one.process if span.what != "stopped"]
    drawn += [_seen(span, length) for span in one.seen]
    drawn += [_band(band, length) for band in one.bands]
    drawn += [_mark(mark, length) for mark in one.marks]
    return element(
        "svg", *drawn, width="100%", height=height, role="img", aria_label=_words(one, length), class_="lane"
    )


def legend(story: Story) -> Markup:
    """What the marks and patterns of these lanes mean; only those that occur."""
    entries = []
    marks = {mark.what for one in story.lanes for mark in one.marks}
    for what in (name for name in _MARKS if name in marks):
        shape = element("path", d=_MARKS[what], class_=f"mark {what}", transform="translate(9 9)")
        entries.append((shape, what))
    if "paused" in marks:
        bar = element("rect", x="0", y="4", width="26", height=_BAR_HEIGHT, class_="process paused")
        entries.append((bar, "while paused"))
    seen = {span.what for one in story.lanes for span in one.seen}
    for what in (name for name in ("suspect", "down", "lost", "failed", "stopping") if name in seen):
        line = element("line", x1="0", x2="26", y1="9", y2="9", class_=f"seen {what}")
        entries.append((line, f"{what}, as the coordinator sees it"))
    families = {family_of(fault.kind) for fault in story.faults}
    for family in (name for name in FAMILIES if name in families):
        box = element("rect", x="0", y="2", width="26", height="14", class_=f"band {family}")
        entries.append((box, _FAMILY_WORDS[family]))
    return element(
        "ul",
        *[
            element(
                "li",
                element("svg", shape, width="28", height="18", aria_hidden="true"),
                element("span", words),
            )
            for shape, words in entries
        ],
        class_="legend",
    )
