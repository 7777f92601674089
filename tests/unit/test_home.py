"""A device's folder: private, versioned, whole or not there at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from holdfast.client.home import Home, Joining, KnownAccount, default_home
from holdfast.client.identity import AccountKeys, DeviceKeys
from holdfast.client.page_cache import PageCache
from holdfast.protocol.address import Address
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import HoldfastError, Locked, NoAccount, WrongDirectory
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, DeviceId, Digest, Signature
from holdfast.protocol.signing import Signed

KNOWN = KnownAccount(
    Address("http://127.0.0.1:7700", ClusterId(b"c" * 32)),
    AccountId(b"a" * 32),
    DeviceId(b"d" * 16),
    "laptop",
    3,
    Digest(b"l" * 32),
    7,
    Digest(b"h" * 32),
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "deep" / "home")
    made.set_up(KNOWN, DeviceKeys.generate(FixedSource()), [AccountKeys.of(1, b"k" * 32)])
    return made


def test_what_was_set_up_comes_back(home: Home) -> None:
    again = Home(home.folder)
    assert again.has_account and again.account() == KNOWN
    assert again.device().to_bytes() == DeviceKeys.generate(FixedSource()).to_bytes()
    assert [(keys.epoch, keys.secret) for keys in again.account_keys()] == [(1, b"k" * 32)]


def test_only_the_owner_can_look_inside(home: Home) -> None:
    assert stat.S_IMODE(home.folder.stat().st_mode) == 0o700
    for path in home.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_no_account_is_said_so(tmp_path: Path) -> None:
    empty = Home(tmp_path / "nothing")
    assert not empty.has_account and empty.joining() is None
    for ask in (empty.account, empty.account_keys, empty.device):
        with pytest.raises(NoAccount) as met:
            ask()
        assert "holdfast init" in met.value.do and "holdfast recover" in met.value.do


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_a_folder_of_another_version_is_refused(home: Home, version: object) -> None:
    path = home.folder / "account.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": version}))
    with pytest.raises(WrongDirectory):
        home.account()


@pytest.mark.parametrize("name", ["account.json", "account.keys", "device.key"])
@pytest.mark.parametrize("content", [b"", b"\0" * 10, b"{}", b"[1, 2"])
def test_a_damaged_file_is_a_typed_error(home: Home, name: str, content: bytes) -> None:
    (home.folder / name).write_bytes(content)
    with pytest.raises(WrongDirectory):
        home.account()
        home.account_keys()
        home.device()


@pytest.mark.parametrize("field", ["account", "device", "address", "head_digest", "head_seq"])
def test_a_missing_or_wrong_field_is_a_typed_error(home: Home, field: str) -> None:
    path = home.folder / "account.json"
    whole = json.loads(path.read_text())
    for values in ({k: v for k, v in whole.items() if k != field}, {**whole, field: "zz"}):
        path.write_text(json.dumps(values))
        with pytest.raises(WrongDirectory):
            home.account()


def test_a_folder_that_cannot_be_made_says_which_setting_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    home = Home(tmp_path / "file" / "home")
    with pytest.raises(NoAccount):
        home.account()
    with pytest.raises(HoldfastError) as met:
        home.lock()
    assert "HOLDFAST_HOME" in met.value.do


def test_two_processes_do_not_change_a_folder_at_once(home: Home) -> None:
    with home.lock(), pytest.raises(Locked) as met:
        home.lock()
    assert met.value.exit_code == 11
    with home.lock():
        pass


def test_a_joining_under_way_is_kept_until_the_account_is_there(home: Home, tmp_path: Path) -> None:
    begun = Home(tmp_path / "begun")
    joining = Joining(1, "http://x:1", "laptop", b"d" * 64, b"s" * 32, Signed(b"list", Signature(bytes(64))))
    begun.save_joining(joining)
    assert Home(begun.folder).joining() == joining and not begun.has_account
    begun.set_up(KNOWN, home.device(), home.account_keys())
    assert begun.joining() is None
    (begun.folder / "joining.bin").write_bytes(b"half")
    with pytest.raises(WrongDirectory):
        begun.joining()


def test_holdfast_home_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "here"))
    assert default_home() == tmp_path / "here"
    monkeypatch.delenv("HOLDFAST_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_home() == tmp_path / "data" / "holdfast"


def test_the_page_cache_is_bounded_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    cache = PageCache(tmp_path / "cache", limit_bytes=2500)
    ids = [ChunkId(bytes([n]) * 32) for n in range(4)]
    for n, chunk in enumerate(ids):
        cache.put(chunk, b"x" * 1000)
        path = next((tmp_path / "cache").glob(f"*/{chunk.hex()}"))
        os.utime(path, (1000 + n, 1000 + n))
    assert cache.get(ids[0]) == b"x" * 1000, "looking at it makes it the newest"
    cache.trim()
    assert [cache.get(chunk) is not None for chunk in ids] == [True, False, False, True]
    cache.drop(ids[0])
    assert cache.get(ids[0]) is None


def test_a_cache_that_cannot_be_written_costs_nothing_but_speed(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    cache = PageCache(tmp_path / "cache")
    cache.put(ChunkId(bytes(32)), b"x")
    assert cache.get(ChunkId(bytes(32))) is None
