"""Modules that are loaded ahead: in a thread, and without a word of what is wrong with them."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from holdfast.client.loading import load_ahead


def loaded() -> None:
    for thread in threading.enumerate():
        if thread.name == "load ahead":
            thread.join(5)


def test_what_is_there_already_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "Thread", None)
    load_ahead("os", "threading")


def test_it_is_there_afterwards_and_one_that_fails_keeps_no_other_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "holdfast_loaded_ahead.py").write_text("here = True")
    (tmp_path / "holdfast_broken.py").write_text("raise ValueError('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    load_ahead("holdfast_broken", "holdfast_absent", "holdfast_loaded_ahead")
    loaded()
    assert sys.modules.pop("holdfast_loaded_ahead").here
    with pytest.raises(ValueError, match="broken"):
        import holdfast_broken  # noqa: F401
