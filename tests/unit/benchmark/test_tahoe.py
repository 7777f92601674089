"""Tahoe-LAFS as a peer: whatever it does, nothing of it is left running."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.cluster.benchmark.peers import find_peer
from holdfast.cluster.benchmark.subject import Absent

# Its introducer starts; then it can make no node.
_HALF = """#!/bin/sh
case "$1" in
  --version) echo tahoe-lafs/0 ;;
  create-introducer)
    for last; do :; done
    mkdir -p "$last/private"
    echo pb://x > "$last/private/introducer.furl" ;;
  run) echo $$ > "$HOME/started"; exec cat ;;
  *) echo "no such thing" >&2; exit 3 ;;
esac
"""


def test_a_grid_that_does_not_come_up_is_told_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "tahoe"
    program.write_text(_HALF)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "place").mkdir()
    with pytest.raises(Absent, match="does not start: no such thing"):
        find_peer("tahoe", tmp_path / "place")
    started = tmp_path / "place" / "tahoe" / "started"
    # It may have been ended before it could say so, or in the middle of that.
    number = started.read_text().strip() if started.exists() else ""
    assert not number or not Path("/proc", number).exists()
