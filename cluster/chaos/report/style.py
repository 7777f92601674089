"""How reports look: light and dark by the reader's choice, patterns where colours alone would tell."""

from __future__ import annotations

from typing import Final

from holdfast.cluster.chaos.report.shapes import Markup

__all__ = ["CHART_STYLE", "PAGE_STYLE", "PATTERNS"]

_COLOURS: Final = """
:root{color-scheme:light dark;--ground:#fff;--raised:#f5f6f8;--ink:#1a1d21;--quiet:#545b64;--line:#d5d9de;
--curve:#0b5cad;--curve-soft:#0b5cad22;--needed:#b3261e;--below:#b3261e14;--chaos:#f0a20018;
--process:#b8480a;--network:#0b6aa8;--disk:#0a7a55;--lie:#8a4a86;
--run:#7c8794;--good:#17683a;--bad:#b3261e;--open:#7a5200}
@media (prefers-color-scheme:dark){:root{--ground:#14171b;--raised:#1d2126;--ink:#e8eaed;--quiet:#a4abb5;
--line:#383e46;--curve:#6cb4ff;--curve-soft:#6cb4ff26;--needed:#ff8a80;--below:#ff8a801c;--chaos:#f0a20020;
--process:#ff9d5c;--network:#6cc1ff;--disk:#5fd3a5;--lie:#dd9bd8;
--run:#8791a0;--good:#6fd695;--bad:#ff8a80;--open:#f2c14e}}
"""

CHART_STYLE: Final = (
    _COLOURS
    + """
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;fill:var(--ink)}
svg .title{font-size:18px;font-weight:650}
svg .sentence{font-size:13px}
svg .ground{fill:var(--ground)}
svg .axis,svg .tick-name,svg .phase-name{fill:var(--quiet);font-size:11px}
svg .axis{paint-order:stroke;stroke:var(--ground);stroke-width:3px;stroke-linejoin:round}
svg .tick-name.middle,svg .tick-name:not(.start,.end){text-anchor:middle}
svg .tick-name.start{text-anchor:start}svg .tick-name.end{text-anchor:end}
.tick{stroke:var(--quiet)}
.grid{stroke:var(--line);stroke-width:1}.grid.strong{stroke:var(--quiet)}
.phase{fill:none;stroke:var(--line)}.phase.chaos{fill:var(--chaos)}
.needed{stroke:var(--needed);stroke-width:2;stroke-dasharray:7 4}
svg .needed-name{fill:var(--needed);text-anchor:end;font-weight:600}
.below{fill:var(--below)}
.curve{fill:none;stroke:var(--curve);stroke-width:2.5;stroke-linejoin:round}.curve.thin{stroke-width:1.5}
.curve-area{fill:var(--curve-soft)}
.lowest{fill:var(--ground);stroke:var(--curve);stroke-width:2.5}
svg .lowest-name{font-weight:650;paint-order:stroke;stroke:var(--ground);stroke-width:4px}
svg .lowest-name.late,svg .violated-name.late{text-anchor:end}
.violated-at{stroke:var(--needed);stroke-width:2}
svg .violated-name{fill:var(--needed);font-weight:650;paint-order:stroke;stroke:var(--ground);
stroke-width:4px}
"""
)

