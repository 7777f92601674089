"""Peers: other backup programs that happen to be installed, each used as its manual says.

Most write to a local directory on the same disk: no network, no redundancy. That
is less work than Holdfast does, and said so in the report; Tahoe-LAFS does as much
(see tahoe.py). None is a dependency; what is not installed is left out, with a note.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from holdfast.cluster.benchmark.measuring import Cost, measure
from holdfast.cluster.benchmark.subject import Absent, Subject, clean_environment
from holdfast.cluster.benchmark.tahoe import Tahoe

__all__ = ["PEERS", "find_peer"]

_SECRET = "benchmark"  # it protects random bytes in a temporary folder


class _Peer:
    """What they share: a program, a folder of its own, an environment."""

    name = ""
    notes = ""
    version_arguments: Sequence[str] = ("--version",)

    def __init__(self, folder: Path) -> None:
        program = shutil.which(self.name)
        if program is None:
            raise Absent(f"{self.name} is not installed")
        self._program = program
        self._folder = folder
        self._folder.mkdir()
        self._environment = clean_environment(folder)
        self.version = self._said(*self.version_arguments).splitlines()[0]

    def _said(self, *arguments: str) -> str:
        done = subprocess.run(
            [self._program, *arguments], env=self._environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip() or done.stderr.strip()

    def _measured(self, *arguments: str | Path, cwd: Path | None = None) -> Cost:
        return measure(
            [self._program, *arguments], environment=self._environment, folder=self._folder, cwd=cwd
        )

    def found_at(self, tree: Path, target: Path) -> Path:
        return target

    def close(self) -> None:
        """Nothing of it runs on."""


class _Borg(_Peer):
    """https://borgbackup.readthedocs.io/en/stable/usage.html"""

    name = "borg"
    notes = "encrypted (repokey-blake2), its own default compression, one directory"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._number = 0
        self._environment |= {"BORG_PASSPHRASE": _SECRET, "BORG_BASE_DIR": str(folder)}
        self._repository = folder / "repository"
        self._said("init", "--encryption", "repokey-blake2", str(self._repository))

    def backup(self, corpus: str, tree: Path) -> Cost:
        self._number += 1
        return self._measured("create", f"{self._repository}::{corpus}-{self._number}", ".", cwd=tree)

    def restore(self, corpus: str, tree: Path, target: Path) -> Cost:
        newest = self._said("list", "--short", "--glob-archives", f"{corpus}-*", "--last", "1",
                            str(self._repository))  # fmt: skip
        return self._measured("extract", f"{self._repository}::{newest}", cwd=target)


class _Restic(_Peer):
    """https://restic.readthedocs.io/en/stable/"""

    name = "restic"
    notes = "encrypted, one directory"
    version_arguments = ("version",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._environment |= {"RESTIC_PASSWORD": _SECRET, "RESTIC_REPOSITORY": str(folder / "repository")}
        self._said("init")

    def backup(self, corpus: str, tree: Path) -> Cost:
        return self._measured("backup", "--quiet", "--tag", corpus, tree)

    def restore(self, corpus: str, tree: Path, target: Path) -> Cost:
        return self._measured("restore", "latest", "--quiet", "--tag", corpus, "--target", target)

    def found_at(self, tree: Path, target: Path) -> Path:
        return target / tree.relative_to("/")


class _Rclone(_Peer):
    """https://rclone.org/crypt/"""

    name = "rclone"
    notes = "crypt over one directory: no snapshots, no deduplication; each file is copied as it is"
    version_arguments = ("version",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._environment |= {
            "RCLONE_CONFIG": str(folder / "rclone.conf"),
            "RCLONE_CONFIG_SEALED_TYPE": "crypt",
            "RCLONE_CONFIG_SEALED_REMOTE": str(folder / "store"),
            "RCLONE_CONFIG_SEALED_PASSWORD": self._said("obscure", _SECRET),
        }
        (folder / "rclone.conf").touch()
        (folder / "store").mkdir()

    def backup(self, corpus: str, tree: Path) -> Cost:
        return self._measured("sync", tree, f"sealed:{corpus}")

    def restore(self, corpus: str, tree: Path, target: Path) -> Cost:
        return self._measured("copy", f"sealed:{corpus}", target)


PEERS: dict[str, Callable[[Path], Subject]] = {
    "borg": _Borg,
    "restic": _Restic,
    "rclone": _Rclone,
    "tahoe": Tahoe,
}


def find_peer(name: str, folder: Path) -> Subject:
    """A peer with an empty repository of its own below a folder.

    Raises:
        Absent: it is not installed here, or does not do what its manual says.
    """
    if name not in PEERS:
        raise Absent(f"{name} is not among {', '.join(PEERS)}")
    try:
        return PEERS[name](folder / name)
    except subprocess.CalledProcessError as error:
        raise Absent(f"{name} does not start: {str(error.stderr).strip()[-200:]}") from error
