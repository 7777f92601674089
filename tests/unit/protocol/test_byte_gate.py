"""Bytes in memory at once: who waits, and is given up."""

from __future__ import annotations

import asyncio

from holdfast.protocol.byte_gate import ByteGate


def test_all_may_be_given_up_at_once() -> None:
    """As a server that stops does: who held gives its room to nobody, and who waited is simply gone."""

    async def work() -> None:
        gate = ByteGate(10)

        async def hold() -> None:
            async with gate.hold(10):
                await asyncio.sleep(60)

        tasks = [asyncio.create_task(hold()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)
        async with asyncio.timeout(10), gate.hold(10):
            pass

    asyncio.run(work())
