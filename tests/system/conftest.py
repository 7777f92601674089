"""One real cluster for all of these tests, and people at their terminals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from holdfast.cluster import LocalCluster
from holdfast.cluster.processes import clean_environment, wait_until
from holdfast.protocol import failpoints

COMMAND = [sys.executable, "-m", "holdfast.client.console"]
DEADLINE_S = 90


@dataclass
class Person:
    """Somebody with a device: runs ``holdfast`` as a process of its own."""

    home: Path
    environment: dict[str, str]
    code_file: Path | None = None
    before: list[str] = field(default_factory=list)

    def env(self, **more: str | None) -> dict[str, str]:
        kept = clean_environment()
        made = {**kept, **self.environment, "HOLDFAST_HOME": str(self.home), **more}
        return {name: value for name, value in made.items() if value is not None}

    def run(
        self, *arguments: object, code: int = 0, typed: str = "", **environment: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and require its exit code."""
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=self.env(**environment),
            input=typed,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def stopped_at(self, step: str, *arguments: object) -> subprocess.Popen[str]:
        """Start a command, and give its process once it stands still (SIGSTOP) at a named step."""
        armed = self.home.parent / f"{self.home.name}.failpoints"
        armed.write_text(f"{step} 1 stop\n")
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env=self.env(**{failpoints.VARIABLE: str(armed)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A test runner in the background has SIGINT ignored, and children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

        def stands_still() -> bool:
            state = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            assert state not in "ZX", process.communicate()
            return state == "T"

        assert wait_until(stands_still, DEADLINE_S), "it never came to that step"
        return process

    def ask(self, *arguments: object, code: int = 0, **environment: str | None) -> list[dict[str, Any]]:
        """Run a command with --json; its lines."""
        done = self.run(*arguments, "--json", code=code, **environment)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def last(self, *arguments: object, code: int = 0, **environment: str | None) -> dict[str, Any]:
        """The summary or error line."""
        line = self.ask(*arguments, code=code, **environment)[-1]
        assert line["message_type"] == ("error" if code and code != 3 else line["message_type"])
        return line


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(nodes=6) as running:
        yield running


@pytest.fixture
def visitor(cluster: LocalCluster, tmp_path: Path) -> Callable[..., Person]:
    """Gives somebody with an invite and an empty device."""

    def made(name: str = "home", **environment: str) -> Person:
        return Person(tmp_path / name, {**cluster.env(), **environment})

    return made


@pytest.fixture
def person_at(tmp_path: Path) -> Callable[[LocalCluster, str], Person]:
    """Gives somebody with an account on a cluster of the test's own."""

    def made(cluster: LocalCluster, name: str = "home") -> Person:
        new = Person(tmp_path / name, cluster.env(), tmp_path / f"{name}.recovery.txt")
        new.run("init", "--recovery-file", new.code_file, "--device-name", name)
        return new

    return made


@pytest.fixture
def person(visitor: Callable[..., Person], tmp_path: Path) -> Person:
    """Somebody with an account."""
    made = visitor()
    made.code_file = tmp_path / "recovery.txt"
    made.run("init", "--recovery-file", made.code_file, "--device-name", "laptop")
    return made


@pytest.fixture
def healed(cluster: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster, for tests that break it: whole again afterwards."""
    try:
        yield cluster
    finally:
        cluster.heal()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with one of everything."""
    root = tmp_path / "source"
    for name in ("papers", "photos/2024", "empty"):
        (root / name).mkdir(parents=True)
    for number in range(40):
        (root / "papers" / f"note {number}.txt").write_text(f"note {number}\n" * (1 + number))
    (root / "photos/2024/big.jpg").write_bytes(bytes(range(256)) * 8192 + os.urandom(1_500_000))
    (root / "nothing").write_bytes(b"")
    (root / "shortcut").symlink_to("papers/note 1.txt")
    (root / "dangling").symlink_to("/nowhere/at/all")
    os.link(root / "papers" / "note 2.txt", root / "hard link")
    with open(root / "sparse", "wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
    with open(os.fsencode(root) + b"/bytes-\xff\xfe", "wb") as file:
        file.write(b"a name that is no text")
    os.chmod(root / "papers" / "note 3.txt", 0o640)
    os.utime(root / "papers" / "note 3.txt", ns=(1_600_000_000_123_456_789, 1_600_000_000_987_654_321))
    os.chmod(root / "empty", 0o750)
    return root


@pytest.fixture
def tree_with_socket(tree: Path) -> Iterator[Path]:
    before = os.getcwd()
    os.chdir(tree)  # the path of a socket has to be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("s")
        os.chdir(before)
        yield tree


def portrait(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything a backup keeps, by relative path."""
    seen: dict[str, tuple[object, ...]] = {}
    links: dict[int, str] = {}
    for folder, names, files in os.walk(root):
        for name in sorted([*names, *files]):
            path = Path(folder, name)
            told = path.lstat()
            relative = str(path.relative_to(root))
            if path.is_symlink():
                seen[relative] = ("symlink", os.readlink(path), told.st_mtime_ns)
            elif path.is_dir():
                seen[relative] = ("dir", oct(told.st_mode), told.st_mtime_ns)
            elif path.is_file():
                first = links.setdefault(told.st_ino, relative) if told.st_nlink > 1 else relative
                seen[relative] = (
                    "file",
                    oct(told.st_mode),
                    told.st_mtime_ns,
                    told.st_size,
                    path.read_bytes(),
                    first,
                )
    return seen


@pytest.fixture
def same() -> Callable[[Path, Path], None]:
    """Requires two trees to be the same in everything a backup keeps."""

    def compare(one: Path, two: Path) -> None:
        first, second = portrait(one), portrait(two)
        assert first.keys() == second.keys()
        for name, told in first.items():
            # Which of two hard-linked names comes first depends on the walk: compare that they share.
            assert told == second[name], name

    return compare
