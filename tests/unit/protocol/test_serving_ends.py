"""A server whose background task ends by a fault does not go on as if nothing had happened."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.protocol.serving import until_stopped_or_failed


async def test_a_background_task_that_fails_ends_the_process_with_its_reason() -> None:
    async def fails() -> None:
        raise KeyError("a fault of the program")

    async def goes_on() -> None:
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(goes_on()), asyncio.create_task(fails())]
    with pytest.raises(KeyError, match="a fault"):
        await asyncio.wait_for(until_stopped_or_failed(tasks), 30)
    assert not tasks[0].done()
    tasks[0].cancel()
