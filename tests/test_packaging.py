"""What lands in somebody's site-packages, seen on the built wheel itself."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a clean copy of the checkout (a build leaves a build/ folder beside the sources)."""
    import shutil

    clean = tmp_path_factory.mktemp("checkout") / "holdfast"
    shutil.copytree(
        ROOT,
        clean,
        ignore=shutil.ignore_patterns(
            ".git", ".venv*", "build", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
        ),
    )
    made = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(made), str(clean)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = made.glob("holdfast-*.whl")
    return found


def test_nothing_but_holdfast_lands_in_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"holdfast", next(top for top in tops if top.startswith("holdfast-"))}
    assert "holdfast/__init__.py" not in names, "holdfast is a namespace package"


def test_the_wheel_carries_every_module_and_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for part in ("protocol", "client", "node", "coordinator", "cluster"):
        assert f"holdfast/{part}/py.typed" in names
        for path in (ROOT / part).rglob("*.py"):
            assert f"holdfast/{path.relative_to(ROOT).as_posix()}" in names


def test_the_wheel_names_its_licence_and_its_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = next(name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name)
    metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert "holdfast = holdfast.client.console:entry" in archive.read(f"{info}/entry_points.txt").decode()
    wanted = {
        line.split(";")[0].split("<")[0].split(">")[0].strip()
        for line in metadata.get_all("Requires-Dist", [])
    }
    assert {"aiohttp", "reedsolo", "lmdb", "msgpack", "cryptography", "uvloop"} <= wanted
