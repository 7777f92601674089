"""A port that is still free when its server comes back.

For port 0 the kernel takes one out of the range that it also gives to outgoing connections (ip(7),
ip_local_port_range). A server remembers its port, and while it is away anybody's connection may get
that port, and hold it for as long as it lasts and a minute more (TIME_WAIT, where SO_REUSEADDR of the
server alone does not help): the server then does not start. Outside that range only servers bind.

Where many servers come and go on one machine, sets of them may have ports of their own (HOLDFAST_PORTS).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from holdfast.protocol.clock import Source
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.limits import LASTING_PORTS_FROM, LASTING_PORTS_TRIED_MAX, PORTS_MAX

__all__ = ["PORTS_VARIABLE", "given_ports", "lasting_ports", "ports_of_environment", "ports_to_try"]

PORTS_VARIABLE: Final = "HOLDFAST_PORTS"
"""FIRST-LAST: what servers choose from that are told none; by default whatever this module thinks best."""
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


def given_ports(text: str) -> range:
    """The ports of FIRST-LAST.

    Raises:
        BadRequest: it is no range of ports.
    """
    found = re.fullmatch("([0-9]{1,5})-([0-9]{1,5})", text)
    first, last = map(int, found.groups()) if found else (0, 0)
    if 1 <= first <= last <= PORTS_MAX:
        return range(first, last + 1)
    raise BadRequest(
        f"{PORTS_VARIABLE} is {text!r}, which is no range of ports",
        do=f"Set it to FIRST-LAST, for example 20000-20999, with ports from 1 to {PORTS_MAX}; or unset it.",
    )


def ports_to_try(source: Source, told: str | None = None, given: str = "") -> Iterator[int]:
    """Some of them, drawn; at last 0, the kernel's own choice. Or all that are given, from a drawn one on.

    Args:
        told: see :func:`lasting_ports`; None: ask the kernel.
        given: see :func:`given_ports`; "": none.

    Raises:
        BadRequest: what is given is no range.
    """
    if given:
        those = given_ports(given)
        drawn = int.from_bytes(source.random_bytes(4), "big") % len(those)
        yield from (*those[drawn:], *those[:drawn])
        return
    ports = lasting_ports(_told() if told is None else told)
    for _ in range(LASTING_PORTS_TRIED_MAX if ports else 0):
        yield ports[int.from_bytes(source.random_bytes(4), "big") % len(ports)]
    yield 0


def ports_of_environment() -> str:
    """What this process was given; "": nothing."""
    return os.environ.get(PORTS_VARIABLE, "")


def _told() -> str:
    try:
        return _RANGE.read_text()
    except OSError:  # not Linux
        return ""
