"""The report: one self-contained HTML page, with plots that a person can read.

Inline SVG, no scripts, nothing fetched; colours follow the reader's light or dark.
A bar is the median, the thin line the spread of the rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from holdfast.cluster.benchmark.corpora import CORPORA
from holdfast.cluster.benchmark.samples import PHASES, Samples

__all__ = ["html_report"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2630; --soft: #5b6875; --line: #d9dfe5; --page: #fbfcfd;
  --own: #0b7285; --peer: #a9b4bf; --floor: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9aa7b4; --line: #33404c;
  --page: #12181e; --own: #3bc9db; --peer: #5b6875; --floor: #ffa94d; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 70rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .2rem; }
p, dl { margin: .3rem 0 1rem; } .soft { color: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 1.4rem 2rem; }
@media (max-width: 30rem) { .plots { grid-template-columns: 1fr; } }
figure { margin: 0; } figcaption { font-weight: 600; margin-bottom: .2rem; }
svg { width: 100%; height: auto; display: block; }
text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.own { fill: var(--own); } .peer { fill: var(--peer); } .spread { stroke: var(--ink); stroke-width: 1.5; }
.floor { stroke: var(--floor); stroke-width: 1.5; stroke-dasharray: 4 3; } .value { fill: var(--soft); }
.tables { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: right; padding: .25rem .45rem;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
th { color: var(--soft); font-weight: 600; } tr.own-row td { font-weight: 600; }
"""
_BAR, _GAP, _LEFT, _WIDTH, _RIGHT = 18, 8, 82, 440, 92
_LETTER = 8
"""So wide is a letter of a label at most, on average."""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _plot(title: str, unit: str, bars: Sequence[tuple[str, float, float, float]], floor: float = 0.0) -> str:
    """Horizontal bars: (label, median, least, most); a dashed line where the floor lies, if it fits."""
    most = max([top for *_, top in bars]) or 1.0
    left = max(_LEFT, *(_LETTER * len(label) for label, *_ in bars))
    scale = (_WIDTH - left - _RIGHT) / most
    height = len(bars) * (_BAR + _GAP) + 4
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for row, (label, middle, least, top) in enumerate(bars):
        y = row * (_BAR + _GAP) + 2
        kind = "own" if label == "holdfast" else "peer"
        parts.append(f'<text x="0" y="{y + 14}">{escape(label)}</text>')
        parts.append(
            f'<rect class="{kind}" x="{left}" y="{y}" width="{middle * scale:.1f}" height="{_BAR}" rx="2"/>'
        )
        parts.append(
            f'<line class="spread" x1="{left + least * scale:.1f}" x2="{left + top * scale:.1f}" '
            f'y1="{y + _BAR / 2}" y2="{y + _BAR / 2}"/>'
        )
        x = left + top * scale + 6
        parts.append(f'<text class="value" x="{x:.1f}" y="{y + 14}">{_number(middle)} {unit}</text>')
    if 0 < floor <= most:
        x = left + floor * scale
        parts.append(f'<line class="floor" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
    parts.append("</svg>")
    return f"<figure><figcaption>{escape(title)}</figcaption>{''.join(parts)}</figure>"


def _plots(samples: Samples, corpus: str) -> str:
    by_files = CORPORA[corpus].by_files
    made = []
    for phase, words in PHASES.items():
        found = {name: samples.of(corpus, phase, name) for name in samples.subjects()}
        found = {name: runs for name, runs in found.items() if runs}
        if not found:
            continue
        figures = {
            name: samples.files_per_s(runs) if by_files else samples.mb_per_s(runs)
            for name, runs in found.items()
        }
        bars = [(name, f.middle, f.least, f.most) for name, f in figures.items()]
        floor = 0.0
        if not by_files and samples.floors and phase in ("backup", "restore", "degraded", "repair"):
            floor = samples.floor_mb_per_s(phase in ("restore", "degraded")).middle
        made.append(_plot(words, "files/s" if by_files else "MB/s", bars, floor))
    cpu = [
        (name, f.middle, f.least, f.most)
        for name in samples.subjects()
        if (runs := samples.of(corpus, "backup", name))
        for f in [samples.cpu_s_per_gb(runs)]
    ]
    if cpu:
        made.append(_plot("processor seconds per GB, backup, all processes", "s", cpu))
    return f'<div class="plots">{"".join(made)}</div>'


_COLUMNS = (
    ("phase", "phase"), ("subject", "program"), ("mb_per_s", "MB/s"), ("files_per_s", "files/s"),
    ("of_floor", "of floor"), ("cpu_s_per_gb", "CPU s/GB"), ("rss_mib_client", "client MiB"),
    ("rss_mib_nodes", "node MiB"), ("rss_mib_coordinator", "coord. MiB"),
    ("wire_bytes_per_byte", "wire B/B"), ("disk_bytes_per_byte", "disk B/B"),
)  # fmt: skip


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for _, title in _COLUMNS)
    body = []
    for row in rows:
        cells = [row.get(name, "") for name, _ in _COLUMNS]
        texts = [f"{cell:,}" if isinstance(cell, int | float) else str(cell) for cell in cells]
        kind = ' class="own-row"' if row["subject"] == "holdfast" else ""
        body.append(f"<tr{kind}>{''.join(f'<td>{escape(text)}</td>' for text in texts)}</tr>")
    inner = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="tables"><table>{inner}</table></div>'