PAGE_STYLE: Final = (
    CHART_STYLE
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 48px}
h1{font-size:1.05rem;font-weight:600;margin:0;color:var(--quiet)}
h2{font-size:1.15rem;margin:2.4rem 0 .6rem}
h3{font-size:1rem;margin:0 0 .3rem}
p{margin:.4rem 0}
.said{font-size:clamp(1.25rem,1rem + 1.4vw,1.75rem);line-height:1.3;font-weight:650;margin:.5rem 0 .6rem;
text-wrap:balance}
.verdict{display:inline-flex;gap:.5em;align-items:center;font-weight:650;border:2px solid;border-radius:6px;
padding:.1em .6em;margin:.7rem 0 0}
.verdict.good,.held{color:var(--good)}.verdict.bad,.violated{color:var(--bad)}
.verdict.open,.not-judged{color:var(--open)}
.verdict svg,.judged svg{flex:none}
.quiet,caption,figcaption,.facts dt{color:var(--quiet)}
.quiet{font-size:.92rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;
margin:1.4rem 0 0;padding:0}
.tiles div{background:var(--raised);border-radius:8px;padding:.6rem .8rem}
.tiles dt{font-size:.82rem;color:var(--quiet)}
.tiles dd{margin:0;font-size:1.25rem;font-weight:650;line-height:1.25}
.tiles dd small{display:block;font-size:.82rem;font-weight:400}
figure{margin:0}figcaption{font-size:.92rem;margin:.4rem 0 0}
svg{display:block}
svg svg{overflow:hidden}svg svg[overflow=visible]{overflow:visible}
.row{display:grid;grid-template-columns:118px minmax(0,1fr);column-gap:12px;align-items:start;
border-top:1px solid var(--line)}
.row.bare{border-top:0}
.row>.name{font-size:.86rem;padding:6px 0 2px;overflow-wrap:anywhere}
.row>.name small{color:var(--quiet)}
.plots{padding-top:4px}
.strips .row{padding:6px 0}
.axis-of-4{display:none}
.legend{list-style:none;margin:.7rem 0 0;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;
font-size:.86rem}
.legend li{display:flex;gap:.4rem;align-items:center}
.process.running{fill:var(--run)}
.process.paused{fill:var(--ground);stroke:var(--run);stroke-width:1.5;stroke-dasharray:3 2}
.gone{stroke:var(--run);stroke-width:1;stroke-dasharray:1 4}
.seen{stroke:var(--ink);stroke-width:3}.seen.suspect,.seen.stopping{stroke-width:2;stroke-dasharray:2 3}
.seen.down{stroke-dasharray:8 3}
.mark{fill:none;stroke:var(--ink);stroke-width:2.5;stroke-linecap:round}
.mark.started,.mark.resumed,.mark.stopped{fill:var(--ink);stroke-width:1}
.mark-edge{fill:none;stroke:var(--ground);stroke-width:6;stroke-linecap:round;stroke-linejoin:round}
.band{stroke-width:1}
.band.process{fill:url(#of-process);stroke:var(--process)}.band.network{fill:url(#of-network);stroke:var(--network)}
.band.disk{fill:url(#of-disk);stroke:var(--disk)}.band.lie{fill:url(#of-lie);stroke:var(--lie)}
.band-begin.process{fill:var(--process)}.band-begin.network{fill:var(--network)}
.band-begin.disk{fill:var(--disk)}.band-begin.lie{fill:var(--lie)}
svg .band-name{font-size:11px;font-weight:600;paint-order:stroke;stroke:var(--ground);stroke-width:4px;
stroke-linejoin:round}
.spot{fill:none;stroke:var(--curve);stroke-width:1.6}.spot.ok{fill:var(--curve);stroke:none}
.spot.failed{stroke:var(--bad);stroke-width:2}.spot.unknown{fill:var(--ground);stroke:var(--ink)}
.written{fill:var(--curve);opacity:.75}.read{fill:var(--disk);opacity:.75}.repaired{fill:var(--curve-soft)}
.violation{border:2px solid var(--bad);border-radius:8px;padding:.8rem 1rem;margin:.8rem 0}
code,pre{font:.88rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
.replay{display:block;background:var(--raised);border:1px solid var(--line);border-radius:6px;
padding:.5rem .7rem;user-select:all;overflow-wrap:anywhere;margin:.4rem 0}
pre{background:var(--raised);padding:.8rem;border-radius:8px;overflow:auto;margin:.6rem 0}
.wide{overflow-x:auto}
.wide:focus-visible,summary:focus-visible,a:focus-visible{outline:3px solid var(--curve);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;vertical-align:top;padding:.4rem .7rem .4rem 0;border-top:1px solid var(--line)}
thead th{color:var(--quiet);font-weight:600;border-top:0;white-space:nowrap}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.judged{display:inline-flex;gap:.4em;align-items:center;font-weight:650;white-space:nowrap}
summary{cursor:pointer;font-weight:600;margin:1.2rem 0 .3rem}
footer{margin-top:2.6rem;border-top:1px solid var(--line);padding-top:1rem}
@media (max-width:640px){main{padding:18px 14px 36px}.row{grid-template-columns:minmax(0,1fr)}
.row>.name{padding:5px 0 0}.row>.name br{display:none}
.axis-of-8{display:none}.axis-of-4{display:block}
.stack thead{display:none}.stack tr{display:block;border-top:1px solid var(--line);padding:.5rem 0}
.stack td,.stack th{display:block;border:0;padding:.05rem 0}.stack td.number{text-align:left}
.stack td[data-name]::before{content:attr(data-name) ": ";color:var(--quiet)}}
@media print{.replay{border-color:#000}details{display:none}}
"""
)

PATTERNS: Final = Markup(
    "<defs>"
    '<pattern id="of-process" width="7" height="7" patternUnits="userSpaceOnUse"'
    ' patternTransform="rotate(45)">'
    '<rect width="7" height="7" fill="var(--process)" fill-opacity=".12"/>'
    '<rect width="2" height="7" fill="var(--process)" fill-opacity=".6"/></pattern>'
    '<pattern id="of-network" width="7" height="5" patternUnits="userSpaceOnUse">'
    '<rect width="7" height="5" fill="var(--network)" fill-opacity=".12"/>'
    '<rect width="7" height="1.5" y="1" fill="var(--network)" fill-opacity=".6"/></pattern>'
    '<pattern id="of-disk" width="6" height="6" patternUnits="userSpaceOnUse">'
    '<rect width="6" height="6" fill="var(--disk)" fill-opacity=".12"/>'
    '<circle cx="3" cy="3" r="1.4" fill="var(--disk)" fill-opacity=".8"/></pattern>'
    '<pattern id="of-lie" width="8" height="8" patternUnits="userSpaceOnUse">'
    '<rect width="8" height="8" fill="var(--lie)" fill-opacity=".12"/>'
    '<path d="M0 0L8 8M8 0L0 8" stroke="var(--lie)" stroke-opacity=".6" fill="none"/></pattern>'
    "</defs>"
)
