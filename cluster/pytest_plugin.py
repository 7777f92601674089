"""The pytest plugin: a real cluster for your tests, and faults while they run.

    pip install 'holdfast[pytest]'

    async def test_my_software(holdfast_cluster):
        os.environ.update(holdfast_cluster.env())
        async with holdfast_cluster.chaos.partition({1}, {2, 3}):
            ...

    @pytest.mark.chaos(scenario="flapping", seeds=3)
    def test_it_again_while_nodes_come_and_go(holdfast_cluster): ...

After each test the cluster is healed and verified; what it has lost fails the test. Nothing of Holdfast
is imported before a test asks for the fixture.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from holdfast.cluster.chaos.breakable import OpenCluster
    from holdfast.cluster.chaos.scenario import Scenario

__all__ = ["holdfast_cluster"]

_SEED_OPTION: Final = "--holdfast-seed"
_REPORT_OPTION: Final = "--holdfast-report"
_MARKER: Final = (
    "chaos(scenario=None, seeds=1, nodes=6, profile=None, zones=None): for tests with the holdfast_cluster "
    "fixture: faults of this scenario (a built-in name or a .toml file) strike meanwhile, once for each seed "
    "(how many, or which)"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options."""
    group = parser.getgroup("holdfast")
    group.addoption(
        _SEED_OPTION, type=int, default=None, help="Run holdfast_cluster tests with this seed alone."
    )
    group.addoption(
        _REPORT_OPTION,
        type=Path,
        default=None,
        help="Write a page for each holdfast_cluster test into this folder.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker is known."""
    config.addinivalue_line("markers", _MARKER)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each seed."""
    marker = metafunc.definition.get_closest_marker("chaos")
    if marker is None or "holdfast_cluster" not in metafunc.fixturenames:
        return
    asked = marker.kwargs.get("seeds", 1)
    seeds = list(range(1, asked + 1)) if isinstance(asked, int) else list(asked)
    only = metafunc.config.getoption(_SEED_OPTION)
    seeds = seeds if only is None else [only]
    metafunc.parametrize("holdfast_cluster", seeds, indirect=True, ids=[f"seed{seed}" for seed in seeds])


def _scenario(marker: pytest.Mark | None) -> Scenario | None:
    from holdfast.cluster.chaos.scenario import load_builtin, load_scenario

    name = marker.kwargs.get("scenario") if marker is not None else None
    if name is None:
        return None
    scenario = load_scenario(Path(name)) if str(name).endswith(".toml") else load_builtin(str(name))
    assert marker is not None
    shape = {key: marker.kwargs[key] for key in ("nodes", "profile", "zones") if key in marker.kwargs}
    return scenario.changed(**shape)


def _shape(marker: pytest.Mark | None, scenario: Scenario | None) -> dict[str, Any]:
    if scenario is None:
        asked = marker.kwargs if marker is not None else {}
        return {key: asked[key] for key in ("nodes", "profile", "zones") if key in asked}
    cluster = scenario.cluster
    return {
        "nodes": cluster.nodes,
        "profile": cluster.profile,
        "zones": cluster.zones or None,
        "disk_mib": cluster.disk_mib,
        "capacity_bytes": cluster.capacity_mib * 1024 * 1024 or None,
        "lost_after_s": cluster.lost_after_s,
        "trash_hold_s": cluster.trash_hold_s,
    }


@pytest.fixture
def holdfast_cluster(request: pytest.FixtureRequest) -> Iterator[OpenCluster]:
    """A running cluster (holdfast.cluster.chaos.breakable.OpenCluster), of this test alone."""
    from holdfast.cluster.chaos.breakable import BreakableCluster

    marker = request.node.get_closest_marker("chaos")
    from holdfast.cluster.chaos.run import fitted_here

    scenario, said = _scenario(marker), list[str]()
    if scenario is not None:
        scenario, said = fitted_here(scenario)
    only = request.config.getoption(_SEED_OPTION)
    seed = getattr(request, "param", 1 if only is None else only)
    replay = f"pytest {shlex.quote(request.node.nodeid.partition('[')[0])} {_SEED_OPTION} {seed}"
    cluster = BreakableCluster(
        **_shape(marker, scenario), seed=seed, scenario=scenario, replay_command=replay, said=said
    )
    opened = cluster.opened()
    try:
        yield opened
        found = opened.blocking.verify()
        folder = request.config.getoption(_REPORT_OPTION)
        if folder is not None:
            found.write(folder / re.sub(r"\W+", "-", request.node.name).strip("-"))
        if not found.ok:
            pytest.fail(str(found), pytrace=False)
    finally:
        cluster.closed()
