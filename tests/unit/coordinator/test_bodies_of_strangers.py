"""Who is not known is refused before its body comes, and long bodies have a bounded room together."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from support.coordinator_service import Office

from holdfast.protocol.byte_gate import ByteGate
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.limits import LARGE_BODY_BYTES, MESSAGE_BYTES_MAX, MIB
from holdfast.protocol.requests import AUTH_HEADER, Signer
from holdfast.protocol.signing import generate_signing_key
from holdfast.protocol.stripes import digest_of


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def status(self) -> int:
        async with asyncio.timeout(10):
            return int((await self.reader.readuntil(b"\r\n\r\n")).split()[1])


@pytest.fixture
def port(desk_office: Office) -> int:
    return urlsplit(desk_office.url).port or 0


async def announced(port: int, office: Office, signer: Signer, path: str, length: int) -> Wire:
    """A request whose body does not come."""
    desk = office.desk
    auth = signer.sign(
        desk.identity.public,
        "POST",
        path,
        digest_of(b""),
        time_ms=SYSTEM.now_ms(),
        nonce=SYSTEM.random_bytes(16),
    )
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
    wire.writer.write(
        f"POST {path} HTTP/1.1\r\nHost: h\r\n{AUTH_HEADER}: {auth.header()}\r\n"
        f"Content-Length: {length}\r\n\r\n".encode()
    )
    return wire


@pytest.mark.parametrize(
    ("role", "account", "name", "path", "length"),
    [
        ("node", b"", b"n" * 16, "/v1/nodes/heartbeat", 100),
        ("node", b"", b"n" * 16, "/v1/nodes/join", LARGE_BODY_BYTES + 1),
        ("device", b"a" * 32, b"d" * 16, "/v1/uploads", MESSAGE_BYTES_MAX),
        ("operator", b"", b"o" * 32, "/v1/admin/invites", MESSAGE_BYTES_MAX),
        ("operator", b"", b"o" * 32, "/v1/nodes/heartbeat", 100),
        ("operator", b"", b"", "/v1/admin/invites", LARGE_BODY_BYTES + 1),
    ],
)
async def test_a_stranger_is_refused_before_its_body_comes(
    role: str, account: bytes, name: bytes, path: str, length: int, port: int, desk_office: Office
) -> None:
    key, cluster = generate_signing_key(b"s" * 32), desk_office.desk.identity.cluster
    signer = Signer(role, account, name, key, cluster)  # type: ignore[arg-type]
    wire = await announced(port, desk_office, signer, path, length)
    assert 400 <= await wire.status() < 500
    wire.writer.close()


async def test_long_bodies_of_devices_wait_for_room_and_give_it_back(port: int, desk_office: Office) -> None:
    desk_office.desk._large_bodies = ByteGate(3 * MIB)
    ada = (await desk_office.person("ada")).signer()
    first = await announced(port, desk_office, ada, "/v1/uploads", 2 * MIB)
    first.writer.write(b"x")
    await first.writer.drain()
    second = await announced(port, desk_office, ada, "/v1/uploads", 2 * MIB)
    second.writer.write(bytes(2 * MIB))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await second.reader.readuntil(b"\r\n\r\n")
    short = await announced(port, desk_office, ada, "/v1/uploads", 10)
    short.writer.write(bytes(10))
    assert await short.status() >= 400, "short ones need no room; its signature does not hold"
    first.writer.transport.abort()
    assert await second.status() >= 400
    for wire in (second, short):
        wire.writer.close()


async def test_strangers_have_no_part_of_that_room(port: int, desk_office: Office) -> None:
    """Who brings a device list is not known before it is here."""
    desk_office.desk._large_bodies = ByteGate(3 * MIB)
    ada = await desk_office.person("ada")
    key, cluster = generate_signing_key(b"s" * 32), desk_office.desk.identity.cluster
    stranger = Signer("device", b"a" * 32, b"d" * 16, key, cluster)
    stalled = [await announced(port, desk_office, stranger, "/v1/devices", 2 * MIB) for _ in range(4)]
    for wire in stalled:
        wire.writer.write(b"x")
        await wire.writer.drain()
    long = await announced(port, desk_office, ada.signer(), "/v1/uploads", 2 * MIB)
    long.writer.write(bytes(2 * MIB))
    assert await long.status() >= 400, "it was looked at: its signature does not hold"
    for wire in [*stalled, long]:
        wire.writer.transport.abort()
