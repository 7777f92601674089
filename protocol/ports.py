"""A port that is still free when its server comes back.

For port 0 the kernel takes one out of the range that it also gives to outgoing connections (ip(7),
ip_local_port_range). A server remembers its port, and while it is away anybody's connection may get
that port, and hold it for as long as it lasts and a minute more (TIME_WAIT, where SO_REUSEADDR of the
server alone does not help): the server then does not start. Outside that range only servers bind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from holdfast.protocol.clock import Source
from holdfast.protocol.limits import LASTING_PORTS_FROM, LASTING_PORTS_TRIED_MAX, PORTS_MAX

__all__ = ["lasting_ports", "ports_to_try"]

_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Of this network namespace, for IPv6 as well (ip-sysctl)."""


def lasting_ports(told: str) -> list[int]:
    """The ports to choose from.

    Args:
        told: the kernel's range for outgoing connections, as it tells it: first and last; "" where none does.

    Returns:
        None of that range; empty where it is not known, or leaves nothing.
    """
    try:
        first, last = map(int, told.split())
    except ValueError:
        return []
    return [port for port in range(LASTING_PORTS_FROM, PORTS_MAX + 1) if not first <= port <= last]


def ports_to_try(source: Source, told: str | None = None) -> Iterator[int]:
    """Some of them, drawn; at last 0, the kernel's own choice.

    Args:
        told: see :func:`lasting_ports`; None: ask the kernel.
    """
    ports = lasting_ports(_told() if told is None else told)
    for _ in range(LASTING_PORTS_TRIED_MAX if ports else 0):
        yield ports[int.from_bytes(source.random_bytes(4), "big") % len(ports)]
    yield 0


def _told() -> str:
    try:
        return _RANGE.read_text()
    except OSError:  # not Linux
        return ""
