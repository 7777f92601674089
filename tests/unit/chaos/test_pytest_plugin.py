"""The pytest plugin weighs nothing until a test asks for a cluster, and draws seeds as it is told."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

TESTS = """
import pytest

def test_plain(): pass

@pytest.mark.chaos(scenario="first-kill", seeds=3)
def test_three(holdfast_cluster): pass

@pytest.mark.chaos(seeds=[5, 9])
def test_named(holdfast_cluster): pass

def test_once(holdfast_cluster): pass
"""


def pytest_in(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_installed_as_a_plugin() -> None:
    (found,) = [entry for entry in entry_points(group="pytest11") if entry.name == "holdfast"]
    assert found.value == "holdfast.cluster.pytest_plugin"


def test_each_seed_is_a_test_and_one_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS)
    collected = pytest_in(tmp_path, "--collect-only")
    for name in ("three[seed1]", "three[seed2]", "three[seed3]", "named[seed5]", "named[seed9]", "once\n"):
        assert f"test_mine.py::test_{name}" in collected, collected
    only = pytest_in(tmp_path, "--collect-only", "--holdfast-seed", "9")
    assert "three[seed9]" in only and "named[seed9]" in only and "seed1" not in only


def test_tests_that_ask_for_no_cluster_pay_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import sys\n"
        "def test_plain():\n"
        "    heavy = {'aiohttp', 'lmdb', 'sqlalchemy', 'cryptography', 'msgspec'} & set(sys.modules)\n"
        "    assert not heavy\n"
    )
    assert "1 passed" in pytest_in(tmp_path, "-p", "no:hypothesispytest", "test_mine.py")


def test_the_marker_explains_itself(tmp_path: Path) -> None:
    assert "@pytest.mark.chaos(scenario=None, seeds=1" in pytest_in(tmp_path, "--markers")
