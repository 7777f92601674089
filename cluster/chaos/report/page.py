"""The page: one self-contained HTML file that says what a run survived, and shows it."""

from __future__ import annotations

from typing import Final

from holdfast.cluster.chaos.history import InvariantJudged
from holdfast.cluster.chaos.report import strips, survival
from holdfast.cluster.chaos.report.lanes import lane, legend
from holdfast.cluster.chaos.report.shapes import Markup, element, join, seconds
from holdfast.cluster.chaos.report.story import Story
from holdfast.cluster.chaos.report.style import PAGE_STYLE, PATTERNS
from holdfast.protocol.terminal import human_bytes, human_count

__all__ = ["page"]

_NOTHING: Final = Markup("")
_SIGNS: Final = {
    "held": "M3 8.5L6.5 12L13 4.5",
    "violated": "M4 4L12 12M4 12L12 4",
    "not judged": "M3.5 8H12.5",
}
_ANSWERS: Final = {0: ("good", "held"), 30: ("bad", "violated"), 31: ("open", "not judged")}


def _sign(verdict: str) -> Markup:
    path = element(
        "path",
        d=_SIGNS[verdict],
        fill="none",
        stroke="currentColor",
        stroke_width="2.4",
        stroke_linecap="round",
    )
    return element("svg", path, width="16", height="16", aria_hidden="true")


def _answer(story: Story) -> str:
    """The run's outcome in a few words."""
    if story.ended is None:
        return "Cut short: nothing is proven"
    if story.ended.exit_code == 0:
        return "Every invariant held"
    if story.ended.exit_code == 30:
        return human_count(len(story.violations), "invariant") + " violated"
    return "Inconclusive" if story.ended.exit_code == 31 else "The harness failed"


def _head(story: Story) -> Markup:
    began, ended = story.began, story.ended
    kind, verdict = _ANSWERS.get(ended.exit_code if ended else -1, ("bad", "violated"))
    nodes = sum(name.startswith("node") for name in began.members)
    sentence = ended.sentence if ended else f"The run was cut short after {seconds(story.length_s)}."
    # The first sentence is the headline, whatever else is told comes below it.
    said, dot, more = sentence.partition(". ")
    said += dot.strip()
    facts = (
        f"{human_count(nodes, 'node')}, {began.k}+{began.m}, seed {began.seed}, "
        f"{seconds(story.length_s)}; Holdfast {began.program}, {began.at}"
    )
    return element(
        "header",
        element("h1", "Chaos run: ", began.scenario),
        element("p", said, class_="said"),
        element("p", more) if more else _NOTHING,
        element("p", _sign(verdict), _answer(story), class_=f"verdict {kind}"),
        element("p", facts, class_="quiet"),
    )


def _tiles(story: Story) -> Markup:
    tiles: list[tuple[str, str, str]] = []
    lowest = story.lowest
    if lowest is not None:
        had = f"{lowest.fewest} of {lowest.fewest_n}"
        tiles.append(("shards at the worst moment", had, f"{lowest.fewest_k} needed to read"))
    failed, unknown = story.count("failed"), story.count("unknown")
    told = f"{story.count('ok')} succeeded, {failed} failed" + (f", {unknown} unknown" if unknown else "")
    tiles.append(("operations", f"{len(story.operations):,}", told))
    kinds = len({fault.kind for fault in story.faults})
    tiles.append(("faults", f"{len(story.faults):,}", f"of {human_count(kinds, 'kind')}"))
    if story.samples:
        last = story.samples[-1]
        tiles.append(
            ("stored by clients", human_bytes(last.written_bytes), f"{last.stripes:,} stripes at the end")
        )
        tiles.append(("read back", human_bytes(last.read_bytes), "compared byte for byte"))
        tiles.append(("repaired", human_bytes(last.repaired_bytes), "brought back to full redundancy"))
    return element(
        "dl",
        *[
            element("div", element("dt", name), element("dd", value, element("small", more)))
            for name, value, more in tiles
        ],
        class_="tiles",
    )


def _violations(story: Story) -> Markup:
    if not story.violations:
        return _NOTHING
    replay = story.ended.replay if story.ended else ""
    shown = []
    for judged in story.violations:
        when = (
            "at the end"
            if judged.at is None
            else f"{seconds(judged.at)} into the run, during {story.phase_at(judged.at)}"
        )
        under_way = _under_way(story, judged)
        shown.append(
            element(
                "article",
                element("h3", f"({judged.letter}) {judged.title}"),
                element("p", element("strong", when), ": ", judged.why or "no more is known"),
                element("p", under_way, class_="quiet") if under_way else _NOTHING,
                element("p", "To see it again:"),
                element("code", replay, class_="replay"),
                class_="violation",
            )
        )
    return element("section", element("h2", "What did not hold"), *shown)


def _under_way(story: Story, judged: InvariantJudged) -> str:
    """Which faults were there at the moment of a violation."""
    at = judged.at
    if at is None:
        return ""
    found = [
        f"{fault.fault} {fault.kind} of {', '.join(fault.targets)}"
        for fault in story.faults
        if fault.t <= at <= (fault.t if fault.instant else story.fault_ends.get(fault.fault, story.length_s))
    ]
    return f"Faults at that moment: {'; '.join(found)}." if found else "No fault was there at that moment."


