"""Every verb as a new user would try it, against real processes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.client.recovery_code import parse_recovery_file

Same = Callable[[Path, Path], None]
COMMAND = [sys.executable, "-m", "holdfast.client.console"]
DEADLINE_S = 90


# The account


def test_init_prints_the_code_once_and_recover_takes_it(
    visitor: Any, tree: Path, same: Same, tmp_path: Path
) -> None:
    first = visitor("first")
    printed = first.run("init").stdout
    groups = re.findall(r"\b[0-9A-HJKMNP-TV-Z]{8}\b", printed)
    assert len(groups) == 9
    stored = b"".join(path.read_bytes() for path in first.home.rglob("*") if path.is_file())
    assert not any(group.encode() in stored for group in groups)
    first.run("backup", tree)

    # Nothing but the code and the address, two characters mistyped and one unreadable.
    code = " ".join(groups)
    wrong = (
        ("1" if code[0] != "1" else "2") + code[1:20] + ("Z" if code[20] != "Z" else "Y") + code[21:-1] + "?"
    )
    second = visitor("second")
    done = second.run("recover", typed=wrong)
    assert "3 characters of the code were wrong" in done.stderr
    assert "(head 1)" in done.stdout and "Newest snapshot:" in done.stdout
    second.run("restore", f"latest:{tree}", "--target", tmp_path / "back")
    same(tree, tmp_path / "back")


def test_a_recovery_file_is_private_complete_and_never_overwritten(visitor: Any, tmp_path: Path) -> None:
    file = tmp_path / "recovery.txt"
    file.write_text("my other account")
    first = visitor("first")
    assert first.last("init", "--recovery-file", file, code=1)["code"] == "conflict"
    assert file.read_text() == "my other account" and not first.home.exists()
    file.unlink()
    summary = first.last("init", "--recovery-file", file)
    assert summary["recovery_file"] == str(file) and summary["recovery_code"] is None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert parse_recovery_file(file.read_text()).address == first.environment["HOLDFAST_COORDINATOR"]
    # The file carries the cluster's address, too: nothing else is needed.
    second = visitor("second")
    second.environment.clear()
    told = second.last("recover", "--recovery-file", file)
    assert told["account"] == summary["account"] and told["head_seq"] == 0 and told["snapshot"] is None


def test_programs_get_the_code_before_the_account_exists(visitor: Any) -> None:
    lines = visitor().ask("init")
    assert [line["message_type"] for line in lines] == ["status", "summary"]
    assert lines[0]["event"] == "recovery_code" and lines[0]["recovery_code"] == lines[1]["recovery_code"]


def test_a_refused_invite_leaves_nothing_behind(visitor: Any, tmp_path: Path) -> None:
    first, thief, file = visitor("first"), visitor("thief"), tmp_path / "code"
    first.run("init")
    thief.environment["HOLDFAST_INVITE"] = first.environment["HOLDFAST_INVITE"]
    done = thief.run("init", "--recovery-file", file, code=1)
    assert "Next: " in done.stderr
    assert not file.exists() and not (thief.home / "joining.bin").exists()
    spoken = thief.run("init", code=1)
    assert "throw it away" in spoken.stderr


def test_an_invite_comes_by_file_too(visitor: Any, tmp_path: Path) -> None:
    first = visitor()
    (tmp_path / "invite").write_text(first.environment.pop("HOLDFAST_INVITE") + "\n")
    assert "HOLDFAST_INVITE" in first.run("init", code=1).stderr
    first.run("init", "--invite-file", tmp_path / "invite")


def test_a_second_init_is_refused(person: Any) -> None:
    assert person.last("init", code=1)["code"] == "conflict"


# Backing up, looking, restoring


def test_the_whole_journey(person: Any, tree: Path, same: Same, tmp_path: Path) -> None:
    done = person.run("backup", tree, "--tag", "first", "--tag", "full")
    assert re.search(r"^Snapshot [0-9a-f]{8}: \d+ files, ", done.stdout)
    assert done.stderr == "", "nothing to say on stderr when nobody watches"

    (listed, summary) = person.ask("snapshots")
    assert summary["snapshots"] == 1 and listed["tags"] == ["first", "full"]
    assert listed["device_name"] == "laptop" and listed["paths"] == [str(tree)] and listed["new_bytes"] > 0
    assert listed["time"].endswith("+00:00")
    assert listed["id"][:8] in person.run("snapshots").stdout

    names = {line["path"] for line in person.ask("ls", listed["id"][:6])[:-1]}
    assert f"{tree}/photos/2024/big.jpg".lstrip("/") in names
    inside = person.ask("ls", f"latest:{tree}/papers")
    assert inside[-1]["entries"] == 41
    assert person.run("ls", f"latest:{tree}/papers").stdout.startswith("drwx")

    done = person.run("restore", f"latest:{tree}", "--target", tmp_path / "back", "--verify")
    assert done.stdout.startswith("Restored ")
    same(tree, tmp_path / "back")

    assert person.last("check")["ok"] is True
    read = person.last("check", "latest", "--read-data")
    assert read["read_chunks"] == read["chunks"] > 0
    assert person.last("check", "--sample", "0%")["read_chunks"] == 0

    status = person.last("status", "--strict")
    assert status["verdict"] == "safe" and status["snapshots"] == 1 and status["devices"] == 1
    assert len(status["nodes"]) == 6
    assert person.run("status").stdout.startswith("All data safe")


def test_what_did_not_change_is_neither_read_nor_sent_again(person: Any, tree: Path) -> None:
    aged = 1_700_000_000_000_000_000
    for path in tree.rglob("*"):
        os.utime(path, ns=(aged, aged), follow_symlinks=False)
    first = person.last("backup", tree)
    again = person.last("backup", tree)
    # A page of the manifest, where somebody touched a folder above the tree (/tmp) meanwhile; no content.
    assert first["new_bytes"] > 1_000_000 and again["new_bytes"] < 16_384
    assert again["files"] == first["files"] and again["bytes"] == first["bytes"]
    (tree / "papers" / "note 1.txt").write_text("something else")
    third = person.last("backup", tree)
    assert 0 < third["new_bytes"] < 100_000


def test_excluded_files_stay_out(person: Any, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "patterns").write_text("# pictures\n*.jpg\n\nsparse\n")
    person.run(
        "backup", tree, "--exclude", "note 1*.txt", "--exclude", "/nowhere",
        "--exclude-file", tmp_path / "patterns",
        "--one-file-system",
    )  # fmt: skip
    names = [line["path"] for line in person.ask("ls")[:-1]]
    assert not any(name.endswith((".jpg", "sparse")) or "/note 1" in name for name in names)
    assert any(name.endswith("note 2.txt") for name in names)


def test_a_dry_run_stores_nothing(person: Any, tree: Path) -> None:
    told = person.last("backup", "--dry-run", tree)
    assert told["dry_run"] is True and told["files"] == 45 and told["new_bytes"] > 1_000_000
    assert person.last("snapshots")["snapshots"] == 0
    assert person.last("status")["chunks"] == 0
    assert "Would back up" in person.run("backup", "--dry-run", tree).stdout


def test_latest_is_narrowed_by_device_and_path(person: Any, visitor: Any, tree: Path, tmp_path: Path) -> None:
    person.run("backup", tree / "papers")
    other = visitor("other")
    other.run("recover", "--recovery-file", person.code_file, "--device-name", "desktop")
    other.run("backup", tree / "photos")
    ids = [line["id"] for line in person.ask("snapshots")[:-1]]
    assert len(ids) == 2
    for narrowing, expected in (
        ((), "big.jpg"),
        (("--device", "laptop"), "note 7.txt"),
        (("--path", tree / "papers"), "note 7.txt"),
        (("--device", "desktop", "--path", tree / "photos"), "big.jpg"),
    ):
        assert expected in person.run("ls", "latest", *narrowing).stdout
    told = person.last("ls", "latest", "--device", "desktop", "--path", tree / "papers", code=1)
    assert told["code"] == "not_found"


def test_restore_takes_a_part_and_leaves_what_is_there(person: Any, tree: Path, tmp_path: Path) -> None:
    person.run("backup", tree)
    back = tmp_path / "back"
    done = person.last("restore", f"latest:{tree}", "--target", back, "--include", "note 1.txt")
    assert done["files"] == 1 and (back / "papers" / "note 1.txt").exists()
    note, source = back / "papers" / "note 1.txt", tree / "papers" / "note 1.txt"
    note.write_text("mine")
    for overwrite, wins in (("never", False), ("if-newer", False), ("if-changed", True), ("always", True)):
        note.write_text("mine")
        person.run("restore", f"latest:{tree}", "--target", back, "--overwrite", overwrite)
        assert (note.read_bytes() == source.read_bytes()) is wins, overwrite
    one = tmp_path / "one"
    person.run("restore", f"latest:{tree}/papers/note 5.txt", "--target", one)
    assert [path.name for path in one.iterdir()] == ["note 5.txt"]


def test_skipped_files_are_named_and_exit_with_3(
    person: Any, tree_with_socket: Path, same: Same, tmp_path: Path
) -> None:
    done = person.run("backup", tree_with_socket, code=3)
    assert f"skipped {tree_with_socket}/s" in done.stderr and "Snapshot " in done.stdout
    lines = person.ask("backup", tree_with_socket, code=3)
    assert [line["message_type"] for line in lines] == ["status", "summary", "error"]
    assert lines[0]["event"] == "skipped" and lines[1]["skipped"] == 1 and lines[2]["exit_code"] == 3
    person.run("restore", f"latest:{tree_with_socket}", "--target", tmp_path / "back")
    (tree_with_socket / "s").unlink()
    os.utime(tmp_path / "back", ns=(1, 1))
    same(tree_with_socket, tmp_path / "back")


def test_version_names_the_kernel_and_the_formats(person: Any) -> None:
    told = person.last("version")
    assert told["message_type"] == "summary" and told["kernel"] and told["format"] == 1 and told["version"]


# The terminal


def watched(person: Any, *arguments: object, **environment: str) -> tuple[str, str]:
    """Run with stderr on a terminal; gives (stdout, what the terminal showed)."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env={**person.env(TERM="xterm", COLUMNS="80"), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            got = os.read(ours, 65536)
        except OSError:
            break
        if not got:
            break
        shown += got
    os.close(ours)
    assert process.stdout is not None
    out = process.stdout.read().decode()
    process.stdout.close()
    assert process.wait(DEADLINE_S) == 0
    return out, shown.decode(errors="replace")


