"""A local cluster whose every wire, clock and step can be broken.

Members call each other through proxies (chaos.proxy), each from a loopback address of its own, so
that a proxy knows who calls. Beside every member lies a file that arms its steps
(protocol.failpoints) and one that sets its clock; both are read while it runs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from holdfast.cluster.chaos.limits import COMPARE_EVERY_S
from holdfast.cluster.chaos.namespaces import Wire
from holdfast.cluster.chaos.proxy import Network
from holdfast.cluster.chaos.small_disks import make_disk, unmount_below
from holdfast.cluster.local import LocalCluster
from holdfast.cluster.processes import Member
from holdfast.protocol.address import Address, Token
from holdfast.protocol.clock import CLOCK_VARIABLE, SYSTEM
from holdfast.protocol.directory import read_json, write_file
from holdfast.protocol.failpoints import VARIABLE as STEPS_VARIABLE
from holdfast.protocol.serving import ListenAddress
from holdfast.protocol.transport import CALL_FROM_VARIABLE

__all__ = [
    "COORDINATOR",
    "LIES_VARIABLE",
    "UNSYNCED_VARIABLE",
    "ChaosCluster",
    "client_name",
    "node_name",
]

COORDINATOR = "coordinator"
_PROGRAM = "holdfast.cluster.chaos.member_program"
LIES_VARIABLE = "HOLDFAST_LIES"
UNSYNCED_VARIABLE = "HOLDFAST_UNSYNCED"


def node_name(number: int) -> str:
    """A node's name as a member."""
    return f"node-{number}"


def client_name(number: int) -> str:
    """A client's name on the network."""
    return f"client-{number}"


def _address_of(member: str) -> str:
    """The loopback address a member calls from (the whole of 127/8 is loopback on Linux)."""
    if member == COORDINATOR:
        return "127.0.71.1"
    kind, _, number = member.partition("-")
    return f"127.0.{72 if kind == 'node' else 73}.{int(number)}"


def _who(address: str) -> str:
    """The member behind an address; everybody who was not given one is client 0."""
    parts = address.split(".")
    kind = {"71": COORDINATOR, "72": "node", "73": "client"}.get(parts[2] if len(parts) == 4 else "")
    if kind is None:
        return client_name(0)
    return kind if kind == COORDINATOR else f"{kind}-{parts[3]}"


