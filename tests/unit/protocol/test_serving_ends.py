"""A server whose background task ends by a fault does not go on as if nothing had happened."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from holdfast.protocol.serving import heed_signals, until_stopped_or_failed


async def test_a_background_task_that_fails_ends_the_process_with_its_reason() -> None:
    async def fails() -> None:
        raise KeyError("a fault of the program")

    async def goes_on() -> None:
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(goes_on()), asyncio.create_task(fails())]
    with pytest.raises(KeyError, match="a fault"):
        await asyncio.wait_for(until_stopped_or_failed(asyncio.Event(), tasks), 30)
    assert not tasks[0].done()
    tasks[0].cancel()


async def test_a_signal_that_comes_before_anybody_waits_for_it_is_a_clean_stop() -> None:
    """Whoever sees that a server is ready may stop it in that very moment."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop = heed_signals()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(until_stopped_or_failed(stop, []), 30)
    finally:
        for number, handler in before.items():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, handler)
