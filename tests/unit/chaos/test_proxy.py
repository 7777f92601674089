"""The proxies between members: what each fault does to real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from holdfast.cluster.chaos.proxy import Network
from holdfast.cluster.chaos.toxics import CALM, Effect, Rule, combined

BIG = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network(lambda address: {"127.0.1.7": "node-7"}.get(address, "clients"), seed=1)
    yield made
    made.close()


@asynccontextmanager
async def echo(network: Network) -> AsyncIterator[int]:
    """A member that answers what it is told; gives the port of the proxy in front of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while portion := await reader.read(65536):
                writer.write(portion)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    yield await asyncio.to_thread(network.listen, "node-1", lambda: address)
    server.close()


async def said(port: int, text: bytes, *, source: str = "127.0.0.1") -> bytes:
    """Say something and give what came back until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        writer.write(text)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


def on(network: Network, effect: Effect, caller: str = "clients", way: str = "both") -> int:
    senders, receivers = frozenset({caller}), frozenset({"node-1"})
    return network.add(lambda number: Rule(number, senders, receivers, effect, way))  # type: ignore[arg-type]


async def within(seconds: float, work: object) -> object:
    async with asyncio.timeout(seconds):
        return await work  # type: ignore[misc]


async def test_without_rules_everything_comes_through(network: Network) -> None:
    async with echo(network) as port:
        assert await within(20, said(port, BIG)) == BIG
    assert network.bytes_carried >= 2 * len(BIG)


async def test_small_portions_slow_bytes_and_jitter_change_no_byte(network: Network) -> None:
    async with echo(network) as port:
        on(network, Effect(portion_bytes=700, portion_variation=300))
        on(network, Effect(latency_s=0.02, jitter_s=0.02))
        assert await within(30, said(port, BIG[:100_000])) == BIG[:100_000]


async def test_a_latency_delays_every_byte(network: Network) -> None:
    async with echo(network) as port:
        on(network, Effect(latency_s=0.3))
        loop = asyncio.get_running_loop()
        began = loop.time()
        await within(20, said(port, b"hello"))
        assert loop.time() - began >= 0.6  # there and back


async def test_a_partition_holds_bytes_back_and_lets_them_go_when_it_is_over(network: Network) -> None:
    async with echo(network) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        assert await within(10, reader.readexactly(3)) == b"one"
        number = on(network, Effect(stalled=True))
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await within(0.3, reader.readexactly(3))
        network.remove(number)
        assert await within(10, reader.readexactly(3)) == b"two"
        writer.close()
    assert network.hits[number] > 0


async def test_one_way_lets_the_other_way_through(network: Network) -> None:
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readexactly(3))
        writer.write(b"answer")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    port = await asyncio.to_thread(network.listen, "node-1", lambda: address)
    number = on(network, Effect(stalled=True), way="from")  # what node-1 says
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"ask")
    with pytest.raises(TimeoutError):
        await within(0.5, reader.readexactly(6))
    assert received == [b"ask"]
    network.remove(number)
    assert await within(10, reader.readexactly(6)) == b"answer"
    writer.close()
    server.close()


async def test_a_rule_holds_for_the_callers_it_names_alone(network: Network) -> None:
    async with echo(network) as port:
        on(network, Effect(refused=True), caller="node-7")
        assert await within(10, said(port, b"hello")) == b"hello"
        with pytest.raises(OSError):
            assert await within(10, said(port, b"hello", source="127.0.1.7")) == b"hello"
            raise ConnectionError("closed without an answer")


async def test_down_cuts_connections_that_are_open(network: Network) -> None:
    async with echo(network) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        assert await within(10, reader.readexactly(3)) == b"one"
        on(network, Effect(refused=True))
        with pytest.raises(OSError):
            if await within(10, reader.read()) == b"":
                raise ConnectionError("closed")


@pytest.mark.parametrize("effect", [Effect(limit_bytes=1000), Effect(reset_after_bytes=1000)])
async def test_a_connection_ends_after_so_many_bytes(network: Network, effect: Effect) -> None:
    async with echo(network) as port:
        on(network, effect, way="from")
        try:
            got = await within(10, said(port, BIG))
        except OSError:
            got = b""
        assert len(got) <= 1000  # type: ignore[arg-type]


async def test_bits_flip_here_and_there_and_nothing_else_changes(network: Network) -> None:
    async with echo(network) as port:
        on(network, Effect(flip_every_bytes=len(BIG) // 20), way="to")
        got = await within(10, said(port, BIG))
        assert isinstance(got, bytes) and len(got) == len(BIG)
        flipped = [one ^ other for one, other in zip(got, BIG, strict=True) if one != other]
        assert 1 <= len(flipped) < 100 and all(difference.bit_count() == 1 for difference in flipped)


async def test_a_reset_comes_while_no_byte_moves(network: Network) -> None:
    async with echo(network) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        await within(10, reader.readexactly(3))
        on(network, Effect(reset_after_s=0.1))
        with pytest.raises(ConnectionError):
            await within(10, reader.read())
        writer.close()


async def test_a_member_that_does_not_listen_yet_is_refused(network: Network) -> None:
    port = await asyncio.to_thread(network.listen, "node-2", lambda: None)
    with pytest.raises(OSError):
        if await within(10, said(port, b"hello")) == b"":
            raise ConnectionError("closed")


async def test_canaries_are_seen_even_across_portions(network: Network) -> None:
    network.canaries = (b"yellow bird",)
    async with echo(network) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"a yellow")
        await within(10, reader.readexactly(8))
        assert not network.seen_canaries
        writer.write(b" bird")
        await within(10, reader.readexactly(5))
        writer.close()
    assert "between clients and node-1" in network.seen_canaries


def test_rules_hold_in_both_directions_or_in_one() -> None:
    effect = Effect(stalled=True)
    both = Rule(1, frozenset({"a"}), frozenset({"b"}), effect)
    to = Rule(2, frozenset({"a"}), frozenset({"b"}), effect, "to")
    away = Rule(3, frozenset({"a"}), frozenset({"b"}), effect, "from")
    assert both.holds("a", "b") and both.holds("b", "a") and not both.holds("a", "c")
    assert to.holds("a", "b") and not to.holds("b", "a")
    assert away.holds("b", "a") and not away.holds("a", "b")
    assert combined((), "a", "b") == CALM


def test_effects_add_up() -> None:
    rules = [
        Rule(1, frozenset({"a"}), frozenset({"b"}), Effect(latency_s=0.1, bytes_per_s=100.0)),
        Rule(2, frozenset({"a"}), frozenset({"b"}), Effect(latency_s=0.2, bytes_per_s=50.0, refused=True)),
    ]
    together = combined(rules, "a", "b")
    assert together.latency_s == pytest.approx(0.3)
    assert together.bytes_per_s == 50.0 and together.refused and not together.stalled
