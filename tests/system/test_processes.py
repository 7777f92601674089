"""``holdfast coordinator run`` and ``holdfast node run``: what they refuse, keep, and end with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from holdfast.cluster import LocalCluster
from holdfast.cluster.processes import clean_environment, start_time, wait_until

COMMAND = [sys.executable, "-m", "holdfast.client.console"]


def holdfast(
    *arguments: object, code: int = 0, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    kept = clean_environment()
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env={**kept, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster of two nodes for these tests alone."""
    with LocalCluster(2, folder=tmp_path_factory.mktemp("small") / "cluster") as running:
        yield running


@pytest.fixture
def token(small: LocalCluster, tmp_path: Path) -> Path:
    """A fresh join token in a file."""
    path = tmp_path / "token"
    holdfast("admin", "node-token", "--operator-key", small.operator_key, "--output", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path


class TestMember:
    """What a killed ``cluster up`` had started and not noted yet is found all the same."""

    def started_and_not_noted(self, cluster: LocalCluster) -> list[int]:
        member = cluster.node(2)
        cluster.stop(2)
        member.start()
        pids = member.pids()
        (cluster.folder / "node-2.process.json").unlink()
        assert pids and member.pid() is None
        return pids

    def test_it_is_ended_before_another_is_started(self, small: LocalCluster) -> None:
        pids = self.started_and_not_noted(small)
        small.start(2)
        assert not any(map(start_time, pids))
        assert small.node(2).pid() not in {None, *pids}

    def test_it_is_ended_when_the_cluster_is(self, tmp_path: Path) -> None:
        cluster = LocalCluster(2, folder=tmp_path / "cluster")
        cluster.up()
        pids = self.started_and_not_noted(cluster)
        cluster.down(delete=True)
        assert not any(map(start_time, pids)) and not cluster.folder.exists()


def node_run(
    small: LocalCluster, folder: Path, *more: object, code: int = 0
) -> subprocess.CompletedProcess[str]:
    return holdfast("node", "run", "--dir", folder, "--coordinator", small.address, *more, code=code)


def run_until_serving(arguments: list[object], folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def serving() -> bool:
        try:
            return bool(json.loads((folder / "ready.json").read_text())["pid"] == process.pid)
        except (OSError, ValueError):
            return process.poll() is not None

    assert wait_until(serving, 30) and process.poll() is None, process.communicate()
    return process


class TestNode:
    def test_it_joins_serves_and_stops_cleanly_and_comes_back_by_itself(
        self, small: LocalCluster, token: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "node"
        arguments = ["node", "run", "--dir", folder, "--coordinator", small.address, "--zone", "shed"]
        process = run_until_serving([*arguments, "--join-token-file", token], folder)
        url = json.loads((folder / "ready.json").read_text())["url"]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        joined = [node for node in small.status().nodes if node.zone == "shed"]
        assert joined and joined[0].url == url
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
        assert not (folder / "ready.json").exists()
        assert [n.state for n in small.status().nodes if n.zone == "shed"] == ["stopping"], "it said goodbye"

        process = run_until_serving(arguments, folder)  # no token any more
        assert json.loads((folder / "ready.json").read_text())["url"] == url, "its port is kept"
        second = holdfast(*arguments, code=11)
        assert "in use" in second.stderr and "Next:" in second.stderr
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0

    def test_a_token_lets_one_node_in(self, small: LocalCluster, token: Path, tmp_path: Path) -> None:
        first = tmp_path / "first"
        arguments = ["node", "run", "--coordinator", small.address, "--join-token-file", token]
        process = run_until_serving([*arguments, "--dir", first], first)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        done = node_run(small, tmp_path / "second", "--join-token-file", token, code=1)
        assert "token" in done.stderr and "holdfast admin node add-token" in done.stderr
        made_up = tmp_path / "made-up"
        made_up.write_text(small.address + "#" + "A" * 26)
        assert "token" in node_run(small, tmp_path / "third", "--join-token-file", made_up, code=1).stderr

    def test_without_a_token_it_does_not_join(self, small: LocalCluster, tmp_path: Path) -> None:
        assert "--join-token-file" in node_run(small, tmp_path / "node", code=1).stderr
        missing = node_run(small, tmp_path / "node", "--join-token-file", tmp_path / "nowhere", code=1)
        assert "Next:" in missing.stderr

    @pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.0.2.1:7700", "nonsense", "127.0.0.1:99999"])
    def test_it_listens_on_loopback_only(
        self, small: LocalCluster, token: Path, tmp_path: Path, listen: str
    ) -> None:
        done = node_run(small, tmp_path / "node", "--join-token-file", token, "--listen", listen, code=1)
        assert "Next:" in done.stderr

    def test_another_cluster_at_the_address_is_refused(
        self, small: LocalCluster, token: Path, tmp_path: Path
    ) -> None:
        url = small.address.split("#")[0]
        wrong = f"{url}#{'ab' * 32}"
        done = holdfast(
            "node", "run", "--dir", tmp_path / "n", "--coordinator", wrong, "--join-token-file", token, code=1
        )
        assert "cluster" in done.stderr and "Next:" in done.stderr

    @pytest.fixture
    def stopped(self, small: LocalCluster, tmp_path: Path) -> Path:
        """A copy of a node's folder."""
        small.stop(1)
        shutil.copytree(small.folder / "node-1", tmp_path / "copy")
        small.start(1)
        return tmp_path / "copy"

    def test_a_folder_of_another_version_is_refused(self, small: LocalCluster, stopped: Path) -> None:
        (stopped / "node.json").write_text('{"version": 7}')
        assert "version 7" in node_run(small, stopped, code=1).stderr

    def test_a_store_of_another_node_is_refused(
        self, small: LocalCluster, stopped: Path, tmp_path: Path
    ) -> None:
        # Something must be in it: a new, empty store under a known identity is filled again by the others.
        person = {**small.env(), "HOLDFAST_HOME": str(tmp_path / "home")}
        (tmp_path / "letters").write_bytes(b"a letter")
        holdfast("init", "--recovery-file", tmp_path / "code", environment=person)
        holdfast("backup", tmp_path / "letters", environment=person)
        small.stop(2)
        shutil.copy(small.folder / "node-2" / "store" / "data.mdb", stopped / "store" / "data.mdb")
        small.start(2)
        done = node_run(small, stopped, code=1)
        assert "not this node's" in done.stderr and "Next:" in done.stderr

    def test_a_key_of_another_node_is_refused(self, small: LocalCluster, stopped: Path) -> None:
        shutil.copy(small.folder / "node-2" / "node.key", stopped / "node.key")
        assert "another node's" in node_run(small, stopped, code=1).stderr

    def test_a_truncated_store_is_told_of_and_replaced_only_when_asked(self, small: LocalCluster) -> None:
        data = small.folder / "node-1" / "store" / "data.mdb"
        small.stop(1)
        os.truncate(data, 8192)
        kept = data.read_bytes()
        small.start(1)

        def told() -> tuple[str, str, int]:
            number = small.numbers()
            (node,) = [n for n in small.status().nodes if number.get(n.id.hex()) == 1]
            return node.store_state, node.trouble, node.shards

        assert wait_until(lambda: told()[0] == "failed", 20)
        assert "is damaged" in told()[1], "and why"
        assert "is damaged" in holdfast("admin", "nodes", "--operator-key", small.operator_key).stdout
        small.stop(1)
        assert data.read_bytes().startswith(kept), "nothing was made anew in its place"
        process = run_until_serving(
            [*small.node(1).arguments, "--replace-damaged-store"], small.folder / "node-1"
        )
        try:
            assert wait_until(lambda: told()[:2] == ("ok", ""), 20)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        aside = small.folder / "node-1" / "store.quarantined-1" / "data.mdb"
        assert aside.read_bytes().startswith(kept), "the damaged one is kept"
        small.start(1)
        small.wait_healthy()

    def test_somebody_else_s_folder_is_not_used(
        self, small: LocalCluster, token: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "one.jpg").write_bytes(b"the only copy")
        done = node_run(small, tmp_path / "photos", "--join-token-file", token, code=1)
        assert "Next:" in done.stderr
        assert [path.name for path in (tmp_path / "photos").iterdir() if path.name != "lock"] == ["one.jpg"]


class TestCoordinator:
    def test_it_serves_one_process_keeps_its_port_and_stops_cleanly(self, tmp_path: Path) -> None:
        folder = tmp_path / "coordinator"
        arguments = ["coordinator", "run", "--dir", folder]
        process = run_until_serving([*arguments], folder)
        address = json.loads((folder / "ready.json").read_text())["address"]
        assert "in use" in holdfast(*arguments, code=11).stderr
        for name in ("cluster-kit.pem", "coordinator.key", "operator.key"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert not (folder / "operator.seed").exists()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
        process = run_until_serving(arguments, folder)
        assert json.loads((folder / "ready.json").read_text())["address"] == address
        process.kill()
        process.communicate(timeout=30)
        process = run_until_serving(arguments, folder)  # after a kill, too
        process.terminate()
        process.communicate(timeout=30)

    def test_a_folder_of_another_version_or_somebody_else_s_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "coordinator.json").write_text('{"version": 9}')
        assert "version 9" in holdfast("coordinator", "run", "--dir", tmp_path, code=1).stderr
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "one.jpg").write_bytes(b"the only copy")
        assert "one.jpg" in holdfast("coordinator", "run", "--dir", tmp_path / "photos", code=1).stderr

    @pytest.mark.parametrize("listen", ["0.0.0.0:7700", "example.org:7700", "7700"])
    def test_it_listens_on_loopback_only(self, tmp_path: Path, listen: str) -> None:
        done = holdfast("coordinator", "run", "--dir", tmp_path / "c", "--listen", listen, code=1)
        assert "Next:" in done.stderr

    def test_times_that_do_not_fit_are_refused(self, tmp_path: Path) -> None:
        done = holdfast("coordinator", "run", "--dir", tmp_path / "c", "--down-after-s", 1, code=1)
        assert "heartbeat < suspect" in done.stderr


class TestAdmin:
    def test_an_invite_and_a_token_are_made_and_the_status_told(
        self, small: LocalCluster, tmp_path: Path
    ) -> None:
        key = ("--operator-key", small.operator_key)
        printed = holdfast("admin", "invite", *key, "--quota", "1000000").stdout
        assert small.address in printed
        told = json.loads(holdfast("admin", "invite", *key, "--json").stdout.splitlines()[-1])
        assert (told["message_type"] == "summary" and told["expires"].endswith("Z")) or "+00:00" in told[
            "expires"
        ]
        status = holdfast("admin", "status", *key).stdout
        assert "Nothing is stored yet" in status or "safe" in status
        assert max(map(len, status.splitlines())) <= 80
        assert json.loads(holdfast("admin", "status", *key, "--json").stdout.splitlines()[-1])["nodes"]

    def test_without_the_key_nothing_is_told(self, small: LocalCluster, tmp_path: Path) -> None:
        done = holdfast("admin", "status", "--operator-key", tmp_path / "nowhere", code=1)
        assert "operator.key" in done.stderr
        forged = tmp_path / "forged.key"
        lines = small.operator_key.read_text().splitlines()
        forged.write_text("\n".join([*lines[:2], "A" * 43 + "=", ""]))
        assert "Next:" in holdfast("admin", "status", "--operator-key", forged, code=1).stderr

    def test_a_coordinator_that_is_down_is_24(self, small: LocalCluster) -> None:
        small.stop("coordinator")
        try:
            assert (
                "Next:" in holdfast("admin", "status", "--operator-key", small.operator_key, code=24).stderr
            )
        finally:
            small.start("coordinator")