def _curve(name: str, points: Sequence[tuple[str, float, float, float]], unit: str) -> str:
    return _plot(name, unit, points)


def html_report(
    samples: Samples,
    *,
    machine: str,
    when: str,
    notes: Sequence[tuple[str, str]],
    steady: dict[str, Any],
    curves: Sequence[tuple[str, str, Sequence[tuple[str, float, float, float]]]] = (),
) -> str:
    """The whole page.

    Args:
        machine, when: in words.
        notes: (program, what to know of it), also of what was skipped.
        steady: figures that are no rates.
        curves: (title, unit, points as for a plot).
    """
    rows = samples.rows()
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Holdfast benchmark</title><style>{_STYLE}</style></head><body>",
        f"<h1>Holdfast benchmark</h1><p class='soft'>{escape(machine)}<br>{escape(when)}</p>",
        "<p>Bars are medians, the thin line is the spread of the rounds. Every program ran as whole "
        "processes, in turn, in the same minutes, on the same trees. Holdfast writes n/k times the bytes to "
        "several nodes through real sockets, and fsyncs them; its peers write one copy to a folder.</p>",
    ]
    if samples.floors:
        into, out = samples.floor_mb_per_s(False), samples.floor_mb_per_s(True)
        parts.append(
            f"<p>Floor (one process, same primitives, no network, no database): "
            f"<b>{into.middle:,.0f} MB/s</b> in ({into.least:,.0f} to {into.most:,.0f}), "
            f"<b>{out.middle:,.0f} MB/s</b> out ({out.least:,.0f} to {out.most:,.0f}); "
            "the dashed line where it fits.</p>"
        )
    for corpus in samples.corpora():
        parts.append(f"<h2>{escape(corpus)}</h2><p class='soft'>{escape(CORPORA[corpus].what)}</p>")
        parts.append(_plots(samples, corpus))
        parts.append(_table([row for row in rows if row["corpus"] == corpus]))
    if curves:
        parts.append("<h2>Curves</h2><div class='plots'>")
        parts.extend(_curve(title, points, unit) for title, unit, points in curves)
        parts.append("</div>")
    if steady:
        parts.append("<h2>Other figures</h2><div class='tables'><table><tbody>")
        parts.extend(
            f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{value}</td></tr>"
            for name, value in steady.items()
        )
        parts.append("</tbody></table></div>")
    parts.append("<h2>Programs</h2><table><tbody>")
    parts.extend(f"<tr><td>{escape(name)}</td><td>{escape(note)}</td></tr>" for name, note in notes)
    parts.append("</tbody></table></body></html>")
    return "".join(parts)
