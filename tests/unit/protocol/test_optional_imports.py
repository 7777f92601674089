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
