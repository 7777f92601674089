"""What the documentation shows works: its examples are run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from holdfast.cluster import LocalCluster
from holdfast.cluster.processes import clean_environment

ROOT = Path(__file__).resolve().parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(path: Path) -> list[tuple[int, str]]:
    """(line, code) of each python block."""
    text = path.read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n") + 1, match.group(1)) for match in found]


@pytest.fixture
def letters(tmp_path: Path, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with some letters, and an environment with a cluster and an invite."""
    for name, value in {**cluster.env(), "HOLDFAST_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "letters").mkdir()
    for number in range(20):
        (tmp_path / "letters" / f"{number}.txt").write_text(f"letter {number}\n" * 50)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "letters"


def run_examples(path: Path, names: dict[str, Any]) -> int:
    count = 0
    for line, code in examples(path):
        # Lines are kept, so that a traceback points into the page.
        exec(compile("\n" * line + code, str(path), "exec"), names)  # noqa: S102 - our own page
        count += 1
    return count


def test_the_sdk_page_s_examples_run(letters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    assert run_examples(ROOT / "docs" / "sdk.md", names) >= 12
    assert (letters.parent / "back-on-the-new-device").exists()
    assert "20 files" in capsys.readouterr().out


def test_the_readme_s_python_runs(letters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast.client import Client

    with Client.from_env() as client:
        client.init(os.environ["HOLDFAST_INVITE"])
    text = (ROOT / "README.md").read_text()
    assert '"/home/ada/letters"' in text and '"/tmp/back"' in text
    for _, code in examples(ROOT / "README.md"):
        ours = code.replace("/home/ada/letters", str(letters)).replace(
            "/tmp/back", str(letters.parent / "back")
        )
        exec(compile(ours, "README.md", "exec"), {"__name__": "example"})  # noqa: S102 - our own page


def test_the_first_ten_minutes_run_as_written(tmp_path: Path) -> None:
    """The shell block of the README, line by line, in a home of its own."""
    text = (ROOT / "README.md").read_text()
    section = text.split("## The first ten minutes")[1].split("On several machines")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    script = "\n".join(line for line in lines if not line.startswith(". .venv")).replace(
        "/tmp/", f"{tmp_path}/"
    )
    assert "holdfast cluster up" in script and "holdfast recover" in script
    home = tmp_path / "home"
    (home / "Documents").mkdir(parents=True)
    (home / "Documents" / "plan.txt").write_text("the plan")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "holdfast").write_text(f'#!/bin/sh\nexec {sys.executable} -m holdfast.client.console "$@"\n')
    (bin_ / "holdfast").chmod(0o755)
    kept = {name: value for name, value in clean_environment().items() if not name.startswith("XDG_")}
    environment = {**kept, "HOME": str(home), "PATH": f"{bin_}:{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert "identical" in done.stdout
        assert "All data safe" in done.stdout
    finally:
        subprocess.run(
            [bin_ / "holdfast", "cluster", "down", "--delete"],
            env=environment,
            check=False,
            capture_output=True,
        )


def commands(text: str) -> list[str]:
    """Every line of a page's indented blocks that runs holdfast."""
    lines = (line.split("#")[0].strip() for line in text.splitlines() if line.startswith("    "))
    return [line for line in lines if re.match(r"(\w+=\S+ )*(\.venv/bin/)?holdfast ", line)]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_command_that_is_shown_exists_with_its_options(path: Path) -> None:
    from holdfast.client.console import main

    for line in commands(path.read_text()):
        words = [word for word in shlex.split(line) if word != "..."]
        words = words[next(i for i, word in enumerate(words) if word.endswith("holdfast")) + 1 :]
        found: click.Command = main
        while isinstance(found, click.Group):
            found_next = found.get_command(click.Context(found), words.pop(0))
            assert found_next is not None, line
            found = found_next
        known = {name for parameter in found.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_a_cluster_by_hand_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of the section; those that serve stay in the background until the end."""
    section = (ROOT / "docs" / "operations.md").read_text().split("## A cluster by hand")[1].split("\n## ")[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "holdfast").mkdir()
    block = "\n".join(line for line in section.splitlines() if line.startswith("    "))
    block = block.replace("/srv/", f"{tmp_path}/").replace("7400", str(port))
    monkeypatch.setenv("HOLDFAST_OPERATOR_KEY", re.findall(r"HOLDFAST_OPERATOR_KEY=(\S+)", block)[0])
    program = [sys.executable, "-m", "holdfast.client.console"]
    serving: list[subprocess.Popen[bytes]] = []
    try:
        for line in commands(block):
            words = [*program, *shlex.split(line.removesuffix("&"))[1:]]
            if line.endswith("&"):
                serving.append(subprocess.Popen(words, stderr=subprocess.DEVNULL))
            else:
                until_it_works(words)
        listed = until_it_works([*program, "admin", "nodes"], lines=4)
        assert listed.count("http://") == 2, listed
        home = {**os.environ, "HOLDFAST_HOME": str(tmp_path / "home")}
        invited = ["init", "--invite-file", str(tmp_path / "holdfast" / "invite")]
        subprocess.run([*program, *invited], env=home, check=True, capture_output=True, timeout=60)
        backed = subprocess.run(
            [*program, "backup", str(ROOT / "docs")], env=home, capture_output=True, text=True, timeout=60
        )
        assert backed.returncode == 0, backed.stderr
    finally:
        for process in serving:
            process.terminate()
        for process in serving:
            process.wait(timeout=30)


def until_it_works(words: list[str], lines: int = 0) -> str:
    """What a command prints once it succeeds with so many lines: what it asks may still be starting."""
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0 and len(done.stdout.splitlines()) >= lines:
            return done.stdout
        assert time.monotonic() < deadline, f"{words}: {done.stderr}"
        time.sleep(0.1)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_tests_that_the_threat_model_names_exist() -> None:
    named = re.findall(r"`(tests/[\w/.-]+)`", (ROOT / "docs" / "threat-model.md").read_text())
    assert len(named) > 8
    for path in named:
        assert (ROOT / path).exists(), path
