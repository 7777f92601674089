"""The strips below the lanes: how long operations took, what moved, what was repaired; and the time axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil, floor, log10
from typing import Final

from holdfast.cluster.chaos.report.shapes import (
    STRETCHED,
    Markup,
    element,
    line_through,
    seconds,
    share,
    stretched,
    ticks,
)
from holdfast.cluster.chaos.report.story import Operation, Story
from holdfast.protocol.terminal import human_bytes

__all__ = ["latency", "repaired", "throughput", "time_axis"]

_LATENCY_HEIGHT: Final = 120
_RATE_HEIGHT: Final = 90
_REPAIRED_HEIGHT: Final = 56
_TOP: Final = 16
_COLUMNS: Final = 300
_ROWS: Final = 40
_FAINTEST_S: Final = 0.001
_BINS: Final = 200
_SHAPES: Final = {
    "ok": "M-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0 -5 0",
    "failed": "M-4 -4L4 4M-4 4L4 -4",
    "unknown": "M0 -5L5 0L0 5L-5 0Z",
}


def _strip(height: float, label: str, *drawn: str) -> Markup:
    return element(
        "svg", *drawn, width="100%", height=f"{height:g}", role="img", aria_label=label, class_="strip"
    )


def time_axis(story: Story, most: int) -> Markup:
    """Moments along the bottom."""
    length = story.length_s
    drawn = []
    for tick in ticks(length, most):
        at = share(tick, length)
        place = "start" if tick == 0 else ("end" if tick > 0.95 * length else "middle")
        drawn.append(element("line", x1=at, x2=at, y1="0", y2="5", class_="tick"))
        name = seconds(tick) if tick >= 100 else f"{tick:g} s"
        drawn.append(element("text", name, x=at, y="18", class_=f"tick-name {place}"))
    return element("svg", *drawn, width="100%", height="24", aria_hidden="true", class_=f"axis-of-{most}")


# Latency


def _decades(operations: Sequence[Operation]) -> tuple[int, int]:
    took = [max(operation.took_s, _FAINTEST_S) for operation in operations]
    low, high = floor(log10(min(took))), ceil(log10(max(took)) + 1e-9)
    return low, max(high, low + 1)


def latency(story: Story) -> Markup:
    """Every operation where it ended, by how long it took; the scale is logarithmic."""
    ended = [operation for operation in story.operations if operation.end is not None]
    if not ended:
        return _strip(40, "No operation ended.", element("text", "no operation ended", x="4", y="24"))
    low, high = _decades(ended)

    def y(took_s: float) -> float:
        above = (log10(max(took_s, _FAINTEST_S)) - low) / (high - low)
        return _LATENCY_HEIGHT - 6 - above * (_LATENCY_HEIGHT - _TOP - 6)

    drawn, names = [], []
    for decade in range(low, high + 1):
        at = f"{y(10.0**decade):.1f}"
        drawn.append(element("line", x1="0", x2="100%", y1=at, y2=at, class_="grid"))
        name = seconds(10.0**decade) if decade < 0 else f"{10**decade} s"
        names.append(element("text", name, x="4", y=f"{y(10.0**decade) - 3:.1f}", class_="axis"))
    # Long runs have more operations than a page has room for: what lies on one spot is one mark.
    spots = Counter(
        (
            operation.outcome or "unknown",
            round((operation.end or 0.0) / story.length_s * _COLUMNS),
            round(y(operation.took_s) / _LATENCY_HEIGHT * _ROWS),
        )
        for operation in ended
    )
    for (outcome, column, row), count in sorted(spots.items()):
        drawn.append(
            element(
                "svg",
                element("path", d=_SHAPES[outcome], class_=f"spot {outcome}"),
                x=share(column, _COLUMNS),
                y=f"{row * _LATENCY_HEIGHT / _ROWS:.1f}",
                overflow="visible",
                opacity=f"{min(1.0, 0.55 + 0.15 * count):.2f}" if outcome == "ok" else None,
            )
        )
    typical = story.typical_s()
    words = f"{len(ended)} operations ended; {story.count('failed')} failed, {story.count('unknown')} unknown"
    if typical is not None:
        words += f"; half of those that succeeded took at most {seconds(typical)}"
    return _strip(_LATENCY_HEIGHT, words + ".", *drawn, *names)


# Throughput


def _rates(story: Story, name: str) -> list[float]:
    """Bytes a second in each of some equal spans of time."""
    width = story.length_s / _BINS
    rates = [0.0] * _BINS
    for before, after in zip(story.samples, story.samples[1:], strict=False):
        moved = max(0, getattr(after, name) - getattr(before, name))
        span = after.t - before.t
        if not moved or span <= 0:
            continue
        first, last = int(before.t / width), min(_BINS - 1, int(after.t / width))
        for number in range(first, last + 1):
            overlap = min(after.t, (number + 1) * width) - max(before.t, number * width)
            rates[number] += moved * max(0.0, overlap) / span / width
    return rates


def _area(rates: Sequence[float], peak: float, middle: float, height: float) -> str:
    step = STRETCHED / _BINS
    points = [(0.0, middle)]
    for number, rate in enumerate(rates):
        y = middle - height * rate / peak
        points += [(number * step, y), ((number + 1) * step, y)]
    return line_through([*points, (float(STRETCHED), middle)]) + "Z"


def throughput(story: Story) -> Markup:
    """What clients wrote (upwards) and read (downwards)."""
    written, read = _rates(story, "written_bytes"), _rates(story, "read_bytes")
    peak = max(*written, *read)
    if not peak:
        return _strip(40, "No bytes moved.", element("text", "no bytes moved", x="4", y="24"))
    middle, most = _RATE_HEIGHT / 2, _RATE_HEIGHT / 2 - 3
    drawn = [
        stretched(
            _RATE_HEIGHT,
            element("path", d=_area(written, peak, middle, most), class_="written"),
            element("path", d=_area(read, peak, middle, -most), class_="read"),
        ),
        element("line", x1="0", x2="100%", y1=middle, y2=middle, class_="grid strong"),
        element("text", f"written, at most {human_bytes(max(written))}/s", x="4", y="12", class_="axis"),
        element(
            "text", f"read, at most {human_bytes(max(read))}/s", x="4", y=_RATE_HEIGHT - 4, class_="axis"
        ),
    ]
    total = story.samples[-1]
    words = f"Clients wrote {human_bytes(total.written_bytes)} and read {human_bytes(total.read_bytes)}."
    return _strip(_RATE_HEIGHT, words, *drawn)


def repaired(story: Story) -> Markup:
    """Bytes brought back since the run began."""
    total = story.samples[-1].repaired_bytes if story.samples else 0
    if not total:
        return _strip(30, "Nothing was repaired.", element("text", "nothing was repaired", x="4", y="19"))
    scale, foot = STRETCHED / story.length_s, _REPAIRED_HEIGHT - 2
    points = [(0.0, float(foot))]
    for sample in story.samples:
        y = foot - (foot - _TOP) * sample.repaired_bytes / total
        points += [(sample.t * scale, points[-1][1]), (sample.t * scale, y)]
    points.append((float(STRETCHED), points[-1][1]))
    area = line_through([*points, (float(STRETCHED), float(foot))]) + "Z"
    drawn = [
        stretched(
            _REPAIRED_HEIGHT,
            element("path", d=area, class_="repaired"),
            element("path", d=line_through(points), class_="curve thin", vector_effect="non-scaling-stroke"),
        ),
        element("text", f"{human_bytes(total)} brought back", x="4", y="12", class_="axis"),
    ]
    return _strip(_REPAIRED_HEIGHT, f"{human_bytes(total)} were brought back in all.", *drawn)
