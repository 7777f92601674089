"""The members of one cluster: how each is started, signalled and looked at."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from holdfast.cluster.layout import COORDINATOR, Layout
from holdfast.cluster.limits import STOP_DEADLINE_S
from holdfast.cluster.operating import Operator
from holdfast.cluster.processes import Processes, Running
from holdfast.cluster.state import LocalStatus, MemberState, found_among, summed_up
from holdfast.protocol.clock import Source
from holdfast.protocol.directory import Lock, make_private, read_json, remove_file, write_file
from holdfast.protocol.errors import BadRequest, HoldfastError, NotFound
from holdfast.protocol.ids import NodeId
from holdfast.protocol.messages.admin import ClusterStatus

__all__ = ["Members"]

_TOKEN = "join.token"


class Members:
    """Every process of a cluster, by name: "coordinator", "node-1", ..."""

    def __init__(self, layout: Layout, source: Source) -> None:
        self.layout = layout
        self._source = source
        self._processes = Processes(source)

    @contextmanager
    def locked(self) -> Iterator[Members]:
        """Nobody else changes the cluster meanwhile; the plan is read anew."""
        with Lock(self.layout.folder, "a local cluster", wait=True):
            self.layout = Layout.open(self.layout.folder)
            yield self

    def name_of(self, target: int | str) -> str:
        """The member's name: of 3, "3", "node-3" or "coordinator".

        Raises:
            NotFound: there is none.
        """
        text = str(target).strip()
        name = f"node-{int(text)}" if text.isdecimal() else text
        if name not in self.layout.members():
            raise NotFound(
                f"there is no member {text!r} in this cluster",
                do=f"Name a node, 1 to {self.layout.plan.nodes}, or 'coordinator'.",
            )
        return name

    def operator(self) -> Operator:
        """The operator of this cluster; its key is there from the coordinator's first start on."""
        return Operator(self.layout.coordinator, self._source)

    def _folder(self, name: str) -> Path:
        return self.layout.members()[name]

    def pid(self, name: str) -> int | None:
        """The member's process, None when it does not run."""
        running = self._processes.find(self._folder(name))
        return running.pid if running else None

    # ----------------------------------------------------------------- starting

    def start(self, names: Sequence[str], deadline: float) -> None:
        """Start what does not run, all nodes at once, and wait until each says that it serves.

        Args:
            deadline: on the source's monotonic clock.
        """
        if COORDINATOR in names:
            self._start_all({COORDINATOR: self._coordinator_arguments()}, deadline)
        self._start_all({name: [] for name in names if name != COORDINATOR}, deadline)

    def _start_all(self, wanted: dict[str, list[str]], deadline: float) -> None:
        waiting: dict[str, Running] = {}
        for name, arguments in wanted.items():
            folder = self._folder(name)
            make_private(folder)
            running = self._processes.find(folder)
            if running is None:
                running = self._processes.spawn(arguments or self._node_arguments(name), folder)
            elif self._processes.state(running) == "paused":
                raise BadRequest(f"{name} is paused", do=f"Resume it: 'holdfast cluster resume {name}'.")
            waiting[name] = running
        for name, running in waiting.items():
            self._processes.wait_ready(self._folder(name), running, name, deadline)
            if name != COORDINATOR:
                (self._folder(name) / _TOKEN).unlink(missing_ok=True)

    def _coordinator_arguments(self) -> list[str]:
        plan, times = self.layout.plan, self.layout.plan.times
        arguments = ["coordinator", "run", "--dir", str(self.layout.coordinator)]
        arguments += ["--heartbeat-ms", str(times.heartbeat_ms)]
        arguments += ["--suspect-after-s", str(times.suspect_after_s), "--down-after-s", str(times.down_after_s)]
        arguments += ["--lost-after-s", str(times.lost_after_s)]
        if plan.profile is not None:
            arguments += ["--profile", str(plan.profile)]
        return arguments

    def _node_arguments(self, name: str) -> list[str]:
        folder, plan = self._folder(name), self.layout.plan
        operator = self.operator()
        arguments = ["node", "run", "--dir", str(folder), "--coordinator", str(operator.address)]
        if not (folder / "node.json").exists():
            write_file(folder / _TOKEN, operator.node_token().encode() + b"\n")
            arguments += ["--join-token-file", str(folder / _TOKEN)]
        zone = plan.zones[int(name.removeprefix("node-")) - 1]
        if zone:
            arguments += ["--zone", zone]
        if plan.capacity_bytes is not None:
            arguments += ["--capacity", str(plan.capacity_bytes)]
        return arguments

    # --------------------------------------------------------------- signalling

    def _running(self, names: Sequence[str]) -> dict[str, Running]:
        found = {name: self._processes.find(self._folder(name)) for name in names}
        return {name: running for name, running in found.items() if running is not None}

    def kill(self, names: Sequence[str]) -> None:
        """SIGKILL to all, then wait for each."""
        self._end(self._running(names), signal.SIGKILL)

    def stop(self, names: Sequence[str]) -> None:
        """SIGTERM; nodes first, because they tell the coordinator that they go."""
        self._end(self._running([name for name in names if name != COORDINATOR]), signal.SIGTERM)
        self._end(self._running([name for name in names if name == COORDINATOR]), signal.SIGTERM)

    def _end(self, wanted: dict[str, Running], number: signal.Signals) -> None:
        for running in wanted.values():
            self._processes.signal(running, number)
            if number != signal.SIGKILL:
                self._processes.signal(running, signal.SIGCONT)  # a paused process cannot obey
        for name, running in wanted.items():
            if not self._processes.wait_gone(running, STOP_DEADLINE_S):
                self._processes.signal(running, signal.SIGKILL)
                if not self._processes.wait_gone(running, STOP_DEADLINE_S):
                    raise HoldfastError(f"{name} (process {running.pid}) cannot be ended")
            # Only a clean end removes them itself.
            for left in ("ready.json", "process.json"):
                remove_file(self._folder(name) / left)

    def halt(self, names: Sequence[str], number: signal.Signals) -> None:
        """SIGSTOP or SIGCONT, and wait for the effect."""
        wanted = self._running(names)
        for running in wanted.values():
            self._processes.signal(running, number)
        for name, running in wanted.items():
            if not self._processes.wait_state(running, "paused" if number == signal.SIGSTOP else "running"):
                raise HoldfastError(f"{name} (process {running.pid}) ended meanwhile")

    # ------------------------------------------------------------------ looking

    def status(self, timeout_s: float) -> LocalStatus:
        """Processes and what the coordinator says; ``cluster`` is None when it does not answer."""
        coordinator = self._look(COORDINATOR, None)
        told, address = None, None
        try:
            operator = self.operator()
            address = operator.address
            if coordinator.process == "running":
                told = operator.status(timeout_s)
        except HoldfastError:
            told = None  # the sentence says so
        nodes = tuple(self._look(f"node-{number}", told) for number in self.layout.numbers)
        sentence = summed_up(told, coordinator, nodes)
        return LocalStatus(str(self.layout.folder), address, coordinator, nodes, told, sentence)

    def _look(self, name: str, told: ClusterStatus | None) -> MemberState:
        folder = self._folder(name)
        running = self._processes.find(folder)
        process = self._processes.state(running) if running else "stopped"
        pid = running.pid if running and process != "stopped" else None
        if name == COORDINATOR:
            listen = _value(folder / "coordinator.json", "listen")
            state = "up" if process == "running" else "unknown"
            return MemberState(name, 0, process, pid, f"http://{listen}" if listen else "", state=state)
        number = int(name.removeprefix("node-"))
        zone = self.layout.plan.zones[number - 1]
        hexed, listen = _value(folder / "node.json", "node"), _value(folder / "node.json", "listen")
        node = NodeId.from_hex(hexed) if hexed else None
        url = f"http://{listen}" if listen else ""
        seen = found_among(told, node)
        if seen is None:
            return MemberState(name, number, process, pid, url, zone, node)
        return MemberState(
            name,
            number,
            process,
            pid,
            url,
            zone,
            node,
            state=seen.state,
            store_state=seen.store_state,
            used_bytes=seen.used_bytes,
            capacity_bytes=seen.capacity_bytes,
            shards=seen.shards,
        )


def _value(path: Path, name: str) -> str:
    values = read_json(path, 1)
    return str(values.get(name, "")) if values else ""
