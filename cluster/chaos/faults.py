"""What can be broken, as a scenario file says it: one struct for each kind of fault.

Everything about WHEN and WHOM is common to all kinds (:class:`Fault`); what a kind adds is in
its own struct. Network faults have the names of toxiproxy's toxics, hyphenated.
"""

from __future__ import annotations

from typing import Literal, get_args

from holdfast.cluster.chaos.typed import Part, name_of

__all__ = ["KINDS", "AnyFault", "Fault", "NetworkFault", "kind_of", "summary_of"]

Direction = Literal["both", "to", "from"]
"""Which way a network fault works: bytes "to" the targets, "from" them, or both."""


class Fault(Part, tag_field="kind"):
    """When, whom, and for how long.

    Attributes:
        at_s: seconds after chaos began (with ``step``: when the step is armed).
        every_s: again and again, this far apart, beginning at ``at_s``.
        jitter_s: each moment is moved by up to so much, by the seed.
        step: not by the clock, but when a target comes to this step (protocol.failpoints).
        nth: the how manieth time it comes there.
        targets: nodes by number ("3"), "any", "any:2", "any:m", "any:m+1", "all", "zone:2", "zone:any";
            "coordinator"; "clients".
        for_s: how long it lasts; 0: until everything is healed.
        stagger_s: targets are hit one by one, so far apart; ``reopen``: in which order they come back.
    """

    at_s: float = 0.0
    every_s: float | None = None
    jitter_s: float = 0.0
    step: str | None = None
    nth: int = 1
    targets: tuple[str, ...] = ("any",)
    for_s: float = 0.0
    stagger_s: float = 0.0
    reopen: Literal["same", "random"] = "same"


# Processes


class Kill(Fault, tag="kill"):
    """SIGKILL; started again after ``for_s``."""


class Pause(Fault, tag="pause"):
    """SIGSTOP: connections stay, nothing is answered; SIGCONT after ``for_s``."""


class Restart(Fault, tag="restart"):
    """SIGTERM, and started again after ``for_s``."""


class PowerCut(Fault, tag="power-cut"):
    """SIGKILL to every process at once, clients too, and servers' disks lose what was not synced; all started
    again after ``for_s``."""


# The network, by proxies in front of every member


class NetworkFault(Fault):
    """``toward``: which way; ``peers``: only connections that these began ("clients", "coordinator", "2")."""

    toward: Direction = "both"
    peers: tuple[str, ...] = ("everybody",)


class Latency(NetworkFault, tag="latency", kw_only=True):
    """Every byte arrives later."""

    latency_ms: float
    latency_jitter_ms: float = 0.0


class Bandwidth(NetworkFault, tag="bandwidth", kw_only=True):
    """At most so much a second on each connection."""

    kib_per_s: float


class SlowClose(NetworkFault, tag="slow-close", kw_only=True):
    """The end of a connection is noticed late."""

    delay_ms: float


class Timeout(NetworkFault, tag="timeout"):
    """Nothing comes through any more; after ``timeout_ms`` the connection is closed (0: never)."""

    timeout_ms: float = 0.0


class ResetPeer(NetworkFault, tag="reset-peer"):
    """Connections are reset (RST) after ``timeout_ms``, and after ``bytes`` where those are given."""

    timeout_ms: float = 0.0
    bytes: int | None = None


class Slicer(NetworkFault, tag="slicer", kw_only=True):
    """Bytes come in small portions, with a pause after each."""

    average_bytes: int
    variation_bytes: int = 0
    delay_us: float = 0.0


class LimitData(NetworkFault, tag="limit-data", kw_only=True):
    """A connection is closed after so many bytes."""

    bytes: int


class Garble(NetworkFault, tag="garble", kw_only=True):
    """One bit among so many bytes arrives as another, and no checksum of the network's notices."""

    bytes: int


class Down(NetworkFault, tag="down"):
    """Connections are refused, and those that are there are cut."""


class Partition(Fault, tag="partition"):
    """Targets and ``peers`` do not hear each other; ``one_way``: peers do not hear the targets.

    ``by``: "proxy": bytes are held back; "namespace": packets are lost, where the machine allows that.
    """

    peers: tuple[str, ...] = ("everybody",)
    one_way: bool = False
    by: Literal["proxy", "namespace"] = "proxy"


# Disks


class BitRot(Fault, tag="bit-rot"):
    """Bits flip in stored values, or in pages of the B-tree."""

    what: Literal["values", "pages"] = "values"
    count: int = 8


class Truncate(Fault, tag="truncate"):
    """The store's file loses its end: ``keep_percent`` of it stay."""

    keep_percent: float = 60.0


class SwapValues(Fault, tag="swap-values"):
    """Stored values change places."""

    count: int = 4


class OldCopy(Fault, tag="old-copy", kw_only=True):
    """The store, or the coordinator's catalogue, as it was ``age_s`` ago is put back."""

    age_s: float


class DiskSwap(Fault, tag="disk-swap"):
    """The store is gone: the node starts on an empty disk."""


class DiskErrors(Fault, tag="disk-errors"):
    """System calls of the node fail or are late (strace -e inject)."""

    call: Literal["fdatasync", "pwrite64", "pwritev"] = "fdatasync"
    error: Literal["EIO", "ENOSPC", ""] = "EIO"
    delay_ms: float = 0.0
    times: int = 1


class FullDisk(Fault, tag="full-disk"):
    """Somebody else takes all room on the targets' disks but ``leave_mib``; needs ``cluster.disk_mib``."""

    leave_mib: float = 0.0


# Lies


class Clock(Fault, tag="clock"):
    """The targets' wall clocks are off by so much, or run away by ``drift_ppm``."""

    offset_s: float = 0.0
    drift_ppm: float = 0.0


class Lie(Fault, tag="lie"):
    """A node answers with wrong bytes, with an older answer, or with another chunk's shard."""

    how: Literal["wrong", "old", "other"] = "wrong"
    share_percent: float = 100.0


class Amnesia(Fault, tag="amnesia"):
    """The coordinator's folder is deleted, and made again from the cluster kit and the nodes."""


class Comeback(Fault, tag="comeback"):
    """A coordinator is made from the cluster kit and the nodes, reigns, and the former one is in its place
    again for ``for_s``."""

    after_s: float = 4.0


AnyFault = (
    Kill
    | Pause
    | Restart
    | PowerCut
    | Latency
    | Bandwidth
    | SlowClose
    | Timeout
    | ResetPeer
    | Slicer
    | LimitData
    | Garble
    | Down
    | Partition
    | BitRot
    | Truncate
    | SwapValues
    | OldCopy
    | DiskSwap
    | DiskErrors
    | FullDisk
    | Clock
    | Lie
    | Amnesia
    | Comeback
)

KINDS: dict[str, type[Fault]] = {name_of(kind): kind for kind in get_args(AnyFault)}
"""Every kind by its name in scenario files."""


def kind_of(fault: Fault) -> str:
    """Its name in scenario files."""
    return name_of(type(fault))


def summary_of(fault: Fault) -> str:
    """One line for people: what, whom, when."""
    whom = ", ".join(fault.targets)
    when = f"every {fault.every_s:g} s" if fault.every_s is not None else f"at {fault.at_s:g} s"
    if fault.step is not None:
        place = "a step that is drawn" if fault.step == "any" else fault.step
        when = f"{when}, as soon as it comes to {place}" + (f" (time {fault.nth})" if fault.nth > 1 else "")
    length = f", for {fault.for_s:g} s" if fault.for_s else ""
    return f"{kind_of(fault)} of {whom} {when}{length}"
