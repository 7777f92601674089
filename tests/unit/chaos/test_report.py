"""A chaos run's page says what was survived, shows every fault, and needs nothing but itself."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import msgspec
import pytest
from support.made_runs import TITLES, MadeRun, made_run

from holdfast.cluster.chaos.faults import KINDS
from holdfast.cluster.chaos.history import FaultBegan, MemberChanged, RunBegan, Sampled
from holdfast.cluster.chaos.report import report_html, survival_svg, write_report
from holdfast.cluster.chaos.report.lanes import FAMILIES
from holdfast.cluster.chaos.report.shapes import seconds, share, ticks
from holdfast.cluster.chaos.report.story import story_of
from holdfast.protocol.errors import BadRequest


def parsed(html: str) -> ElementTree.Element:
    """The page as a tree: it is well-formed, or this raises."""
    return ElementTree.fromstring(html.removeprefix("<!doctype html>\n"))


def text_of(node: ElementTree.Element) -> str:
    return " ".join("".join(node.itertext()).split())


def test_a_page_says_what_was_survived_and_shows_every_fault_and_invariant() -> None:
    page = parsed(report_html(made_run()))
    said = text_of(page)
    assert "Survived 2 kills, a partition, a paused coordinator" in said
    assert "Every invariant held" in said
    for letter, title in TITLES.items():
        assert f"({letter}) {title}" in said
    lanes = [node.get("aria-label", "") for node in page.iter("svg") if node.get("class") == "lane"]
    assert [lane.split(":")[0] for lane in lanes] == [*(f"node-{n}" for n in range(1, 7)), "coordinator"]
    assert "killed at 6.0 s" in lanes[1] and "started at 13.0 s" in lanes[1] and "kill from" in lanes[1]
    assert "paused at 17.5 s" in lanes[6] and "resumed at 18.5 s" in lanes[6]
    assert "bit-rot at 9.5 s" in lanes[3]


def test_each_violation_has_its_moment_what_was_going_on_and_a_line_to_see_it_again() -> None:
    page = parsed(report_html(made_run(violated=True)))
    shown = [text_of(node) for node in page.iter("article")]
    assert len(shown) == 2
    assert "16.2 s into the run, during chaos: photos/2019 <of> client-2" in shown[0]
    assert "partition of node-1, node-3" in shown[0]
    assert "at the end: 2 shards on node-4 belong to no row" in shown[1]
    assert all("holdfast chaos run first-kill --seed 7" in text for text in shown)
    assert "2 invariants violated" in text_of(page)
    curve = ElementTree.fromstring(survival_svg(made_run(violated=True)))
    assert "(a) violated" in text_of(curve), "its moment is marked on the curve, too"


def test_a_run_that_was_cut_short_says_so_and_proves_nothing() -> None:
    said = text_of(parsed(report_html(made_run(cut_short=True))))
    assert "Cut short: nothing is proven" in said
    assert "Every invariant held" not in said


def test_what_comes_from_a_run_cannot_become_markup() -> None:
    hostile = '"><script>alert(1)</script><img src=x onerror=y>&'
    run = MadeRun(scenario=hostile)
    run.fault(1, hostile, [hostile], 1.0, 2.0, hostile)
    run.judged(3.0, ("a", hostile, 1.5))
    run.end(3.0, 30, hostile)
    for made in (report_html(run.events(), hostile), survival_svg(run.events())):
        tags = {node.tag.rpartition("}")[2] for node in parsed(made).iter()}
        assert not tags & {"script", "img"}
        assert "<script" not in made and "<img" not in made


@pytest.mark.parametrize("violated", [False, True])
def test_a_page_needs_no_network_no_script_and_no_other_file(violated: bool) -> None:
    html = report_html(made_run(violated=violated), 'name = "first-kill"')
    page = parsed(html)
    assert not [node.tag for node in page.iter() if node.tag in ("script", "link", "img", "iframe")]
    for node in page.iter():
        assert not {"src", "href", "onclick"} & {*node.keys()}, node.tag
    assert not re.search(r"@import|url\((?!#of-)", html)


def test_a_page_is_readable_without_colour_in_the_dark_and_by_ear() -> None:
    html = report_html(made_run(violated=True))
    assert "prefers-color-scheme:dark" in html
    for family in FAMILIES:
        assert f'id="of-{family}"' in html, "each family of faults has a pattern"
    page = parsed(html)
    assert page.get("lang") == "en"
    headings = [int(node.tag[1]) for node in page.iter() if re.fullmatch(r"h[1-6]", str(node.tag))]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    for node in page.iter("svg"):
        if node.get("role") == "img":
            assert node.get("aria-label"), "a picture that says nothing"
    for head in page.iter("th"):
        assert head.get("scope") in ("row", "col")


def test_every_kind_of_fault_has_a_family_and_so_a_pattern() -> None:
    assert {kind for kinds in FAMILIES.values() for kind in kinds} == set(KINDS)


def test_the_curve_stands_alone_and_tells_the_worst_moment() -> None:
    made = survival_svg(made_run(violated=True))
    picture = ElementTree.fromstring(made)
    told = text_of(picture)
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert "one stripe had 3 of 6 shards within reach; reading it takes 4, so 3 could not be read" in told
    assert "lowest: 3 at 15.0 s" in told
    assert "with fewer than k = 4" in told
    assert survival_svg(made_run(violated=True)) == made


def test_a_stripe_of_another_profile_is_drawn_by_what_it_has_to_spare() -> None:
    def curve(fewest: int, k: int, n: int) -> list[str]:
        run = MadeRun()
        run.add(Sampled, 1.0, stripes=1, fewest=5, fewest_k=4, fewest_n=6)
        run.add(Sampled, 2.0, stripes=1, fewest=fewest, fewest_k=k, fewest_n=n)
        run.end(3.0, 0, "Survived.")
        picture = ElementTree.fromstring(survival_svg(run.events()))
        return [str(path.get("d")) for path in picture.iter() if path.get("class") == "curve"]

    assert curve(4, 3, 4) == curve(5, 4, 6), "one shard to spare, as before"
    assert curve(4, 3, 4) != curve(4, 4, 6)


def test_a_run_in_which_nothing_happened_still_makes_a_page() -> None:
    (began, *_) = MadeRun().events()
    for events in ([began], MadeRun().events()):
        assert "No stripe was stored" in text_of(parsed(report_html(events)))
        ElementTree.fromstring(survival_svg(events))


def test_what_is_no_run_is_refused() -> None:
    for events in ([], made_run()[1:]):
        with pytest.raises(BadRequest):
            report_html(events)


def test_faults_that_overlap_have_rows_of_their_own_and_one_without_an_end_lasts() -> None:
    run = MadeRun()
    run.fault(1, "latency", ["node-1"], 1.0, 5.0)
    run.add(FaultBegan, 2.0, fault=2, declared=1, kind="down", targets=["node-1"])
    run.fault(3, "slicer", ["node-1"], 6.0, 7.0)
    run.fault(4, "pause", ["clients"], 8.0, 9.0)
    run.end(10.0, 31, "Nothing is proven.")
    story = story_of(run.events())
    bands = {band.number: band for lane in story.lanes for band in lane.bands}
    assert (bands[1].row, bands[2].row, bands[3].row) == (0, 1, 0)
    assert bands[2].end == 10.0
    assert story.lanes[-1].name == "clients"


def test_a_process_that_ended_by_itself_is_not_shown_as_killed() -> None:
    run = MadeRun()
    run.killed(1, "node-1", 2.0, 4.0)
    for state, t in (("stopped", 6.0), ("running", 7.0)):
        run.add(MemberChanged, t, member="node-1", state=state, seen_by="machine")
    story = story_of(run.events())
    assert [mark.what for mark in story.lanes[0].marks] == ["killed", "started", "stopped", "started"]


def test_long_runs_do_not_make_endless_pages() -> None:
    run, random = MadeRun(), Random(1)
    run.phases(1.0, 4.0, 7000.0, 7100.0, 7150.0)
    run.operations(7000.0, 2, random, (10.0, 5000.0))
    run.samples(7200.0, [], random)
    for number in range(3000):
        run.fault(number, "latency", [f"node-{number % 6 + 1}"], 2.0 * number, 2.0 * number + 3.0)
    run.end(7200.0, 0, "Survived two hours.")
    html = report_html(run.events())
    assert len(html) < 6_000_000
    assert "2,500 more are in history.jsonl" in html


def test_a_report_is_made_from_the_files_of_a_run(tmp_path: Path) -> None:
    events = made_run()
    lines = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
    (tmp_path / "history.jsonl").write_bytes(lines + b'{"cut off')
    (tmp_path / "scenario.toml").write_text('name = "<first>"\n')
    html = write_report(tmp_path).read_text()
    assert html == report_html(events, 'name = "<first>"\n')
    assert "&lt;first&gt;" in html


def test_the_story_counts_what_came_of_operations() -> None:
    story = story_of(made_run())
    assert len(story.operations) == story.count("ok") + story.count("failed") + story.count("unknown")
    assert story.count("failed") > 0 and story.count("unknown") > 0
    assert story.lowest is not None and isinstance(story.lowest, Sampled) and story.lowest.fewest == 4
    assert isinstance(story.began, RunBegan)
    assert story.phase_at(16.2) == "chaos"


def test_words_and_places_along_the_axis() -> None:
    assert [seconds(value) for value in (0.012, 3.456, 99, 200, 7201)] == [
        "12 ms",
        "3.5 s",
        "99.0 s",
        "3:20",
        "2:00:01",
    ]
    assert [share(1, 4), share(5, 4), share(-1, 4)] == ["25%", "100%", "0%"]
    for length in (1.0, 33.2, 600.0, 86400.0 * 7):
        assert 2 <= len(ticks(length)) <= 9