def _row(name: str, more: str, drawn: str, *, bare: bool = False) -> Markup:
    label = [name, element("br"), " ", element("small", more)] if more else [name]
    return element(
        "div",
        element("div", *label, class_="name"),
        element("div", drawn),
        class_="row bare" if bare else "row",
    )


def _axis(story: Story) -> Markup:
    return _row("", "", join([strips.time_axis(story, 8), strips.time_axis(story, 4)]), bare=True)


def _curve(story: Story) -> Markup:
    drawn = element(
        "svg",
        survival.plot(story),
        width="100%",
        height=survival.PLOT_HEIGHT,
        role="img",
        aria_label=survival.describe(story),
    )
    return element(
        "section",
        element("h2", "How close it came"),
        element(
            "figure",
            _row("shards of the worst-off stripe", "within reach", drawn, bare=True),
            _axis(story),
            element("figcaption", survival.describe(story)),
            class_="plots",
        ),
    )


def _lanes(story: Story) -> Markup:
    rows = [_row(one.name, f" {one.zone}" if one.zone else "", lane(one, story)) for one in story.lanes]
    return element(
        "section",
        element("h2", "What was done to whom"),
        element("div", *rows, _axis(story), class_="plots"),
        legend(story),
        element("p", "The numbers are those of the table of faults below.", class_="quiet"),
    )


def _strips(story: Story) -> Markup:
    marks = "● succeeded, ✕ failed, ◇ unknown"
    return element(
        "section",
        element("h2", "What users felt"),
        element(
            "div",
            _row("time it took", marks, strips.latency(story)),
            _row("user bytes", "", strips.throughput(story)),
            _row("repaired", "", strips.repaired(story)),
            _axis(story),
            class_="plots strips",
        ),
    )


def _invariants(story: Story) -> Markup:
    if not story.invariants:
        return _NOTHING
    rows = []
    for judged in story.invariants:
        word = "held" if judged.verdict == "held" else judged.verdict
        sign = element(
            "span", _sign(judged.verdict), word, class_=f"judged {judged.verdict.replace(' ', '-')}"
        )
        rows.append(
            element(
                "tr",
                element("td", sign),
                element("th", f"({judged.letter}) {judged.title}", scope="row"),
                element("td", f"{judged.looked:,}", class_="number", data_name="looked"),
                element("td", judged.why),
            )
        )
    return element(
        "section", element("h2", "Invariants"), _table(["verdict", "promise", "looked", "why"], rows, {2})
    )


def _table(names: list[str], rows: list[Markup], numbers: set[int]) -> Markup:
    heads = [
        element("th", name, scope="col", class_="number" if number in numbers else None)
        for number, name in enumerate(names)
    ]
    return element("table", element("thead", element("tr", *heads)), element("tbody", *rows), class_="stack")


_FAULTS_SHOWN_MAX: Final = 500


def _faults(story: Story) -> Markup:
    if not story.faults:
        return _NOTHING
    rows = []
    for fault in story.faults[:_FAULTS_SHOWN_MAX]:
        end = story.fault_ends.get(fault.fault)
        until = "at once" if fault.instant else ("to the end" if end is None else f"until {seconds(end)}")
        rows.append(
            element(
                "tr",
                element("td", str(fault.fault), class_="number", data_name="fault"),
                element("th", fault.kind, scope="row"),
                element("td", ", ".join(fault.targets)),
                element("td", f"{seconds(fault.t)}, {until}"),
                element("td", fault.detail),
            )
        )
    more = len(story.faults) - len(rows)
    rest = f"{more:,} more are in history.jsonl." if more > 0 else ""
    return element(
        "details",
        element("summary", f"All {human_count(len(story.faults), 'fault')}"),
        _table(["no.", "kind", "targets", "when", "detail"], rows, {0}),
        element("p", rest, class_="quiet") if rest else _NOTHING,
        open=len(story.faults) <= 20 or None,
    )


def _rest(story: Story, scenario: str) -> Markup:
    parts = []
    if story.notes:
        notes = [element("li", f"{seconds(note.t)}: {note.text}") for note in story.notes[:200]]
        parts.append(element("details", element("summary", "Notes"), element("ul", *notes)))
    if scenario:
        text = element("pre", scenario, tabindex="0", role="region", aria_label="The scenario")
        parts.append(element("details", element("summary", "The scenario, as it was run"), text))
    replay = story.ended.replay if story.ended else ""
    again = (
        join([element("p", "To run the same again:"), element("code", replay, class_="replay")])
        if replay and not story.violations
        else _NOTHING
    )
    beside = "history.jsonl beside this page holds every event; scenario.toml the scenario with its seed."
    return join([*parts, element("footer", again, element("p", beside, class_="quiet"))])


def page(story: Story, scenario: str = "") -> str:
    """The whole page.

    Args:
        scenario: the resolved scenario file, shown as it is.
    """
    title = f"{_answer(story)}: {story.began.scenario}, seed {story.began.seed}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(PAGE_STYLE)),
    )
    body = element(
        "body",
        element("svg", PATTERNS, width="0", height="0", style="position:absolute", aria_hidden="true"),
        element(
            "main",
            _head(story),
            _tiles(story),
            _violations(story),
            _curve(story),
            _lanes(story),
            _strips(story),
            _invariants(story),
            _faults(story),
            _rest(story, scenario),
        ),
    )
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"
