"""No kernel is believed: it proves itself against reedsolo, or the next one is taken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.protocol import erasure
from holdfast.protocol.erasure.isal import IsalKernel, _wheel_copies, isal_kernels
from holdfast.protocol.erasure.kernel import Kernel, choose, kernel_name, proves_itself
from holdfast.protocol.erasure.portable import PortableKernel
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.profiles import Profile

isal = pytest.fixture(lambda: next(isal_kernels()))


class Lying:
    """Right but for one bit, and only when asked for ``rows`` rows."""

    def __init__(self, name: str, rows: int, at: int) -> None:
        self.name = name
        self._rows = rows
        self._at = at

    def multiply(
        self, rows: Sequence[bytes], sources: Sequence[bytes | memoryview], targets: Sequence[memoryview]
    ) -> None:
        PortableKernel().multiply(rows, sources, targets)
        if len(rows) == self._rows:
            targets[-1][self._at] ^= 1


def offering(*kernels: Kernel) -> Callable[[], Iterator[Kernel]]:
    return lambda: iter(kernels)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("at", [0, 64, -1])
def test_one_wrong_bit_for_any_number_of_rows_is_seen(rows: int, at: int) -> None:
    assert not proves_itself(Lying("liar", rows, at))


def test_the_real_ones_prove_themselves(isal: IsalKernel) -> None:
    assert proves_itself(PortableKernel())
    assert proves_itself(isal)


def test_a_liar_is_named_and_the_next_candidate_taken(isal: IsalKernel) -> None:
    with pytest.warns(RuntimeWarning, match="liar") as told:
        chosen = choose(offering(Lying("first liar", 4, 0), Lying("second liar", 1, 9), isal))
    assert chosen is isal
    assert [str(warning.message).split(" does")[0][-11:] for warning in told] == [
        " first liar",
        "second liar",
    ]


def test_where_every_candidate_lies_the_portable_kernel_runs() -> None:
    with pytest.warns(RuntimeWarning):
        assert choose(offering(Lying("liar", 2, 3))).name == "portable"
    assert choose(offering()).name == "portable"


def test_a_setting_that_is_no_isal_is_warned_about_and_passed_over(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    for wish in (str(text), str(tmp_path / "nowhere.so"), "libc.so.6"):
        with pytest.warns(RuntimeWarning, match="HOLDFAST_ISAL"):
            found = list(isal_kernels(wish))
        assert found, "the other places are still looked at"


def test_the_setting_comes_first() -> None:
    (wheel,) = [kernel for kernel in isal_kernels("") if "wheel" in kernel.name][:1] or [None]
    if wheel is None:
        pytest.skip("no ISA-L in a wheel here")
    code = "from holdfast.protocol.erasure.isal import _wheel_copies; print(_wheel_copies()[0])"
    path = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert next(isal_kernels(path.strip())).name == "ISA-L (HOLDFAST_ISAL)"


def test_a_folder_of_the_package_s_name_does_not_hide_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when somebody works in a clone of it, which is first on the path."""
    (tmp_path / "clone" / "pyeclib").mkdir(parents=True)
    copy = tmp_path / "packages" / "pyeclib.libs" / "libisal-pyeclib.so.2"
    copy.parent.mkdir(parents=True)
    copy.touch()
    monkeypatch.setattr(sys, "path", ["", str(tmp_path / "clone"), str(tmp_path / "packages")])
    monkeypatch.chdir(tmp_path / "clone")
    assert _wheel_copies() == [copy]


def test_the_process_s_kernel_has_a_name() -> None:
    assert kernel_name().startswith("ISA-L (") or kernel_name() == "portable"


class TestNativeCodeIsNeverGivenWhatDoesNotFit:
    rows = (b"\1\2", b"\3\4")

    def test_rows_sources_and_targets_must_fit(self, isal: IsalKernel) -> None:
        right = memoryview(bytearray(8))
        for rows, sources, targets in (
            (self.rows, [b"x" * 8], [right, right]),
            (self.rows, [b"x" * 8] * 2, [right]),
            ((b"\1\2", b"\3"), [b"x" * 8] * 2, [right, right]),
            ((), [b"x" * 8] * 2, []),
            (self.rows, [], [right, right]),
        ):
            with pytest.raises(BadRequest):
                isal.multiply(rows, sources, targets)

    def test_lengths_must_be_equal_and_not_zero(self, isal: IsalKernel) -> None:
        long, short = memoryview(bytearray(8)), memoryview(bytearray(7))
        for sources, targets in (
            ([b"x" * 8, b"x" * 7], [long, long]),
            ([b"x" * 8, b"x" * 8], [long, short]),
            ([b"x" * 7, b"x" * 7], [long, long]),
            ([b"", b""], [memoryview(bytearray()), memoryview(bytearray())]),
        ):
            with pytest.raises(BadRequest):
                isal.multiply(self.rows, sources, targets)

    def test_read_only_memory_is_never_written(self, isal: IsalKernel) -> None:
        frozen = bytes(8)
        with pytest.raises(BufferError):
            isal.multiply(self.rows, [b"abcdefgh"] * 2, [memoryview(frozen), memoryview(bytearray(8))])
        assert frozen == bytes(8)

    def test_buffers_are_released_after_a_refusal(self, isal: IsalKernel) -> None:
        target = bytearray(8)
        with pytest.raises(BadRequest):
            isal.multiply(self.rows, [b"x" * 8, b"x" * 7], [memoryview(target), memoryview(target)])
        target.extend(b"grows only while nobody holds a view")


def test_threads_may_code_at_once() -> None:
    profile = Profile(10, 4)
    chunks = [os.urandom(200_000 + i) for i in range(24)]

    def there_and_back(chunk: bytes) -> bool:
        shards = erasure.encode(profile, chunk)
        kept = {slot: shards[slot] for slot in range(4, 14)}
        return erasure.decode(profile, kept, len(chunk)) == chunk

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(there_and_back, chunks * 4))
