"""The benchmark runs as a user runs it: every phase measured, everything compared, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cluster import LocalCluster
from holdfast.cluster.benchmark.clients_curve import measure_clients
from holdfast.cluster.benchmark.curves import size_curve
from holdfast.cluster.benchmark.holdfast_subject import HoldfastSubject
from holdfast.cluster.processes import clean_environment, wait_until


@pytest.mark.timeout(300)
def test_a_run_measures_every_phase_writes_its_page_and_leaves_nothing(tmp_path: Path) -> None:
    place, page = tmp_path / "place", tmp_path / "report.html"
    place.mkdir()
    command = [sys.executable, "-m", "holdfast.client.console", "bench", "--json", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--corpora", "small", "--peers", "none", "--html", str(page), "--dir", str(place)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *rows, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["phase"] for row in rows] == ["backup", "unchanged", "changed", "restore", "degraded"]
    assert summary["message_type"] == "summary"
    assert summary["floor_in_mb_per_s"] > 0 and summary["floor_out_mb_per_s"] > 0
    by_phase = {row["phase"]: row for row in rows}
    # 4+2 writes one and a half times the bytes, and headers; what did not change is not sent again.
    assert by_phase["backup"]["wire_bytes_per_byte"] > 1.5 > by_phase["unchanged"]["wire_bytes_per_byte"]
    assert by_phase["backup"]["disk_bytes_per_byte"] > 1.5
    for row in rows:
        assert row["files_per_s"] > 0 and row["of_floor"] > 0
        assert {"cpu_s_per_gb_client", "cpu_s_per_gb_nodes", "cpu_s_per_gb_coordinator"} <= set(row)
        assert row["rss_mib_client"] > 1 and row["rss_mib_nodes"] > 1
    assert "1,000 files of 10 KiB" in page.read_text()
    assert not list(place.iterdir()), "trees, stores and cluster are gone"


def test_many_clients_begin_together_and_each_is_measured(cluster: LocalCluster, tmp_path: Path) -> None:
    together, slowest = measure_clients(cluster, tmp_path, 3, 6 * 2**20)
    assert together > 0 and 0 < slowest <= 1
    assert not list(tmp_path.iterdir())


def test_the_curve_of_sizes_has_a_point_for_each(cluster: LocalCluster, tmp_path: Path) -> None:
    told: list[str] = []
    subject = HoldfastSubject(cluster, tmp_path / "curve")
    _, unit, points = size_curve(subject, tmp_path, (1, 2), told.append)
    assert unit == "MB/s" and [label for label, *_ in points] == ["1 MiB", "2 MiB"]
    assert all(0 < least <= middle <= most for _, middle, least, most in points) and len(told) == 2


def test_sigterm_ends_its_cluster_and_removes_its_folder(tmp_path: Path) -> None:
    command = ["-P", "-m", "holdfast.client.console", "bench", "--corpora", "small", "--peers", "none"]
    running = subprocess.Popen([sys.executable, *command, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: any(tmp_path.rglob("ready.json")), 60), "no node has come up"
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 143
    finally:
        running.kill()
        running.wait()
    assert not list(tmp_path.iterdir())
    place = os.fsencode(tmp_path)
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if place in _text(path)]


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has ended
