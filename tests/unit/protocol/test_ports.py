"""Ports that are still there when a server comes back."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cluster.processes import clean_environment
from holdfast.protocol import serving
from holdfast.protocol.clock import SYSTEM, FixedSource
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.handling import Routes
from holdfast.protocol.limits import LASTING_PORTS_FROM, LASTING_PORTS_TRIED_MAX, PORT_AWAITED_S, PORTS_MAX
from holdfast.protocol.ports import PORTS_VARIABLE, lasting_ports, ports_to_try
from holdfast.protocol.serving import ListenAddress, Server

KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")
PORTS = st.integers(1, PORTS_MAX)


@given(PORTS, PORTS)
def test_none_is_one_that_the_kernel_gives_to_connections(first: int, last: int) -> None:
    ports = lasting_ports(f"{first}\t{last}\n")
    assert all(LASTING_PORTS_FROM <= port <= PORTS_MAX for port in ports)
    assert not set(ports) & set(range(first, last + 1))
    outside = [port for port in (LASTING_PORTS_FROM, PORTS_MAX) if not first <= port <= last]
    assert set(outside) <= set(ports)


@pytest.mark.parametrize("told", ["", "1", "a b", "1 2 3", "1024 65535"])
def test_where_nothing_is_known_or_left_the_kernel_chooses(told: str) -> None:
    assert lasting_ports(told) == []
    assert list(ports_to_try(SYSTEM, told)) == [0]


def test_some_are_tried_and_at_last_the_kernel_s() -> None:
    tried = list(ports_to_try(SYSTEM, "32768 60999"))
    assert len(tried) == LASTING_PORTS_TRIED_MAX + 1 and tried[-1] == 0
    assert len(set(tried)) > LASTING_PORTS_TRIED_MAX / 2, "not the same again and again"


async def started(address: ListenAddress, **options: object) -> tuple[Server, ListenAddress]:
    server = Server(Routes(), address, **options)  # type: ignore[arg-type]
    return server, await server.start()


@given(PORTS, st.integers(0, 300), st.binary(max_size=32))
def test_of_given_ports_each_is_tried_and_no_other(first: int, more: int, seed: bytes) -> None:
    last = min(first + more, PORTS_MAX)
    tried = list(ports_to_try(FixedSource(seed=seed), "32768 60999", f"{first}-{last}"))
    assert sorted(tried) == list(range(first, last + 1))


@pytest.mark.parametrize(
    "text", ["20000", "0-5", "7-6", "1-65536", "a-b", "-5-7", " 1-2", "1-2-3", "\u0661-\u0662"]
)
async def test_what_is_no_range_of_ports_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORTS_VARIABLE, text)
    with pytest.raises(BadRequest, match="no range of ports"):
        await started(ListenAddress("127.0.0.1", 0))


async def test_a_server_chooses_of_the_ports_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv(PORTS_VARIABLE, f"{port}-{port}")
        with pytest.raises(HoldfastError, match="cannot listen"):
            await started(ListenAddress("127.0.0.1", 0))
    server, bound = await started(ListenAddress("127.0.0.1", 0))
    await server.stop()
    assert bound.port == port


async def test_what_is_no_range_is_told_also_to_a_server_that_has_its_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PORTS_VARIABLE, "nonsense")
    with pytest.raises(BadRequest, match="no range of ports"):
        await started(ListenAddress("127.0.0.1", 12_345))


def test_whoever_starts_servers_hands_the_ports_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORTS_VARIABLE, "20000-20999")
    monkeypatch.setenv("HOLDFAST_HOME", "/somewhere")
    kept = clean_environment()
    assert kept[PORTS_VARIABLE] == "20000-20999" and "HOLDFAST_HOME" not in kept


def test_servers_do_not_all_begin_with_the_same_of_them() -> None:
    first = {next(ports_to_try(SYSTEM, "", "10000-29999")) for _ in range(20)}
    assert len(first) > 10


async def test_where_all_given_ports_are_taken_that_is_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv(PORTS_VARIABLE, f"{port}-{port}")
        with pytest.raises(HoldfastError, match="cannot listen") as told:
            await started(ListenAddress("127.0.0.1", 0))
    assert f"(it is {port}-{port})" in told.value.do


async def test_a_server_that_may_move_and_finds_nothing_else_waits_for_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as own, socket.create_server(("127.0.0.1", 0)) as other:
        port, taken = own.getsockname()[1], other.getsockname()[1]
        monkeypatch.setenv(PORTS_VARIABLE, f"{taken}-{taken}")
        starting = asyncio.create_task(started(ListenAddress("127.0.0.1", port), or_any=True))
        await asyncio.sleep(0.3)
        assert not starting.done()
        own.close()
        server, bound = await starting
        await server.stop()
        assert bound.port == port


@pytest.mark.skipif(not KERNEL.exists(), reason="only Linux tells its range")
async def test_a_server_s_own_choice_is_none_of_the_kernel_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PORTS_VARIABLE, raising=False)
    first, last = map(int, KERNEL.read_text().split())
    server, bound = await started(ListenAddress("127.0.0.1", 0))
    await server.stop()
    assert bound.port >= LASTING_PORTS_FROM and not first <= bound.port <= last


async def test_a_port_that_is_taken_is_passed_over() -> None:
    drawn = FixedSource(seed=b"seven")
    one, first = await started(ListenAddress("127.0.0.1", 0), source=drawn)
    other, second = await started(ListenAddress("127.0.0.1", 0), source=FixedSource(seed=b"seven"))
    assert first.port != second.port, "the same was drawn"
    await asyncio.gather(one.stop(), other.stop())


async def test_a_port_that_is_about_to_be_free_is_waited_for() -> None:
    """The process before this one is just ending, or somebody has taken its port for a moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        starting = asyncio.create_task(started(ListenAddress("127.0.0.1", port)))
        await asyncio.sleep(0.3)
        assert not starting.done()
    server, bound = await starting
    await server.stop()
    assert bound.port == port


