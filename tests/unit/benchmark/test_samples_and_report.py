"""What the benchmark makes of its samples: medians, ratios of one round, a page that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from holdfast.cluster.benchmark.measuring import Cost
from holdfast.cluster.benchmark.report import html_report
from holdfast.cluster.benchmark.samples import Figure, Sample, Samples


def sample(subject: str, number: int, seconds: float, *, phase: str = "backup", cpu: float = 1.0) -> Sample:
    cost = Cost(seconds, {"client": cpu, "nodes": 2 * cpu}, {"client": number * 2**20}, wire_bytes=1500)
    return Sample("big", phase, subject, number, 1, 1000, cost)


@pytest.fixture
def samples() -> Samples:
    made = Samples()
    for number, seconds in ((1, 1.0), (2, 4.0), (3, 2.0)):
        made.add_floor(number, seconds / 10_000, seconds / 50_000)
        made.all.append(sample("borg", number, 2 * seconds))
        made.all.append(sample("holdfast", number, seconds))
        made.all.append(sample("holdfast", number, seconds, phase="restore"))
    return made


def test_the_middle_of_the_rounds_and_their_spread_are_told(samples: Samples) -> None:
    assert samples.mb_per_s(samples.of("big", "backup", "holdfast")) == Figure(0.0005, 0.00025, 0.001)


def test_ratios_are_to_the_floor_of_the_same_round(samples: Samples) -> None:
    """Rounds differ by four, ratios do not: that is what the floor is for."""
    assert samples.of_floor(samples.of("big", "backup", "holdfast")) == pytest.approx(Figure(0.1, 0.1, 0.1))
    assert samples.of_floor(samples.of("big", "restore", "holdfast")).middle == pytest.approx(0.02)


def test_the_best_floor_of_a_round_counts(samples: Samples) -> None:
    samples.add_floor(1, 0.5, 0.5)
    samples.add_floor(1, 0.00001, 0.5)
    assert samples.floors[1] == (0.00001, 1.0 / 50_000)


def test_processor_seconds_are_those_of_all_processes(samples: Samples) -> None:
    assert samples.cpu_s_per_gb(samples.of("big", "backup", "borg")).middle == pytest.approx(3e6)


def test_rows_name_what_was_known_of_each(samples: Samples) -> None:
    rows = {(row["phase"], row["subject"]): row for row in samples.rows()}
    assert list(rows) == [("backup", "holdfast"), ("backup", "borg"), ("restore", "holdfast")]
    ours = rows["backup", "holdfast"]
    assert (ours["rounds"], ours["wire_bytes_per_byte"], ours["rss_mib_client"]) == (3, 1.5, 3.0)
    assert "disk_bytes_per_byte" not in ours


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(samples: Samples) -> str:
    return html_report(
        samples,
        machine="a <machine>",
        when="today",
        notes=[("borg", "1.2 & more")],
        steady={"help_ms": 50.0},
        curves=[("by size", "MB/s", [("64 MiB", 1.0, 0.5, 2.0), ("overwritten 5 x", 1.0, 1.0, 1.0)])],
    )


def test_the_page_is_whole_and_fetches_nothing(samples: Samples) -> None:
    text = page(samples)
    tags = _Tags()
    tags.feed(text)
    assert not tags.open
    assert not re.search(r"<script|<link|<img|https?://|url\(|@import", text)
    assert text.count("<svg") == text.count("</svg>") >= 4


def test_what_others_say_is_escaped(samples: Samples) -> None:
    assert "a &lt;machine&gt;" in page(samples) and "1.2 &amp; more" in page(samples)


def test_the_page_knows_light_and_dark(samples: Samples) -> None:
    assert "prefers-color-scheme: dark" in page(samples)


def test_no_bar_leaves_its_plot(samples: Samples) -> None:
    for width, height, inside in re.findall(r'viewBox="0 0 (\d+) (\d+)"(.*?)</svg>', page(samples)):
        for x, w in re.findall(r'<rect class="\w+" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', inside):
            assert float(x) + float(w) <= float(width)
        assert all(float(y) <= float(height) for y in re.findall(r'y="([\d.]+)"', inside))


def test_no_bar_covers_a_label(samples: Samples) -> None:
    assert "overwritten 5 x" in page(samples)
    for inside in re.findall(r"<svg.*?</svg>", page(samples)):
        labels = re.findall(r'<text x="0" y="\d+">([^<]+)<', inside)
        bars = [float(x) for x in re.findall(r'<rect class="\w+" x="([\d.]+)"', inside)]
        assert all(bar >= 8 * len(label) for bar, label in zip(bars, labels, strict=True))
