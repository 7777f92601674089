"""The demo's steps: each really done, by real processes, and compared byte for byte."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.client.exclude import Excluder
from holdfast.client.progress import Progress
from holdfast.client.sdk import AsyncClient
from holdfast.client.show import shown
from holdfast.client.snapshots import Snapshot
from holdfast.cluster.demo.compare import Comparison, compare_trees
from holdfast.cluster.demo.messenger import change_messenger, make_messenger
from holdfast.cluster.demo.story import Story
from holdfast.cluster.local import LocalCluster
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.profiles import Profile, default_profile
from holdfast.protocol.terminal import Output, human_bytes, human_count

__all__ = ["run_demo"]

_LEFT_OUT = ("__pycache__/", "site-packages/", "dist-packages/")
_MB = 1e6


@dataclass(slots=True)
class _Numbers:
    """What the summary tells."""

    files: int = 0
    bytes: int = 0
    killed: int = 0
    new_bytes_second_backup: int = 0
    backup_mb_per_s: float = 0.0
    restore_mb_per_s: float = 0.0
    degraded_restore_mb_per_s: float = 0.0


class _Demo:
    def __init__(self, cluster: LocalCluster, folder: Path, source: Path | None, story: Story) -> None:
        self.cluster = cluster
        self.folder = folder
        self.story = story
        self.messenger = folder / "messenger"
        # A folder named by a person is taken whole; the standard library without what is installed into it.
        self.patterns = () if source is not None else _LEFT_OUT
        self.source = source.resolve() if source is not None else Path(sysconfig.get_paths()["stdlib"])
        self.recovery_text = ""
        self.numbers = _Numbers()
        self.identical = True
        self.group: list[int] = []

    @property
    def paths(self) -> list[str]:
        return [str(self.source), str(self.messenger)]

    # Steps

    async def first_backup(self, client: AsyncClient) -> Snapshot:
        """Back up the real tree and the messenger folder."""
        await asyncio.to_thread(make_messenger, self.messenger)
        started = SYSTEM.monotonic()
        snapshot = await client.backup(*self.paths, exclude=self.patterns)
        seconds = SYSTEM.monotonic() - started
        self.numbers.backup_mb_per_s = snapshot.bytes / _MB / seconds
        self._tell_backup("Backed up", snapshot, seconds)
        return snapshot

    def _tell_backup(self, what: str, snapshot: Snapshot, seconds: float) -> None:
        self.story.step(
            f"{what}: {human_count(snapshot.files, 'file')}, "
            f"{human_bytes(snapshot.bytes)} in {seconds:.1f} s "
            f"({snapshot.bytes / _MB / seconds:.0f} MB/s)",
            f"{human_bytes(snapshot.new_bytes)} sealed and sent, snapshot {snapshot.id.short}",
        )
        for skipped in snapshot.skipped[:3]:
            self.story.step(f"skipped {shown(skipped.path)}: {skipped.why}")

    def members_of_a_group(self) -> list[int]:
        """The node numbers of the group that holds most chunks."""
        group = max(self.cluster.status().groups, key=lambda group: group.chunks)
        numbers = self.cluster.numbers()
        return [numbers[node.hex()] for node in group.members]

    async def backup_while_nodes_die(self, client: AsyncClient, victims: Sequence[int]) -> Snapshot:
        """Kill nodes in the middle of a changed backup."""
        await asyncio.to_thread(change_messenger, self.messenger)
        dead = threading.Event()

        def kill_once(progress: Progress) -> None:
            # Called in the thread that reads and seals: the backup is under way, and goes on afterwards.
            if progress.new_bytes and not dead.is_set():
                self.cluster.kill(*victims)
                dead.set()

        started = SYSTEM.monotonic()
        snapshot = await client.backup(*self.paths, exclude=self.patterns, on_progress=kill_once)
        seconds = SYSTEM.monotonic() - started
        self.numbers.killed = len(victims)
        self.numbers.files, self.numbers.bytes = snapshot.files, snapshot.bytes
        self.numbers.new_bytes_second_backup = snapshot.new_bytes
        self._tell_backup("Backed up again after a day of changes", snapshot, seconds)
        self.story.verdict(
            dead.is_set(),
            f"nodes {_listed(victims)} were killed (SIGKILL) while that backup was running, and it went on",
        )
        return snapshot

    async def recover_and_restore(self, name: str, client: AsyncClient) -> float:
        """Restore latest and compare completely; gives MB/s."""
        target = self.folder / name
        started = SYSTEM.monotonic()
        report = await client.restore("latest", target)
        seconds = SYSTEM.monotonic() - started
        rate = report.bytes / _MB / seconds
        self.story.step(
            f"Restored {human_count(report.files, 'file')}, {human_bytes(report.bytes)} in {seconds:.1f} s "
            f"({rate:.0f} MB/s)"
        )
        compared = await asyncio.to_thread(self._compare, target, False)
        self._judge(compared, report.complete)
        return rate

    def _compare(self, target: Path, only_restored: bool) -> Comparison:
        """Both trees against what was restored of them."""
        excluder = Excluder(self.patterns)
        parts = []
        for path in self.paths:
            source = os.fsencode(path)
            parts.append(
                compare_trees(
                    source,
                    os.fsencode(target) + source,
                    leave_out=excluder.excludes,
                    only_restored=only_restored,
                )
            )
        return Comparison(
            sum(part.files for part in parts),
            sum(part.entries for part in parts),
            sum(part.bytes for part in parts),
            tuple(difference for part in parts for difference in part.differences),
        )

    def _judge(self, compared: Comparison, complete: bool) -> None:
        same = compared.identical and complete
        self.identical &= same
        detail = "content, types, modes, times, links and attributes"
        if compared.differences:
            detail = "\n".join(f"{shown(d.path)}: {d.what}" for d in compared.differences[:8])
        self.story.verdict(
            same,
            f"all {human_count(compared.entries, 'entry', 'entries')} are "
            f"{'identical' if same else 'NOT identical'} to the source",
            detail,
        )

    async def honest_refusal(self, home: Path) -> None:
        """With one node too few, the real command line must say so, name files, and write nothing wrong."""
        target = self.folder / "refused"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "holdfast.client.console",
            "restore",
            "latest",
            "--target",
            str(target),
            "--json",
            env={**os.environ, "HOLDFAST_HOME": str(home)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await process.communicate()
        lines = [json.loads(line) for line in out.decode().splitlines()]
        named = [line["path"] for line in lines if line.get("event") == "failed"]
        example = f"for example {shown(os.fsencode(named[0]))}" if named else ""
        self.identical &= self.story.verdict(
            process.returncode == 20 and bool(named),
            f"the restore refuses honestly: exit code {process.returncode}, "
            f"{human_count(len(named), 'file')} named",
            example,
        )
        compared = await asyncio.to_thread(self._compare, target, True)
        there = {os.fsdecode(target) + "/" + path for path in named}
        written = [path for path in there if os.path.lexists(path)]
        self.identical &= self.story.verdict(
            compared.identical and not written,
            f"nothing wrong was written: {human_count(compared.files, 'file')} could be restored, "
            "each identical",
            "\n".join(f"{shown(d.path)}: {d.what}" for d in compared.differences[:8]),
        )


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(str(number) for number in numbers)


def _profile(nodes: int, wanted: str | None) -> Profile:
    """What was asked for, or what fits so many nodes.

    Raises:
        BadRequest: there are too few nodes for it.
    """
    profile = Profile.parse(wanted) if wanted is not None else default_profile(nodes)
    if profile is None or profile.n > nodes:
        raise BadRequest(
            f"{profile or 'a cluster'} needs {profile.n if profile else 2} nodes, and there would be {nodes}",
            do="Use more --nodes, or a smaller --profile.",
        )
    return profile


async def run_demo(source: Path | None, nodes: int, wanted: str | None, output: Output) -> int:
    """Run all steps; 0 only if every comparison held."""
    story = Story(output)
    profile = _profile(nodes, wanted)
    started = SYSTEM.monotonic()
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as temporary:
        folder = Path(temporary)
        cluster = LocalCluster(nodes, str(profile), folder=folder / "cluster", keep=False)
        story.title(f"Holdfast demo: {nodes} nodes, {profile}: any {profile.m} of a group may fail")
        async with cluster:
            story.step(f"Started a coordinator and {nodes} nodes", f"{cluster.address[:74]}")
            demo = _Demo(cluster, folder, source, story)
            await _tell(demo, cluster, folder, profile.m, story)
    held = demo.identical and not story.failed
    story.end(
        f"{'Every comparison held' if held else 'SOMETHING DID NOT HOLD'} "
        f"({SYSTEM.monotonic() - started:.0f} s)."
    )
    numbers = demo.numbers
    output.summary(
        identical=held,
        nodes=nodes,
        killed=numbers.killed,
        files=numbers.files,
        bytes=numbers.bytes,
        backup_mb_per_s=round(numbers.backup_mb_per_s, 1),
        restore_mb_per_s=round(numbers.restore_mb_per_s, 1),
        degraded_restore_mb_per_s=round(numbers.degraded_restore_mb_per_s, 1),
        new_bytes_second_backup=numbers.new_bytes_second_backup,
    )
    return 0 if held else 1


async def _tell(demo: _Demo, cluster: LocalCluster, folder: Path, parity: int, story: Story) -> None:
    """The story, in order."""
    invite = await cluster.run(cluster.invite)
    async with AsyncClient(folder / "first-device", coordinator=cluster.address) as client:
        texts: list[str] = []
        await client.init(
            invite, device_name="first device", show_code=lambda _code, text: texts.append(text)
        )
        story.step("Made an account; its recovery code is all that a new device will have")
        await demo.first_backup(client)
        group = await cluster.run(demo.members_of_a_group)
        victims = sorted(group[:parity])
        await demo.backup_while_nodes_die(client, victims)
    home = folder / "new-device"
    async with AsyncClient(home) as client:
        found = await client.recover(recovery_file=texts[0], device_name="new device")
        when = found.snapshot.time.astimezone().strftime("%H:%M:%S") if found.snapshot else "-"
        story.step(f"A new device recovered the account with the code alone (newest snapshot {when})")
        demo.numbers.degraded_restore_mb_per_s = await demo.recover_and_restore("degraded", client)
    extra = group[parity]
    await cluster.run(cluster.kill, extra)
    story.step(f"Killed node {extra} too: {parity + 1} of one group are gone, one more than parity allows")
    await demo.honest_refusal(home)
    dead = [*victims, extra]
    await cluster.run(cluster.start, *dead)
    await cluster.run(cluster.wait_healthy)
    story.step(f"Started nodes {_listed(sorted(dead))} again")
    async with AsyncClient(home) as client:
        demo.numbers.restore_mb_per_s = await demo.recover_and_restore("healthy", client)
        status = await client.status()
        story.step(status.sentence)
