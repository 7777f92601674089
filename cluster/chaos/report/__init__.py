"""A run's report: one self-contained HTML page, and the one curve as SVG; pure functions of its events.

story       what happened, put in order for telling
shapes      markup, places along the time axis
survival    the curve of the fewest surviving shards
lanes       what was done to whom
strips      latency, throughput, repair
page        all of it on one page
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from holdfast.cluster.chaos.history import AnyEvent, read_history
from holdfast.cluster.chaos.report.page import page
from holdfast.cluster.chaos.report.story import story_of
from holdfast.cluster.chaos.report.survival import picture

__all__ = ["report_html", "survival_svg", "write_report"]


def report_html(events: Iterable[AnyEvent], scenario: str = "") -> str:
    """The page of a run, for a browser: no other file, no network, no script.

    Args:
        scenario: the resolved scenario file, shown as it is.

    Raises:
        BadRequest: the events are no run.
    """
    return page(story_of(events), scenario)


def survival_svg(events: Iterable[AnyEvent]) -> str:
    """The curve of the fewest surviving shards as an SVG file.

    Raises:
        BadRequest: the events are no run.
    """
    return picture(story_of(events))


def write_report(folder: Path) -> Path:
    """Make ``index.html`` from the ``history.jsonl`` (and ``scenario.toml``) in a report's folder; gives it.

    Raises:
        BadRequest: the history is none.
        FileNotFoundError: there is none.
    """
    scenario = folder / "scenario.toml"
    text = scenario.read_text() if scenario.exists() else ""
    made = folder / "index.html"
    made.write_text(report_html(read_history(folder / "history.jsonl"), text))
    return made
