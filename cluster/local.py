"""LocalCluster: a coordinator and nodes as real processes on this machine.

A cluster lives in a folder; whoever names the folder works with it, so that the
command line, a test and a debugger can share one. Ports are chosen by the kernel
once and then kept. The blocking verbs are plain methods; ``async with`` and
``await cluster.run(cluster.kill, 1)`` run them in a thread. What changes something
holds the folder's lock, so that two callers cannot start one member twice.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from holdfast.cluster.folder import LAYOUT_VERSION, ClusterFolder, MemberStatus, Target, default_folder
from holdfast.cluster.limits import (
    DOWN_AFTER_S,
    NODES_DEFAULT,
    NODES_MAX,
    POLL_S,
    READY_WITHIN_S,
)
from holdfast.cluster.processes import Member, wait_until
from holdfast.protocol.directory import Lock, make_private, write_file, write_json
from holdfast.protocol.errors import BadRequest, HoldfastError, Unreachable, WrongDirectory
from holdfast.protocol.messages.admin import ClusterStatus
from holdfast.protocol.profiles import Profile

if TYPE_CHECKING:
    from holdfast.cluster.chaos.breakable import BreakableCluster

__all__ = ["LocalCluster", "MemberStatus", "Target", "default_folder"]

P = ParamSpec("P")
T = TypeVar("T")


class LocalCluster(ClusterFolder):
    """A whole cluster in one folder. Context manager, synchronous and asynchronous.

    Args:
        nodes: how many nodes; default: as many as the folder's cluster has, or 6. Where it has fewer,
            the rest is added.
        profile: redundancy, e.g. "4+2"; default: by the number of nodes.
        zones: spread the nodes over so many zones.
        folder: default: a temporary one, deleted at the end.
        keep: leave processes running and the folder in place at the end of ``with``.
        capacity_bytes: of each node.
        lost_after_s: a node that is away for so long is given up, and its shards are rebuilt elsewhere;
            default: an hour.
        trash_hold_s: for how long swept chunks can be undeleted; default: a week.
        compare_every_s: how often the catalogue is compared with what nodes have, and what nobody needs is
            collected; default: a day.
        seed: make a cluster that can be broken: entered with ``async with`` it gives an
            :class:`holdfast.cluster.chaos.breakable.OpenCluster`, with ``chaos``, ``heal`` and ``verify``.
        environment: added to the processes' environment.
    """

    if TYPE_CHECKING:

        @overload
        def __new__(cls, *shape: Any, seed: int, **more: Any) -> BreakableCluster: ...

        @overload
        def __new__(cls, *shape: Any, seed: None = None, **more: Any) -> Self: ...

    def __new__(cls, *shape: Any, seed: int | None = None, **more: Any) -> Any:
        """A plain cluster, or with a seed one that can be broken."""
        if cls is LocalCluster and seed is not None:
            from holdfast.cluster.chaos.breakable import BreakableCluster

            return super().__new__(BreakableCluster)
        return super().__new__(cls)

    def __init__(
        self,
        nodes: int | None = None,
        profile: str | None = None,
        zones: int | None = None,
        folder: Path | str | None = None,
        *,
        keep: bool = False,
        capacity_bytes: int | None = None,
        lost_after_s: float | None = None,
        trash_hold_s: float | None = None,
        compare_every_s: float | None = None,
        environment: Mapping[str, str] | None = None,
        seed: int | None = None,
    ) -> None:
        if nodes is not None and not 1 <= nodes <= NODES_MAX:
            raise BadRequest(f"a local cluster has 1 to {NODES_MAX} nodes")
        if zones is not None and not 1 <= zones <= (nodes or NODES_DEFAULT):
            raise BadRequest("there are 1 to as many zones as nodes")
        self._temporary = folder is None
        chosen = Path(folder) if folder is not None else Path(tempfile.mkdtemp(prefix="holdfast-"))
        # Absolute: members work in "/", and are told apart by their folders.
        super().__init__(chosen.absolute(), environment or {})
        self.profile = str(Profile.parse(profile)) if profile else None
        self._wanted = nodes
        self._zones = zones
        self._keep = keep
        if lost_after_s is not None and lost_after_s <= DOWN_AFTER_S:
            raise BadRequest(f"a node is not lost before it is down, after {DOWN_AFTER_S} s")
        self._capacity_bytes = capacity_bytes
        self._lost_after_s = lost_after_s
        self._trash_hold_s = trash_hold_s
        self._compare_every_s = compare_every_s
        self._closing = Event()

    # Context managers

    def __enter__(self) -> Self:
        self._closing.clear()
        return self._entered()

    def _entered(self) -> Self:
        try:
            self.up()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    async def __aenter__(self) -> Self:
        self._closing.clear()
        try:
            return await asyncio.to_thread(self._entered)
        except asyncio.CancelledError:
            # That thread goes on: what it has started so far must end, too.
            await asyncio.shield(asyncio.to_thread(self._end))
            raise

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(asyncio.to_thread(self._end))

    def _end(self) -> None:
        self._closing.set()
        if not self._keep:
            self.down(delete=self._temporary)

    async def run(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run any blocking verb of this cluster in a thread: ``await c.run(c.kill, 1, 2)``."""
        return await asyncio.to_thread(verb, *args, **kwargs)

    # Verbs

    def up(self) -> None:
        """Make the cluster if there is none, start what does not run, wait until all nodes are up.

        What is paused goes on. More nodes than there are: the rest is added.

        Raises:
            WrongDirectory: the folder holds something else.
            BadRequest: the cluster in it has another profile, other zones, or more nodes.
            HoldfastError: a process did not start; the error shows its log.
        """
        make_private(self.folder)
        with Lock(self.folder, "another 'cluster up'", wait=True):
            if self._closing.is_set():
                raise HoldfastError("the cluster was closed while it was starting")
            if not self.exists:
                self._make()
            self._fit()
            self._refuse_to_forget()
            coordinator = self.coordinator
            coordinator.resume()
            coordinator.start()
            coordinator.wait_ready()
            self._start_nodes(range(1, self.node_count + 1))
        self.wait_healthy()

    def heal(self) -> None:
        """Let go on what is paused, start what does not run, wait until all nodes are up."""
        self.up()

    def _start_nodes(self, numbers: range) -> None:
        """Start nodes together, then wait for each; a join token is deleted once it is used."""
        for number in numbers:
            self._token_for(number)
        members = [self.node(number) for number in numbers]
        for member in members:
            member.resume()
            member.start()
        for member in members:
            member.wait_ready()
            (self.folder / f"{member.name}.token").unlink(missing_ok=True)

    def _refuse_to_forget(self) -> None:
        """A coordinator without its folder would begin another cluster, which these nodes never follow."""
        if (self.folder / "coordinator" / "charter.bin").exists() or not self.numbers():
            return
        raise WrongDirectory(
            f"the folder of the coordinator of {self.folder} is gone, and its nodes have joined a cluster",
            do=f"Make it again with 'holdfast coordinator rebuild --dir {self.folder / 'coordinator'} "
            "--kit KIT --node URL'; docs/operations.md says how.",
        )

    def _fit(self) -> None:
        """What was asked for must be what is there; missing nodes are noted, to be started."""
        made = self._layout()
        for name, wanted in (("profile", self.profile), ("zones", self._zones)):
            if wanted is not None and wanted != made[name]:
                raise BadRequest(
                    f"the cluster in {self.folder} was made with {name} "
                    f"{made[name] or 'by default'}, not {wanted}",
                    do=f"Leave --{name} out, or make another cluster with --dir.",
                )
        if self._wanted is not None and self._wanted < made["nodes"]:
            raise BadRequest(
                f"the cluster in {self.folder} has {made['nodes']} nodes, and {self._wanted} were asked for",
                why="nodes cannot be taken away yet",
                do="Leave --nodes out, or make another cluster with --dir.",
            )
        if self._wanted is not None and self._wanted > made["nodes"]:
            write_json(self.folder / "cluster.json", {**made, "nodes": self._wanted})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._layout()
        with Lock(self.folder, "the local cluster", wait=True):
            yield

    def _make(self) -> None:
        strangers = [entry.name for entry in self.folder.iterdir() if entry.name != "lock"]
        if strangers:
            raise WrongDirectory(
                f"{self.folder} holds something that is not a local cluster ({strangers[0]})",
                do="Name an empty or new folder with --dir.",
            )
        nodes = self._wanted or NODES_DEFAULT
        if self.profile is not None and Profile.parse(self.profile).n > nodes:
            raise BadRequest(
                f"{self.profile} needs {Profile.parse(self.profile).n} nodes, and there would be {nodes}",
                do="Use more --nodes, or a smaller --profile.",
            )
        values = {
            "version": LAYOUT_VERSION,
            "nodes": nodes,
            "profile": self.profile,
            "zones": self._zones,
            "capacity_bytes": self._capacity_bytes,
            "lost_after_s": self._lost_after_s,
            "trash_hold_s": self._trash_hold_s,
            "compare_every_s": self._compare_every_s,
        }
        write_json(self.folder / "cluster.json", values)

    def _token_for(self, number: int) -> None:
        if not (self.folder / f"node-{number}" / "node.json").exists():
            token = self._operator("node-token")
            write_file(self.folder / f"node-{number}.token", token.encode())

    def _operator(self, verb: str) -> str:
        """Ask the coordinator for a token as its operator."""
        from holdfast.coordinator.asking import invite_token, node_token

        asking = invite_token if verb == "invite" else node_token
        return _asked(asking(self.operator_key)).text

    def add_node(self) -> int:
        """One more node, started and up; gives its number."""
        with self._locked():
            made = self._layout()
            number = int(made["nodes"]) + 1
            if number > NODES_MAX:
                raise BadRequest(f"a local cluster has at most {NODES_MAX} nodes")
            write_json(self.folder / "cluster.json", {**made, "nodes": number})
            if self._wanted is not None:
                self._wanted = number  # or the next heal() would find one node too many
            self._start_nodes(range(number, number + 1))
        return number

    def invite(self) -> str:
        """A fresh invite: one account may be made with it."""
        return self._operator("invite")

    def env(self) -> dict[str, str]:
        """HOLDFAST_COORDINATOR and a fresh HOLDFAST_INVITE."""
        return {"HOLDFAST_COORDINATOR": self.address, "HOLDFAST_INVITE": self.invite()}

    def kill(self, *targets: Target) -> None:
        """SIGKILL to all at once, and wait until they are gone."""
        with self._locked():
            members = [self.member(target) for target in targets]
            for member in members:
                member.signal(signal.SIGKILL)
            for member in members:
                member.kill()

    def stop(self, *targets: Target) -> None:
        """SIGTERM, and wait until they are gone."""
        with self._locked():
            self._stop([self.member(target) for target in targets])

    def _stop(self, members: list[Member]) -> None:
        for member in members:
            member.ask_to_stop()
        for member in members:
            member.stop()

    def start(self, *targets: Target) -> None:
        """Start again on the same folder and port, and wait until they serve."""
        with self._locked():
            members = [self.member(target) for target in targets]
            for member in members:
                member.start()
            for member in members:
                member.wait_ready()

    def pause(self, *targets: Target) -> None:
        """SIGSTOP: they keep their connections and answer nothing."""
        with self._locked():
            for member in [self.member(target) for target in targets]:
                member.pause()

    def resume(self, *targets: Target) -> None:
        """SIGCONT."""
        with self._locked():
            for member in [self.member(target) for target in targets]:
                member.resume()

    def logs(self, target: Target) -> str:
        """The end of a member's log."""
        return self.member(target).tail(200)

    def status(self) -> ClusterStatus:
        """What the coordinator says.

        Raises:
            Unreachable: it does not run, or is paused.
        """
        from holdfast.coordinator.asking import cluster_status

        state = self.coordinator.state()
        if state != "running":
            verb = "resume" if state == "paused" else "start"
            raise Unreachable(
                f"the coordinator is {state}",
                do=f"Run 'holdfast cluster {verb} coordinator'; what is stored is safe meanwhile.",
            )
        return _asked(cluster_status(self.operator_key))

    def wait_until(
        self,
        condition: Callable[[ClusterStatus], bool],
        within_s: float = READY_WITHIN_S,
        *,
        every_s: float = POLL_S,
    ) -> bool:
        """Wait until the coordinator's status fits, asked for so often; False when it did not in time."""

        def holds() -> bool:
            if self._closing.is_set():
                raise HoldfastError("the cluster is being closed")
            try:
                return condition(self.status())
            except HoldfastError:
                return False

        return wait_until(holds, within_s, every_s=every_s)

    def wait_healthy(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until the coordinator sees every node up.

        Raises:
            HoldfastError: not in time.
        """
        count = self.node_count

        def healthy(told: ClusterStatus) -> bool:
            return sum(node.state == "up" and node.store_state == "ok" for node in told.nodes) >= count

        if not self.wait_until(healthy, within_s):
            raise HoldfastError(
                f"not all {count} nodes came up within {within_s:.0f} s",
                do=f"Look at the logs in {self.folder}.",
            )

    def wait_down(self, *numbers: int, within_s: float = READY_WITHIN_S) -> None:
        """Wait until the coordinator has noticed that these nodes are gone.

        Raises:
            HoldfastError: not in time.
        """
        gone = {node for node, number in self.numbers().items() if number in numbers}

        def noticed(told: ClusterStatus) -> bool:
            return all(node.state in ("down", "stopping") for node in told.nodes if node.id.hex() in gone)

        if not self.wait_until(noticed, within_s):
            raise HoldfastError("the coordinator did not notice that nodes are gone")

    def down(self, *, delete: bool = False) -> bool:
        """Stop everything; ``delete``: delete what the cluster made, with all data in it.

        Returns:
            Is the folder gone? It stays when it holds anything else: only what a cluster made is deleted.
        """
        if not self.folder.exists():
            return True
        if self.exists:
            with self._locked():
                # Nodes first: they tell the coordinator that they go.
                self._stop(self.nodes())
                self._stop([self.coordinator])
                if delete:
                    self._delete()
        elif delete and all(entry.name == "lock" for entry in self.folder.iterdir()):
            self._delete()
        elif delete:
            raise WrongDirectory(f"{self.folder} is not a local cluster; nothing was deleted")
        return not self.folder.exists()

    def _delete(self) -> None:
        count = self.node_count if self.exists else 0
        names = ["coordinator", *(f"node-{number}" for number in range(1, count + 1))]
        for name in names:
            if (self.folder / name).is_dir():
                shutil.rmtree(self.folder / name)
            for suffix in (".log", ".log.1", ".process.json", ".token"):
                (self.folder / f"{name}{suffix}").unlink(missing_ok=True)
        for name in ("cluster.json", "lock"):
            (self.folder / name).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _asked(question: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop of its own: in this thread, or beside the loop that runs here already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(question)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, question).result()
