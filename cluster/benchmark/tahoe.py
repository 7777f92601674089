"""Tahoe-LAFS as a peer: an introducer, six storage nodes and a client, 4 of 6, on this machine.

The closest relative there is: end-to-end encrypted, erasure coded over several servers
(https://tahoe-lafs.readthedocs.io/). Its processes are started with their own ``tahoe run``, and end
with the benchmark.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

from holdfast.cluster.benchmark.measuring import Cost, Servers, measure
from holdfast.cluster.benchmark.subject import Absent, clean_environment
from holdfast.cluster.processes import wait_until

__all__ = ["Tahoe"]

_NODES = 6
_READY_S = 60.0
_END_S = 10.0
_SHARES = ("--shares-needed", "4", "--shares-happy", "5", "--shares-total", "6")


def _free_port() -> int:
    """A port that the kernel gives out now; Tahoe must be told one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Process:
    """A process that Servers can look at."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def pids(self) -> list[int]:
        """Its number, while it runs."""
        return [self.process.pid] if self.process.poll() is None else []


class Tahoe:
    """One grid, one client, one alias.

    Raises:
        Absent: it is not installed, or its grid does not come up.
    """

    name = "tahoe"
    notes = f"encrypted, 4 of 6 over {_NODES} nodes on this machine; backup and cp -r through its client"

    def __init__(self, folder: Path) -> None:
        program = shutil.which(self.name)
        if program is None:
            raise Absent("tahoe is not installed")
        folder.mkdir()
        self._program = program
        self._folder = folder
        self._environment = clean_environment(folder)
        self._running: dict[str, list[_Process]] = {"nodes": [], "coordinator": [], "helper": []}
        self.version = self._said("--version").splitlines()[0]
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        self.servers = Servers(lambda: self._running)

    def _said(self, *arguments: str) -> str:
        done = subprocess.run(
            [self._program, *arguments], env=self._environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def _start(self) -> None:
        port = _free_port()
        at = ("--location", f"tcp:127.0.0.1:{port}", "--port", f"tcp:{port}:interface=127.0.0.1")
        introducer = self._folder / "introducer"
        self._said("create-introducer", *at, str(introducer))
        self._run("coordinator", introducer)
        told = introducer / "private" / "introducer.furl"
        if not wait_until(told.exists, _READY_S):
            raise Absent("tahoe's introducer does not start")
        furl = told.read_text().strip()
        for number in range(_NODES):
            port = _free_port()
            at = ("--location", f"tcp:127.0.0.1:{port}", "--port", f"tcp:{port}:interface=127.0.0.1")
            node = self._folder / f"node-{number}"
            self._said("create-node", "--introducer", furl, *at, "--webport", "none", *_SHARES, str(node))
            self._run("nodes", node)
        web = _free_port()
        self._client = self._folder / "client"
        on = f"tcp:{web}:interface=127.0.0.1"
        self._said("create-client", "--introducer", furl, "--webport", on, *_SHARES, str(self._client))
        self._run("helper", self._client)
        if not wait_until(lambda: _connected(web) >= _NODES, _READY_S):
            raise Absent("tahoe's client does not find its nodes")
        self._said("-d", str(self._client), "create-alias", "bench")

    def _run(self, role: str, place: Path) -> None:
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(
                [self._program, "run", str(place)],
                env=self._environment,
                stdin=subprocess.PIPE,  # when this closes it ends: with this benchmark, whatever ends that
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._running[role].append(_Process(process))

    def _measured(self, *arguments: str | Path) -> Cost:
        command = [self._program, "-d", self._client, *arguments]
        return self.servers.beside(
            lambda: measure(command, environment=self._environment, folder=self._folder)
        )

    def backup(self, corpus: str, tree: Path) -> Cost:
        """``tahoe backup``."""
        return self._measured("backup", tree, f"bench:{corpus}")

    def restore(self, corpus: str, tree: Path, target: Path) -> Cost:
        """``tahoe cp -r`` of the latest."""
        return self._measured("cp", "-r", f"bench:{corpus}/Latest", target)

    def found_at(self, tree: Path, target: Path) -> Path:
        """A folder is copied into the target under its own name."""
        return target / "Latest"

    def close(self) -> None:
        """End the grid's processes."""
        processes = [one.process for members in self._running.values() for one in members]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _connected(port: int) -> int:
    """How many storage nodes the client is connected with."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/?t=json", timeout=5) as answer:
            told = json.load(answer)
    except OSError:
        return 0
    return sum(str(server["connection_status"]).lower().startswith("connected") for server in told["servers"])
