"""Markup made from values: everything that comes from a run is escaped, nothing else is.

Charts have no fixed width: places along the time axis are shares of it (percent), so that one picture
fits a telephone and a wall. Lines, which take no percentages, are drawn in a nested picture of 1000
units that is stretched, while their strokes keep their width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

__all__ = ["STRETCHED", "Markup", "element", "join", "line_through", "seconds", "share", "stretched", "ticks"]

STRETCHED: Final = 1000
"""Units along the time axis within :func:`stretched`."""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def join(parts: Iterable[str]) -> Markup:
    """Several, one after the other; plain text is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def element(tag: str, /, *content: str, **attributes: object) -> Markup:
    """One element. ``class_`` is class, other underscores are hyphens; None leaves an attribute out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if not content:
        return Markup(f"<{tag}{written}/>" if tag in _EMPTY else f"<{tag}{written}></{tag}>")
    return Markup(f"<{tag}{written}>{join(content)}</{tag}>")


_EMPTY: Final = frozenset({"meta", "br", "rect", "line", "circle", "path", "polyline", "polygon", "use"})


def share(value: float, whole: float) -> str:
    """A place along the axis: (1, 4) -> "25%"."""
    return f"{min(100.0, max(0.0, 100.0 * value / whole)):.3f}".rstrip("0").rstrip(".") + "%"


def stretched(height: float, *content: str) -> Markup:
    """What is drawn in units of a thousandth of the width."""
    return element(
        "svg",
        *content,
        width="100%",
        height=f"{height:g}",
        viewBox=f"0 0 {STRETCHED} {height:g}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def line_through(points: Sequence[tuple[float, float]]) -> str:
    """The d of a path through points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def seconds(value: float) -> str:
    """For people: 0.012 -> "12 ms", 3.456 -> "3.5 s", 200 -> "3:20"."""
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ticks(length: float, most: int = 8) -> list[float]:
    """Round moments along an axis, at most so many steps."""
    for step in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400):
        if length / step <= most:
            return [float(at) for at in range(0, int(length) + 1, step)]
    return [0.0, length]