def test_a_server_waits_longer_than_one_takes_to_end() -> None:
    assert PORT_AWAITED_S >= 3.0


async def test_a_port_that_was_told_is_that_one_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PORT_AWAITED_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HoldfastError, match="cannot listen") as told:
            await started(ListenAddress("127.0.0.1", port))
        assert "--listen" in told.value.do
        server, bound = await started(ListenAddress("127.0.0.1", port), or_any=True)
        await server.stop()
        assert bound.port != port


async def test_what_the_kernel_gave_a_connection_keeps_a_server_from_its_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why ports are chosen so: the kernel's own choice is not safe while its server is away."""
    monkeypatch.setattr(serving, "PORT_AWAITED_S", 0.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as peer,
        socket.create_connection(peer.getsockname()) as caller,
        pytest.raises(HoldfastError, match="cannot listen"),
    ):
        await started(ListenAddress("127.0.0.1", caller.getsockname()[1]))


@pytest.fixture
async def refusals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Error numbers with which binding is refused, one after the other; then it works."""
    loop, given = asyncio.get_running_loop(), list[int]()
    create = loop.create_server

    async def refusing(*rest: Any, **more: Any) -> Any:
        if given:
            number = given.pop(0)
            raise OSError(number, os.strerror(number))
        return await create(*rest, **more)

    monkeypatch.setattr(loop, "create_server", refusing)
    return given


async def test_a_drawn_port_that_nobody_may_have_is_passed_over(refusals: list[int]) -> None:
    refusals += [errno.EACCES, errno.EADDRINUSE, errno.EACCES]
    server, bound = await started(ListenAddress("127.0.0.1", 0))
    await server.stop()
    assert bound.port and not refusals


@pytest.mark.parametrize(("port", "number"), [(0, errno.EADDRNOTAVAIL), (12345, errno.EACCES)])
async def test_what_no_other_port_would_help_against_is_told_at_once(
    refusals: list[int], port: int, number: int
) -> None:
    refusals += [number] * 3
    with pytest.raises(HoldfastError, match="cannot listen"):
        await started(ListenAddress("127.0.0.1", port), or_any=True)
    assert len(refusals) == 2
