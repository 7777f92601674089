"""What servers do without, they do not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.protocol.optional_imports import passed_over

SERVERS = """
import sys
from holdfast.protocol.terminal import configure_logging
configure_logging(False)
import holdfast.node.running, holdfast.coordinator.running
from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from pathlib import Path
Catalogue(sqlite_url(Path(sys.argv[1]))).close()
assert "structlog.dev" in sys.modules
print(*sorted(sys.modules))
"""


def test_what_is_passed_over_is_not_found_and_then_is_again() -> None:
    assert "this" not in sys.modules
    with passed_over("this"), pytest.raises(ImportError):
        import this  # noqa: F401
    assert "this" not in sys.modules
    with passed_over("tabnanny"), pytest.raises(ImportError):
        import tabnanny
    import tabnanny

    assert sys.modules["tabnanny"] is tabnanny


def test_what_was_loaded_stays_loaded() -> None:
    import json

    with passed_over("json"):
        assert sys.modules["json"] is json
    assert sys.modules["json"] is json


def test_an_error_within_leaves_nothing_hidden() -> None:
    with pytest.raises(ZeroDivisionError), passed_over("this"):
        raise ZeroDivisionError
    assert "this" not in sys.modules


def loaded_at_a_start(catalogue: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SERVERS, str(catalogue)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


def test_servers_load_nothing_that_draws_and_what_migrates_only_to_migrate(tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.sqlite"
    first, second = loaded_at_a_start(catalogue), loaded_at_a_start(catalogue)
    assert "alembic.command" in first
    assert not {"rich", "pygments"} & set(first)
    assert not {"rich", "pygments", "alembic", "sqlalchemy.dialects.postgresql"} & set(second)


COMMAND = """
import atexit, sys
atexit.register(lambda: print(*(name for name, module in sys.modules.items() if module), file=sys.stderr))
from holdfast.client.console import main
main()
"""


def loaded_by(*command: object) -> set[str]:
    """What a command loads that then has nothing to work with."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode not in (0, 2), done.stderr[-500:]
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("server", ["coordinator", "node"])
def test_the_commands_of_servers_load_nothing_that_draws(server: str, tmp_path: Path) -> None:
    (tmp_path / "stranger").touch()
    more = ["--coordinator", "http://127.0.0.1:1"] if server == "node" else []
    loaded = loaded_by(server, "run", "--dir", tmp_path, *more)
    assert f"holdfast.{server}.running" in loaded and "structlog.dev" in loaded
    assert not {"rich", "pygments"} & loaded


def test_commands_of_clients_load_no_second_typing_and_what_reads_no_erasure_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    loaded = loaded_by("restore", "latest", "--target", tmp_path / "out")
    assert "msgspec._core" in loaded and "holdfast.client.sdk" in loaded
    assert "typing_extensions" not in loaded and "uvloop" in loaded
    asking = loaded_by("snapshots")
    assert "asyncio" in asking and not {"typing_extensions", "ssl", "uvloop"} & asking
    script = "import sys, holdfast.client.restore, holdfast.client.download; print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    reading = set(told.stdout.split())
    assert "holdfast.protocol.stripe_reading" in reading
    assert not {"holdfast.protocol.erasure.isal", "holdfast.protocol.erasure.portable"} & reading
