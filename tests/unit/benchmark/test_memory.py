"""The memory that measurements are given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cluster.benchmark.churn_curve import measure_churn_within
from holdfast.cluster.benchmark.memory import bounded_memory, touch_memory
from holdfast.protocol.limits import MIB

_GREEDY = (
    "import sys; open(sys.argv[1], 'w').write(str(__import__('os').getpid())); bytearray(b'1' * (256 << 20))"
)


@pytest.mark.parametrize("user_bytes", [0, 1, 10_240_001, MIB])
def test_memory_for_any_number_of_bytes_is_touched(user_bytes: int) -> None:
    touch_memory(user_bytes)


def test_a_process_gets_no_more_than_its_group_and_the_group_goes() -> None:
    with bounded_memory(64 * MIB) as door:
        if door is None:
            pytest.skip("no control group of memory can be made here")
        ended = subprocess.run([sys.executable, "-c", _GREEDY, str(door)], check=False)
        assert ended.returncode < 0, "whoever takes more than there is is killed"
    assert not door.parent.exists()


def test_a_store_three_times_its_memory_is_written_over_and_over(tmp_path: Path) -> None:
    rates = measure_churn_within(tmp_path, 96 * MIB, passes=1)
    if not rates:
        pytest.skip("no control group of memory can be made here")
    assert [label for label, _ in rates] == ["fresh", "overwritten 1 x"] and all(
        rate > 0 for _, rate in rates
    )
    assert not list(tmp_path.iterdir())
