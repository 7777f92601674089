"""``holdfast chaos``: break a cluster on purpose, and see that nothing was lost."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast.protocol.terminal import Output, guarded, json_option, option, run

if TYPE_CHECKING:
    from holdfast.cluster.chaos.result import ChaosResult
    from holdfast.cluster.chaos.scenario import Scenario

__all__ = ["chaos"]

_COLUMNS = 80


def _row(name: str, width: int, text: str) -> str:
    """A name, and its text beside it over as many lines as it takes."""
    return textwrap.fill(
        text, _COLUMNS, initial_indent=f"  {name:<{width}}  ", subsequent_indent=" " * (width + 4)
    )


@click.group()
def chaos() -> None:
    """Break a local cluster on purpose, and prove that nothing was lost.

    Exit codes of run and replay: 0 every invariant held, 30 one was violated, 31 inconclusive,
    32 the harness failed.
    """


@chaos.command("list")
@json_option
@guarded
def list_command(as_json: bool) -> None:
    """List the scenarios that come along."""
    from holdfast.cluster.chaos.scenario import builtin_names, load_builtin

    output = Output(as_json)
    scenarios = [load_builtin(name) for name in builtin_names()]
    width = max(len(scenario.name) for scenario in scenarios)
    for scenario in scenarios:
        output.say(_row(scenario.name, width, scenario.about))
        output.status(name=scenario.name, about=scenario.about, budget=scenario.budget)
    output.say()
    output.say("Run one with 'holdfast chaos run NAME', or a file of your own with")
    output.say("'holdfast chaos run FILE.toml'.")
    output.summary(scenarios=len(scenarios))


@chaos.command("explain")
@click.argument("name", metavar="NAME|FILE.toml|steps|invariants")
@json_option
@guarded
def explain(name: str, as_json: bool) -> None:
    """Show a scenario's file, all steps, or all invariants.

    Steps are the named places in the protocol at which a fault can strike.
    """
    from holdfast.cluster.chaos.faults import summary_of
    from holdfast.cluster.chaos.judging import INVARIANTS
    from holdfast.cluster.chaos.scenario import to_toml
    from holdfast.protocol.failpoints import STEPS

    output = Output(as_json)
    if name in ("steps", "invariants"):
        table = STEPS if name == "steps" else INVARIANTS
        width = max(map(len, table))
        for key, text in table.items():
            output.say(_row(key, width, text))
            output.status(name=key, text=text)
        output.summary(count=len(table))
        return
    scenario = _scenario(name)
    output.say(textwrap.fill(scenario.about, _COLUMNS))
    output.say()
    for fault in scenario.faults:
        output.say(f"  - {summary_of(fault)}")
        output.status(fault=summary_of(fault))
    output.say()
    output.say(to_toml(scenario).rstrip())
    output.summary(name=scenario.name, about=scenario.about, budget=scenario.budget, toml=to_toml(scenario))


@chaos.command("run")
@click.argument("name", metavar="SCENARIO|FILE.toml")
@option("--nodes", type=click.IntRange(1, 64), help="Default: as the scenario says.")
@option("--profile", metavar="K+M", help="Default: as the scenario says.")
@option("--zones", type=click.IntRange(1, 64), help="Default: as the scenario says.")
@option("--seed", type=click.IntRange(min=0), help="Of everything that is drawn. Default: a new one.")
@option("--minutes", type=float, help="How long faults go on. Default: as the scenario says.")
@option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help="A new folder for what happened: a page to look at, history, scenario, logs.",
)
@option(
    "--svg",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the curve of the fewest surviving shards into this file.",
)
@click.option("--fail-fast", is_flag=True, help="End at the first violation, whatever else might come.")
@json_option
@guarded
def run_command(
    name: str,
    nodes: int | None,
    profile: str | None,
    zones: int | None,
    seed: int | None,
    minutes: float | None,
    report: Path | None,
    svg: Path | None,
    fail_fast: bool,
    as_json: bool,
) -> None:
    """Run a scenario on a cluster of its own, and judge it."""
    from holdfast.cluster.chaos.limits import SEED_MAX
    from holdfast.protocol.clock import SYSTEM

    scenario = _scenario(name).changed(
        nodes=nodes, profile=profile, zones=zones, chaos_s=60 * minutes if minutes is not None else None
    )
    drawn = int.from_bytes(SYSTEM.random_bytes(4), "big")
    seed = min(drawn if seed is None else seed, SEED_MAX)
    _run(scenario, seed, report, svg, Output(as_json), fail_fast=fail_fast)


@chaos.command("replay")
@click.argument("folder", metavar="REPORT_DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@option("--report", type=click.Path(file_okay=False, path_type=Path), help="A new folder, as for run.")
@json_option
@guarded
def replay(folder: Path, report: Path | None, as_json: bool) -> None:
    """Run again what a report tells of: the same scenario, the same seed."""
    from holdfast.cluster.chaos.history import RunBegan, read_history
    from holdfast.cluster.chaos.scenario import load_scenario
    from holdfast.protocol.errors import BadRequest, NotFound

    scenario = load_scenario(folder / "scenario.toml")
    try:
        first = next(read_history(folder / "history.jsonl"), None)
    except FileNotFoundError as error:
        raise NotFound(f"there is no history in {folder}", do="Name a folder that --report made.") from error
    if not isinstance(first, RunBegan):
        raise BadRequest(f"the history in {folder} has no beginning")
    _run(scenario, first.seed, report, None, Output(as_json))


@chaos.command("doctor")
@json_option
@guarded
def doctor(as_json: bool) -> None:
    """Say which ways of breaking things work here.

    Removes what killed runs left behind on this machine, too.
    """
    from holdfast.cluster.chaos.doctor import examine
    from holdfast.cluster.chaos.leftovers import clean_up

    output = Output(as_json)
    found = examine()
    for injector in found:
        works = "works" if not injector.why_not else f"does not work: {injector.why_not}"
        output.say(f"  {injector.name:<12} {works}")
        output.say(f"  {'':<12} for {injector.faults}")
        output.status(
            name=injector.name, works=not injector.why_not, why=injector.why_not, faults=injector.faults
        )
    removed = clean_up()
    for folder in removed:
        output.say(f"  removed {folder}, which a killed run had left behind")
    output.summary(works=not any(one.why_not for one in found if one.is_needed), removed=removed)


def _scenario(name: str) -> Scenario:
    from holdfast.cluster.chaos.scenario import load_builtin, load_scenario

    return load_scenario(Path(name)) if name.endswith(".toml") else load_builtin(name)


def _run(
    scenario: Scenario,
    seed: int,
    report: Path | None,
    svg: Path | None,
    output: Output,
    *,
    fail_fast: bool = False,
) -> None:
    from holdfast.cluster.chaos.fitting import wants_namespace
    from holdfast.cluster.chaos.namespaces import begin_inside, is_inside, why_unavailable
    from holdfast.cluster.chaos.report import survival_svg, write_report
    from holdfast.cluster.chaos.run import run_scenario
    from holdfast.protocol.terminal import configure_logging

    configure_logging(False, "error")
    if wants_namespace(scenario) and "chaos" in sys.argv and not is_inside() and not why_unavailable():
        begin_inside(sys.argv[1:])
    output.note(f"{scenario.name}, seed {seed}: {scenario.about}")

    def said(phase: str) -> None:
        output.note(f"  {phase} ...")

    result = run(lambda: run_scenario(scenario, seed=seed, report=report, on_phase=said, fail_fast=fail_fast))
    if svg is not None:
        svg.write_text(survival_svg(result.events))
    page = write_report(report) if report is not None else None
    _show(result, page, output)
    raise SystemExit(result.exit_code)


def _show(result: ChaosResult, page: Path | None, output: Output) -> None:
    marks = {"held": "held", "violated": "VIOLATED", "not judged": "-"}
    for judged in result.invariants:
        output.say(f"  ({judged.letter}) {marks[judged.verdict]:<9} {judged.title}")
        if judged.why:
            output.say(
                f"      {judged.at:.1f} s: {judged.why}" if judged.at is not None else f"      {judged.why}"
            )
        output.status(
            letter=judged.letter, verdict=judged.verdict, title=judged.title, why=judged.why, at_s=judged.at
        )
    output.say()
    output.say(result.sentence)
    output.say(f"Again: {result.replay_command}")
    if page is not None:
        output.say(f"Look at it: {page}")
    output.summary(
        scenario=result.scenario.name,
        seed=result.seed,
        exit_code=result.exit_code,
        sentence=result.sentence,
        replay=result.replay_command,
        report=str(page) if page is not None else None,
    )
