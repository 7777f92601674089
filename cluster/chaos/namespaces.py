"""Packets that get lost: partitions by a packet filter, in a network namespace of the run's own.

A run whose scenario asks for that (``by = "namespace"``) begins anew under unshare(1). All that it
starts has a loopback then that nobody else on the machine sees, and nft(8) drops on it what members send
from their own addresses (chaos.wiring) to each other's proxies, and what goes back. Unlike bytes that
a proxy holds back, packets are lost together with their acknowledgements: TCP does what it does
when a cable was pulled. The namespace has no name, and is gone with the last process in it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.protocol.errors import HoldfastError

__all__ = ["PacketFilter", "Wire", "begin_inside", "is_inside", "raise_loopback", "rules", "why_unavailable"]

_VARIABLE = "HOLDFAST_CHAOS_OUTSIDE"
"""Names the namespace that a run was started from: one that is not in another one touches nothing."""
_COMMAND_WITHIN_S = 30.0
_IFREQ = struct.Struct("16sh14x")
_COUNTED = re.compile(r"counter packets (\d+)")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


@dataclass(frozen=True, slots=True)
class Wire:
    """A member's ends: the address it calls from, and the port of its proxy, if others call it."""

    address: str
    port: int | None = None


def _namespace() -> str:
    return os.readlink("/proc/self/ns/net")


def _unshare() -> list[str]:
    # Who is not root becomes it in a namespace of users first, where the machine allows that.
    return ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--net", "--"]


def why_unavailable() -> str:
    """Why no namespace with a packet filter can be made here; empty when one can."""
    for program, package in (("unshare", "util-linux"), ("nft", "nftables")):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: apt install {package})"
    probe = "add table inet probe { chain input { type filter hook input priority 0; }; }"
    try:
        done = subprocess.run(
            [*_unshare(), "nft", probe],
            capture_output=True,
            text=True,
            timeout=_COMMAND_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or "it is not allowed here")[:200]


def is_inside() -> bool:
    """Does this process run in a namespace that a run made for itself?"""
    outside = os.environ.get(_VARIABLE)
    return outside is not None and outside != _namespace()


def begin_inside(arguments: Sequence[str]) -> None:
    """Start this program anew, in a network namespace of its own. Does not come back.

    Args:
        arguments: of ``holdfast``.
    """
    environment = {**os.environ, _VARIABLE: _namespace()}
    program = [sys.executable, "-P", "-m", "holdfast.client.console", *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe("unshare", [*_unshare(), *program], environment)


def raise_loopback() -> None:
    """In a new namespace even the loopback is down (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        told = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        flags = _IFREQ.unpack(told)[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))


def rules(senders: Iterable[Wire], receivers: Iterable[Wire]) -> list[str]:
    """What drops everything that the ones send to the others: on connections that either of them began."""
    found = []
    receivers = list(receivers)
    for sender in senders:
        for receiver in receivers:
            if receiver.port is not None:
                found.append(f"ip saddr {sender.address} tcp dport {receiver.port} counter drop")
            if sender.port is not None:
                found.append(f"ip daddr {receiver.address} tcp sport {sender.port} counter drop")
    return found


class PacketFilter:
    """Drops packets until :meth:`end`.

    Args:
        number: unique in the run.
        dropping: see :func:`rules`.

    Raises:
        HoldfastError: this process is in no namespace of its own, or nft refuses.
    """

    def __init__(self, number: int, dropping: Sequence[str]) -> None:
        if not is_inside():
            raise HoldfastError("packets are dropped only in a network namespace of the run's own")
        self._table = f"holdfast_{number}"
        lines = "\n".join(f"    {rule}" for rule in dropping)
        # Where packets come in: who sends them notices nothing, as with a cable.
        _nft(
            f"table inet {self._table} {{\n  chain lost {{\n"
            f"    type filter hook input priority 0;\n{lines}\n  }}\n}}\n"
        )

    def end(self) -> int:
        """Let packets through again; gives how many were dropped."""
        told = _nft(f"list table inet {self._table}\n")
        _nft(f"delete table inet {self._table}\n")
        # Not by its JSON: nft may be built without.
        return sum(map(int, _COUNTED.findall(told)))


def _nft(commands: str) -> str:
    done = subprocess.run(
        ["nft", "--file", "-"],
        input=commands,
        capture_output=True,
        text=True,
        timeout=_COMMAND_WITHIN_S,
        check=False,
    )
    if done.returncode:
        raise HoldfastError("nft refused", why=done.stderr.strip()[:200])
    return done.stdout
