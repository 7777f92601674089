"""What a command costs is measured, not guessed; peers that are not there are told, not faked."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from holdfast.cluster.benchmark.catalogue_curve import measure_catalogue
from holdfast.cluster.benchmark.churn_curve import measure_churn
from holdfast.cluster.benchmark.floor import measure_floor
from holdfast.cluster.benchmark.measuring import Cost, Servers, disk_bytes, measure
from holdfast.cluster.benchmark.peers import PEERS, find_peer
from holdfast.cluster.benchmark.steady import percentile
from holdfast.cluster.benchmark.subject import Absent
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.limits import MIB
from holdfast.protocol.profiles import Profile


def python(code: str, folder: Path) -> Cost:
    return measure([sys.executable, "-S", "-c", code], environment=os.environ, folder=folder)


@pytest.mark.parametrize(
    ("count", "percent", "rank"), [(100, 99, 99), (100, 50, 50), (300, 99, 297), (1, 99, 1), (3, 50, 2)]
)
def test_percentiles_are_by_nearest_rank_and_the_worst_of_a_hundred_is_not_the_99th(
    count: int, percent: int, rank: int
) -> None:
    assert percentile([float(number) for number in range(count, 0, -1)], percent) == rank


def test_processor_time_and_memory_are_the_command_s_own(tmp_path: Path) -> None:
    idle = python("pass", tmp_path)
    busy = python(
        "import time\nheld = bytearray(200 << 20)\nend = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass\nprint('done')",
        tmp_path,
    )
    assert busy.cpu_s["client"] >= 0.3 and busy.output == "done\n"
    assert busy.rss_bytes["client"] > 200 * MIB > 100 * MIB > idle.rss_bytes["client"]


def test_what_a_command_s_children_used_counts_too(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'import time\\nend = time.process_time() + 0.3\\nwhile time.process_time() < end: pass'])"  # noqa: E501
    assert python(code, tmp_path).cpu_s["client"] >= 0.3


def test_a_command_that_fails_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="code 3") as told:
        python("import sys; print('last words', file=sys.stderr); sys.exit(3)", tmp_path)
    assert "last words" in told.value.why


def test_what_servers_use_meanwhile_is_counted_by_role(tmp_path: Path) -> None:
    class Us:
        def pids(self) -> list[int]:
            return [os.getpid()]

    def work() -> Cost:
        end = os.times().user + 0.2
        while os.times().user < end:
            pass
        return Cost(1.0, {"client": 0.5})

    cost = Servers(lambda: {"nodes": [Us()]}).beside(work)  # type: ignore[list-item]
    assert cost.cpu_s["nodes"] >= 0.15 and cost.cpu_s["client"] == 0.5
    assert cost.rss_bytes["nodes"] > MIB


def test_disk_bytes_are_what_is_allocated(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "full").write_bytes(bytes(range(256)) * 4096)
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(100 * MIB)
    assert MIB <= disk_bytes([tmp_path]) < 3 * MIB


def test_the_floor_takes_a_file_in_and_out_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(3 * MIB + 17))
    folder = tmp_path / "floor"
    folder.mkdir()
    floor = measure_floor(file, folder, Profile(4, 2))
    assert floor.bytes == 3 * MIB + 17 and floor.in_s > 0 and floor.out_s > 0
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", [*PEERS, "nosuch"])
def test_a_peer_that_is_not_installed_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Absent, match="not"):
        find_peer(name, tmp_path)


def test_a_peer_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "borg"
    program.write_text("#!/bin/sh\necho no such luck >&2\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "peers").mkdir()
    with pytest.raises(Absent, match="no such luck"):
        find_peer("borg", tmp_path / "peers")


def test_the_catalogue_curve_fills_as_many_rows_as_it_says_and_leaves_nothing(tmp_path: Path) -> None:
    claim, commit, look = measure_catalogue(tmp_path, 2000)
    assert 0 < claim.least <= claim.middle <= claim.most and commit.middle > 0 and look.middle > 0
    assert not list(tmp_path.iterdir())


def test_the_churn_curve_overwrites_a_store_over_and_over(tmp_path: Path) -> None:
    rates = measure_churn(tmp_path, 64 * MIB, passes=2)
    assert [what for what, _ in rates] == ["fresh", "overwritten 1 x", "overwritten 2 x"]
    assert all(rate > 0 for _, rate in rates)
