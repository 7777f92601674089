"""Why a server of a local cluster did not start: what it said last, told as its own error would be."""

from __future__ import annotations

import pytest

from holdfast.cluster.processes import last_words

STARTED = "2026-11-27T04:15:32Z [info     ] serving address=http://127.0.0.1:10654"


@pytest.mark.parametrize(
    ("log", "why", "do"),
    [
        (
            f"{STARTED}\nError: cannot listen.\n  Next: Choose another port.",
            "cannot listen.",
            "Choose another port.",
        ),
        ("Error: cannot listen.\n  Next: Choose another port.", "cannot listen.", "Choose another port."),
        (f"{STARTED}\nError: cannot listen.", "cannot listen.", ""),
        (f"Error: of the start before\n  Next: Do this.\n{STARTED}", None, ""),
        ("Traceback (most recent call last):\nKeyError: 1", None, ""),
        ("", "it wrote no log", ""),
    ],
)
def test_an_error_at_the_end_of_the_log_is_the_reason(log: str, why: str | None, do: str) -> None:
    assert last_words(log) == (log if why is None else why, do)
