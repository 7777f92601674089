"""``holdfast bench``."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.protocol.terminal import Output, guarded, json_option, option

if TYPE_CHECKING:
    from holdfast.cluster.benchmark.samples import Samples
    from holdfast.cluster.benchmark.subject import Subject

__all__ = ["bench"]

_PEERS = "borg,restic,rclone,tahoe"
_STREAMS = 300
"""So many that one wait for the disk is not the 99th percentile."""


@click.command()
@option("--quick", is_flag=True, help="Two corpora, one round, no peers unless named: a few minutes less.")
@option(
    "--full", is_flag=True, help="All corpora: 20,000 files, 4 GiB, text, a database. Needs 40 GB of disk."
)
@option("--rounds", type=click.IntRange(1, 50), help="Default: 3; with --quick 1.")
@option("--corpora", metavar="NAMES", help="Only these, separated by commas.")
@option("--peers", metavar="NAMES", help=f"Default: {_PEERS}, as far as they are installed; 'none' for none.")
@option(
    "--curves",
    is_flag=True,
    help="Also how rates change with size, rows, churn and clients. Needs 25 GB of disk.",
)
@option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a report with plots.")
@option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), envvar="HOLDFAST_BENCH_DIR",
        help="Where trees and stores are put. Default: the system's temporary folder.")  # fmt: skip
@json_option
@guarded
def bench(
    quick: bool,
    full: bool,
    rounds: int | None,
    corpora: str | None,
    peers: str | None,
    curves: bool,
    page: Path | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Measure this machine: Holdfast, other backup programs, and the machine's own limit.

    Starts a cluster of six nodes of its own, and deletes it at the end. Machines are noisy:
    compare what stands in one run, as ratios, never figures of two runs.
    """
    from holdfast.cluster.benchmark.corpora import CORPORA, FULL, QUICK, USUAL
    from holdfast.protocol.errors import BadRequest
    from holdfast.protocol.terminal import configure_logging, end_in_order, look_for_garbage

    configure_logging(False, "error")
    look_for_garbage()
    end_in_order()
    if quick and full:
        raise click.UsageError("--quick and --full exclude each other")
    names = corpora.split(",") if corpora else QUICK if quick else FULL if full else USUAL
    unknown = [name for name in names if name not in CORPORA]
    if unknown:
        raise BadRequest(f"there is no corpus {unknown[0]!r}", do=f"There are {', '.join(CORPORA)}.")
    wanted = peers if peers is not None else "none" if quick else _PEERS
    asked = [name for name in wanted.split(",") if name not in ("", "none")]
    output = Output(as_json)
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=folder) as temporary:
        told = _run(Path(temporary), list(names), asked, rounds or (1 if quick else 3), curves, output)
    if page is not None:
        _write_page(page, told)
        output.note(f"The report is in {page}.")


def _machine() -> str:
    cpu = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.processor(),
    )  # fmt: skip
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} cores ({cpu}), {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def _found_peers(
    names: Sequence[str], folder: Path, ending: ExitStack
) -> tuple[list[Subject], list[tuple[str, str]]]:
    from holdfast.cluster.benchmark.peers import find_peer
    from holdfast.cluster.benchmark.subject import Absent

    found: list[Subject] = []
    skipped = []
    for name in names:
        try:
            peer = find_peer(name, folder)
            ending.callback(peer.close)
            found.append(peer)
        except Absent as error:
            skipped.append((name, f"skipped: {error}"))
    return found, skipped


def _run(
    folder: Path, names: list[str], asked: list[str], rounds: int, curves: bool, output: Output
) -> dict[str, Any]:
    from holdfast.cluster.benchmark.corpora import CORPORA
    from holdfast.cluster.benchmark.curves import measure_curves
    from holdfast.cluster.benchmark.holdfast_subject import HoldfastSubject
    from holdfast.cluster.benchmark.repair import measure_repair
    from holdfast.cluster.benchmark.run import Course
    from holdfast.cluster.benchmark.steady import measure_steady, memory_at_rest
    from holdfast.cluster.local import LocalCluster
    from holdfast.protocol.errors import HoldfastError

    profile = "4+2"
    machine = _machine()
    output.say(machine)
    with ExitStack() as ending:
        peers, skipped = _found_peers(asked, folder, ending)
        for name, why in skipped:
            output.note(f"{name}: {why}")
        cluster = ending.enter_context(LocalCluster(6, profile, folder=folder / "cluster"))
        subject = HoldfastSubject(cluster, folder / "holdfast")
        steady = memory_at_rest(subject)
        course = Course(subject, peers, folder, profile, output.note)
        for number in range(1, rounds + 1):
            course.round(number, [CORPORA[name] for name in names])
        steady |= measure_steady(subject, folder, streams=_STREAMS)
    samples = course.samples
    if "big" in names:
        try:
            samples.all.extend(measure_repair(folder, rounds, profile, output.note))
        except HoldfastError as error:  # the other figures stand
            skipped.append(("repair", f"not measured: {error}"))
    drawn = measure_curves(folder, output.note) if curves else []
    programs = [(subject.name, f"{subject.version}: {subject.notes}") for subject in (subject, *peers)]
    notes = [*programs, *skipped]
    _tell(output, samples, steady, notes)
    output.summary(
        machine=machine,
        programs=dict(programs),
        skipped=dict(skipped),
        rounds=rounds,
        floor_in_mb_per_s=round(samples.floor_mb_per_s(False).middle, 1) if samples.floors else None,
        floor_out_mb_per_s=round(samples.floor_mb_per_s(True).middle, 1) if samples.floors else None,
        curves=[{"title": title, "unit": unit, "points": points} for title, unit, points in drawn],
        **steady,
    )
    return {"samples": samples, "machine": machine, "notes": notes, "steady": steady, "curves": drawn}


def _tell(output: Output, samples: Samples, steady: dict[str, Any], notes: Sequence[tuple[str, str]]) -> None:
    if samples.floors:
        into, out = samples.floor_mb_per_s(False), samples.floor_mb_per_s(True)
        output.say(f"floor: {into.middle:,.0f} MB/s in, {out.middle:,.0f} MB/s out")
    output.say()
    output.say(
        f"{'corpus':<9}{'phase':<10}{'program':<10}{'MB/s':>8}{'files/s':>9}{'of floor':>9}{'CPU s/GB':>9}"
    )
    for row in samples.rows():
        output.say(
            f"{row['corpus']:<9}{row['phase']:<10}{row['subject']:<10}{row['mb_per_s']:>8,.0f}"
            f"{row['files_per_s']:>9,.0f}{row['of_floor']:>9.2f}{row['cpu_s_per_gb']:>9.2f}"
        )
        output.status(**row)
    output.say()
    for name, value in steady.items():
        output.say(f"{name:<28}{value:>10}")
    for name, note in notes:
        output.say(f"{name}: {note}")


def _write_page(page: Path, told: dict[str, Any]) -> None:
    from datetime import UTC, datetime

    from holdfast.cluster.benchmark.report import html_report
    from holdfast.protocol.clock import SYSTEM

    when = datetime.fromtimestamp(SYSTEM.now_ms() / 1000, UTC).isoformat(timespec="minutes")
    page.write_text(
        html_report(
            told["samples"], machine=told["machine"], when=when, notes=told["notes"],
            steady=told["steady"], curves=told["curves"],
        )
    )  # fmt: skip