def test_bars_are_for_terminals_only_and_colour_can_be_turned_off(person: Any, tree: Path) -> None:
    for number in range(6):
        (tree / f"large {number}").write_bytes(os.urandom(4_000_000))
    out, shown = watched(person, "backup", tree)
    assert out.startswith("Snapshot ") and "Backing up" in shown
    _, plain = watched(person, "check", "--read-data", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain), "no colours"
    _, quiet = watched(person, "backup", tree, "--quiet")
    assert quiet == ""
    assert "\x1b" not in person.run("restore", "latest", "--target", tree.parent / "b").stdout


def test_a_reader_that_leaves_early_meets_no_trace(person: Any, tree: Path) -> None:
    for number in range(3000):
        (tree / "empty" / f"{number}").touch()
    person.run("backup", tree)
    shell = f"{sys.executable} -m holdfast.client.console ls latest | head -1"
    done = subprocess.run(
        ["/bin/sh", "-c", shell], env=person.env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == "" and len(done.stdout.splitlines()) == 1


def test_ctrl_c_leaves_nothing_visible_and_the_next_backup_goes_on(
    person: Any, tree: Path, same: Same, tmp_path: Path
) -> None:
    for number in range(40):
        (tree / f"large {number}").write_bytes(os.urandom(4_000_000))
    process = person.stopped_at("client.commit.answered", "backup", tree)
    assert person.last("status")["chunks"] > 0, "something has arrived"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, (out, err)
    assert err == "Interrupted.\n" and out == ""
    assert person.last("snapshots")["snapshots"] == 0
    sent = person.last("status")["used_bytes"]
    again = person.last("backup", tree)
    assert sent > 0 and again["new_bytes"] < 160_000_000, "what had arrived is not sent again"
    person.run("restore", f"latest:{tree}", "--target", tmp_path / "back")
    same(tree, tmp_path / "back")


def test_every_line_for_programs_is_json(person: Any, tree: Path, tmp_path: Path) -> None:
    person.run("backup", tree)
    for arguments in (
        ("snapshots",), ("ls",), ("check",), ("status",), ("version",),
        ("restore", "latest", "--target", tmp_path / "b"), ("backup", tree),
    ):  # fmt: skip
        done = person.run(*arguments, HOLDFAST_JSON="1")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines[-1]["message_type"] == "summary" and done.stderr == ""
        assert {line["message_type"] for line in lines[:-1]} <= {"status"}
        assert all(re.fullmatch(r"[a-z0-9_]+", name) for line in lines for name in line)


@pytest.mark.parametrize(
    "arguments", [("backup",), ("restore", "latest"), ("check", "--sample", "101%"), ("ls", "--x")]
)
def test_wrong_usage_is_2(visitor: Any, arguments: tuple[str, ...]) -> None:
    assert "Usage:" in visitor().run(*arguments, code=2).stderr