class ChaosCluster(LocalCluster):
    """A LocalCluster with everything in place to break it.

    Args:
        seed: of what the network draws.
        disk_mib: every node's folder is a filesystem of its own of so many MiB; 0: a plain folder.
        **shape: as :class:`LocalCluster`.
    """

    def __init__(self, seed: int = 0, *, disk_mib: int = 0, **shape: Any) -> None:
        super().__init__(**{"compare_every_s": COMPARE_EVERY_S, **shape})
        self._disk_bytes = disk_mib * 1024 * 1024
        self.network = Network(_who, seed)
        self._ports: dict[str, int] = {}
        self.replacing: set[int] = set()
        """Nodes that start with --replace-damaged-store."""
        self.lying: set[int] = set()
        """Nodes that run as the program that can lie (chaos.lying); honest until a file says otherwise."""
        self.is_forgetful = False
        """Members keep what a power cut would take from their disks (chaos.unsynced)."""

    def _end(self) -> None:
        try:
            super()._end()
        finally:
            self.network.close()

    def _start_nodes(self, numbers: range) -> None:
        for number in numbers if self._disk_bytes else ():
            folder = self.folder / node_name(number)
            if not folder.exists():
                folder.mkdir(mode=0o700)
                make_disk(folder, self._disk_bytes)
        super()._start_nodes(numbers)

    # Members, wired

    @property
    def coordinator(self) -> Member:
        member = super().coordinator
        arguments = [*member.arguments, "--advertise", self.proxied_url(COORDINATOR)]
        return self._wired(replace(member, arguments=arguments))

    def node(self, number: int) -> Member:
        member = super().node(number)
        arguments = list(member.arguments)
        arguments[arguments.index("--coordinator") + 1] = self.proxied_url(COORDINATOR)
        arguments += ["--advertise", self.proxied_url(member.name)]
        if number in self.replacing:
            arguments.append("--replace-damaged-store")
        if number in self.lying:
            lies = {LIES_VARIABLE: str(self.lies_file(member.name))}
            member = replace(member, module=_PROGRAM, environment={**member.environment, **lies})
        return self._wired(replace(member, arguments=arguments))

    def _wired(self, member: Member) -> Member:
        wires = self.environment_of(member.name)
        if self.is_forgetful:
            journals = self.journals(member.name)
            journals.mkdir(exist_ok=True)
            member = replace(member, module=_PROGRAM)
            wires[UNSYNCED_VARIABLE] = str(journals)
        return replace(member, environment={**member.environment, **wires})

    def environment_of(self, member: str) -> dict[str, str]:
        """What wires a member, or a client's process."""
        return {
            CALL_FROM_VARIABLE: _address_of(member),
            STEPS_VARIABLE: str(self.steps_file(member)),
            CLOCK_VARIABLE: str(self.clock_file(member)),
        }

    def proxied_url(self, member: str) -> str:
        """Where others reach a member."""
        if member not in self._ports:
            self._ports[member] = self.network.listen(member, lambda: self._listens_at(member))
        return f"http://127.0.0.1:{self._ports[member]}"

    def wire_of(self, member: str) -> Wire:
        """Where its packets come from and go to."""
        if member.startswith("client-"):
            return Wire(_address_of(member))
        return Wire(_address_of(member), urlsplit(self.proxied_url(member)).port)

    def _listens_at(self, member: str) -> tuple[str, int] | None:
        """Where it listens itself, as its folder says."""
        name = "coordinator.json" if member == COORDINATOR else "node.json"
        kept = read_json(self.folder / member / name, 1)
        if kept is None or not kept.get("listen"):
            # A node that joins right now says so in no file yet.
            return None
        at = ListenAddress.parse(str(kept["listen"]))
        return at.host, at.port

    # For clients

    def client_environment(self, member: str, *, invite: bool = True) -> Mapping[str, str]:
        """The environment of a client's process: everything by the proxies."""
        address = Address.parse(self.address)
        proxied = Address(self.proxied_url(COORDINATOR), address.cluster)
        made = {**self.environment_of(member), "HOLDFAST_COORDINATOR": str(proxied)}
        if invite:
            made["HOLDFAST_INVITE"] = Token(proxied, Token.parse(self.invite()).secret).text()
        return made

    # Steps, clocks, lies and what is not synced

    def journals(self, member: str) -> Path:
        """Where a member keeps what a power cut would take from its files."""
        return self.folder / f"{member}.unsynced"

    def forget_journals(self, member: str) -> None:
        """Its files are others now: what was kept of those before means nothing."""
        for journal in self.journals(member).glob("*"):
            journal.unlink()

    def lies_file(self, member: str) -> Path:
        """What makes a lying node lie."""
        return self.folder / f"{member}.lies"

    def lies_told(self, member: str) -> int:
        """How often it lied."""
        try:
            return Path(f"{self.lies_file(member)}.told").stat().st_size
        except FileNotFoundError:
            return 0

    def steps_file(self, member: str) -> Path:
        """What arms a member's steps."""
        return self.folder / f"{member}.steps"

    def clock_file(self, member: str) -> Path:
        """What sets a member's clock."""
        return self.folder / f"{member}.clock"

    def arm(self, member: str, step: str, action: str, nth: int = 1) -> None:
        """When the member comes to this step the nth time, it does so; nothing else stays armed there."""
        write_file(self.steps_file(member), f"{step} {nth} {action}\n".encode())

    def disarm(self, member: str) -> None:
        """Nothing is armed in this member."""
        self.steps_file(member).unlink(missing_ok=True)

    def hits(self, member: str) -> list[str]:
        """Steps at which the member did what it was armed to, in order."""
        try:
            lines = Path(f"{self.steps_file(member)}.hits").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.split()[0] for line in lines]

    def set_clock(self, member: str, offset_ms: int, drift_ppm: float = 0.0) -> None:
        """Put a member's wall clock off."""
        write_file(self.clock_file(member), f"{offset_ms} {drift_ppm} {SYSTEM.now_ms()}\n".encode())

    def right_clock(self, member: str) -> None:
        """Its wall clock is right again."""
        self.clock_file(member).unlink(missing_ok=True)

    def _delete(self) -> None:
        for pattern in ("*.steps", "*.steps.hits", "*.clock", "*.lies", "*.lies.told"):
            for file in self.folder.glob(pattern):
                os.unlink(file)
        unmount_below(self.folder)
        for folder in self.folder.glob("*.unsynced"):
            shutil.rmtree(folder)
        super()._delete()
