"""Clocks that are wrong as a file says."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.protocol.clock import OffsetSource, SystemSource


def test_a_wrong_clock_is_off_as_its_file_says_and_right_without_one(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    wrong, true = OffsetSource(file), SystemSource()
    assert abs(wrong.now_ms() - true.now_ms()) < 10_000
    file.write_text("-3600000 0 0\n")
    assert abs(wrong.now_ms() + 3_600_000 - true.now_ms()) < 10_000
    other = tmp_path / "other"
    other.write_text(f"0 1000000 {true.now_ms() - 100_000}\n")  # twice as fast, for 100 s by now
    os.replace(other, file)
    assert abs(wrong.now_ms() - 100_000 - true.now_ms()) < 10_000
    file.unlink()
    assert abs(wrong.now_ms() - true.now_ms()) < 10_000
    assert wrong.monotonic() <= true.monotonic()
