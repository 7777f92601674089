"""For all tests: how property tests draw, which ports servers may have, and that catalogues' sums are true.

Each worker has ports of its own, and so has every process that it starts: the port of a server that a
test has killed is not taken by another test's server before it is started again.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import Phase, settings
from support.true_sums import check_at_every_close

from holdfast.protocol.ports import PORTS_VARIABLE, lasting_ports

# CI asks whether a change broke something, and must answer the same twice; looking for what nobody has
# thought of is `make soak`, which draws anew each round and prints how to see a failure again.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile(
    "soak", print_blob=True, deadline=None, phases=[phase for phase in Phase if phase is not Phase.explain]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def _ports_of(worker: str, workers: int) -> str:
    """One worker's part of the ports that the kernel gives to no connection; "" where there are too few.

    A worker that takes the place of one that died has a number above the others'.
    """
    told = Path("/proc/sys/net/ipv4/ip_local_port_range")
    below = [port for port in lasting_ports(told.read_text() if told.exists() else "") if port < 32_000]
    each, number = len(below) // workers, worker.removeprefix("gw")
    if not number.isdecimal() or each < 1000 or below[-1] - below[0] + 1 != len(below):
        return ""
    first = int(number) % workers * each
    return f"{below[first]}-{below[first + each - 1]}"


if given := _ports_of(
    os.environ.get("PYTEST_XDIST_WORKER", "gw0"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
):
    os.environ.setdefault(PORTS_VARIABLE, given)

check_at_every_close()
