"""The one curve: how many shards the worst-off stripe still had, against the k that it takes to read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from holdfast.cluster.chaos.report.shapes import (
    STRETCHED,
    Markup,
    element,
    join,
    line_through,
    seconds,
    share,
    stretched,
    ticks,
)
from holdfast.cluster.chaos.report.story import Story
from holdfast.cluster.chaos.report.style import CHART_STYLE, PATTERNS

__all__ = ["PLOT_HEIGHT", "describe", "picture", "plot"]

PLOT_HEIGHT: Final = 200
_TOP, _BOTTOM = 34, 8
_LABELLED_MAX: Final = 8


def _y(count: float, most: int) -> float:
    return PLOT_HEIGHT - _BOTTOM - count / most * (PLOT_HEIGHT - _TOP - _BOTTOM)


def describe(story: Story) -> str:
    """The curve in a sentence, for whoever does not see it."""
    lowest = story.lowest
    if lowest is None or lowest.fewest is None:
        return "No stripe was stored while anybody looked."
    spare = lowest.fewest - lowest.fewest_k
    ended = next((sample for sample in reversed(story.samples) if sample.fewest is not None), lowest)
    words = (
        f"At worst, {seconds(lowest.t)} into the run, one stripe had {lowest.fewest} of {lowest.fewest_n} "
        f"shards within reach; reading it takes {lowest.fewest_k}"
    )
    if spare < 0:
        words += f", so {lowest.unreadable} could not be read just then"
    words += f". At the end the worst-off stripe had {ended.fewest} of {ended.fewest_n}"
    if any(sample.fewest_k not in (0, story.began.k) for sample in story.samples):
        words += "; stripes that need fewer shards are drawn as far above the line as they have some to spare"
    return f"{words}."


def _steps(story: Story, most: int, k: int) -> Iterator[list[tuple[float, float]]]:
    """The curve, in one stretch for each time that there were stripes to speak of.

    What matters is how far above its own k a stripe is: one of another profile is drawn as if k were its own.
    """
    stretch: list[tuple[float, float]] = []
    scale = STRETCHED / story.length_s
    for sample, end in zip(story.samples, [s.t for s in story.samples[1:]] + [story.length_s], strict=False):
        if sample.fewest is None:
            if stretch:
                yield stretch
            stretch = []
            continue
        y = _y(max(0, sample.fewest - sample.fewest_k + k), most)
        if not stretch or stretch[-1][1] != y:
            stretch.append((sample.t * scale, y))
            stretch.append((end * scale, y))
        else:
            stretch[-1] = (end * scale, y)
    if stretch:
        yield stretch


def _phases(story: Story) -> Markup:
    shown = []
    for span in story.phases:
        place = {
            "x": share(span.begin, story.length_s),
            "width": share(span.end - span.begin, story.length_s),
        }
        label = element("text", span.what, x="4", y="13", class_="phase-name")
        ground = element("rect", width="100%", height="100%", class_=f"phase {span.what}")
        shown.append(element("svg", ground, label, y="0", height=str(PLOT_HEIGHT), **place))
    return join(shown)


def _grid(most: int, k: int) -> Markup:
    counts = range(most + 1) if most <= _LABELLED_MAX else sorted({0, k, most})
    lines = []
    for count in counts:
        y = f"{_y(count, most):.1f}"
        if count != k:
            lines.append(element("line", x1="0", x2="100%", y1=y, y2=y, class_="grid"))
        lines.append(element("text", str(count), x="4", y=f"{_y(count, most) - 3:.1f}", class_="axis"))
    return join(lines)


def _needed(most: int, k: int) -> Markup:
    """The line that must not be crossed, and what lies below it."""
    y = _y(k, most)
    below = element(
        "rect", x="0", y=f"{y:.1f}", width="100%", height=f"{PLOT_HEIGHT - y:.1f}", class_="below"
    )
    line = element("line", x1="0", x2="100%", y1=f"{y:.1f}", y2=f"{y:.1f}", class_="needed")
    words = f"with fewer than k = {k} it cannot be read"
    label = element("text", words, x="100%", dx="-6", y=PLOT_HEIGHT - 12, class_="needed-name")
    return join([below, line, label])


def _lowest(story: Story, most: int, k: int) -> Markup:
    lowest = story.lowest
    if lowest is None or lowest.fewest is None:
        return Markup("")
    y, at = _y(max(0, lowest.fewest - lowest.fewest_k + k), most), share(lowest.t, story.length_s)
    late = lowest.t > 0.6 * story.length_s
    needs = f", and needs {lowest.fewest_k}," if lowest.fewest_k != k else ""
    label = f"lowest: {lowest.fewest}{needs} at {seconds(lowest.t)}"
    return join(
        [
            element("circle", cx=at, cy=f"{y:.1f}", r="5", class_="lowest"),
            element(
                "text", label, x=at, dx="-10" if late else "10", y=f"{y - 8:.1f}",
                class_="lowest-name late" if late else "lowest-name",
            ),
        ]
    )  # fmt: skip


def _violations(story: Story) -> Markup:
    """Where something did not hold."""
    marks = []
    for judged in story.violations:
        if judged.at is not None:
            at = share(judged.at, story.length_s)
            late = judged.at > 0.9 * story.length_s
            marks.append(element("line", x1=at, x2=at, y1=_TOP - 14, y2=PLOT_HEIGHT, class_="violated-at"))
            marks.append(
                element(
                    "text", f"({judged.letter}) violated", x=at, dx="-5" if late else "5", y=PLOT_HEIGHT - 30,
                    class_="violated-name late" if late else "violated-name",
                )
            )  # fmt: skip
    return join(marks)


def plot(story: Story) -> Markup:
    """Everything between the axes, as wide as whatever it stands in."""
    k = story.began.k
    most = max([sample.fewest_n for sample in story.samples] + [story.began.k + story.began.m])
    curves = []
    for points in _steps(story, most, k):
        needed = _y(k, most)
        spare = [(x, min(y, needed)) for x, y in points]
        area = [(points[0][0], needed), *spare, (points[-1][0], needed)]
        curves.append(element("path", d=line_through(area) + "Z", class_="curve-area"))
        curves.append(
            element("path", d=line_through(points), class_="curve", vector_effect="non-scaling-stroke")
        )
    return join(
        [
            _phases(story),
            _needed(most, k),
            _grid(most, k),
            stretched(PLOT_HEIGHT, *curves),
            _violations(story),
            _lowest(story, most, k),
        ]
    )


# The curve alone, as a file of its own

_WIDTH, _HEIGHT, _LEFT, _ABOVE = 960, 340, 24, 84


def picture(story: Story) -> str:
    """A whole SVG file: title, curve, time axis, and the sentence of the run."""
    inner = _WIDTH - 2 * _LEFT
    at_foot = _ABOVE + PLOT_HEIGHT
    axis = []
    for tick in ticks(story.length_s):
        x = _LEFT + inner * tick / story.length_s
        axis.append(element("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=at_foot, y2=at_foot + 5, class_="tick"))
        axis.append(element("text", f"{tick:g} s", x=f"{x:.1f}", y=at_foot + 19, class_="tick-name"))
    shape = f"{story.began.k}+{story.began.m}"
    title = f"Fewest surviving shards of any stripe: {story.began.scenario}, {shape}, seed {story.began.seed}"
    sentence = story.ended.sentence if story.ended else "The run was cut short."
    return element(
        "svg",
        element("title", title),
        element("desc", describe(story)),
        element("style", Markup(CHART_STYLE)),
        PATTERNS,
        element("rect", width="100%", height="100%", class_="ground"),
        element("text", title, x=_LEFT, y="32", class_="title"),
        *[
            element("text", line, x=_LEFT, y=52 + 16 * number, class_="sentence")
            for number, line in enumerate(_wrapped(sentence, 130)[:2])
        ],
        element("svg", plot(story), x=_LEFT, y=_ABOVE, width=inner, height=PLOT_HEIGHT),
        *axis,
        element("text", f"k = {story.began.k} of {story.began.k + story.began.m} shards read a stripe. "
                "Made by holdfast chaos.", x=_LEFT, y=_HEIGHT - 12, class_="tick-name start"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        width=_WIDTH,
        height=_HEIGHT,
        role="img",
    )  # fmt: skip


def _wrapped(text: str, width: int) -> list[str]:
    from textwrap import wrap

    return wrap(text, width) or [""]
