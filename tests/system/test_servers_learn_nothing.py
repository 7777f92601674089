"""The servers see no key, no name and no byte of content: everything they keep is searched."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from holdfast.cluster import LocalCluster


def spellings(secret: bytes) -> list[bytes]:
    """A secret as somebody careless might have written it down."""
    return [
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret)[: len(secret)],
        base64.urlsafe_b64encode(secret)[: len(secret)],
        secret[::-1],
    ]


def test_nothing_of_a_backup_can_be_read_from_what_the_servers_keep(visitor: Any, tmp_path: Path) -> None:
    marker = os.urandom(24).hex().encode()
    tree = tmp_path / ("name-" + os.urandom(8).hex())
    tree.mkdir()
    (tree / ("file-" + os.urandom(8).hex())).write_bytes(marker * 40_000)
    (tree / "small").write_bytes(b"once: " + marker)
    tag, device = "tag" + os.urandom(6).hex(), "device" + os.urandom(6).hex()
    with LocalCluster(3) as cluster:
        person = visitor("secretive", **cluster.env())
        code = person.last("init", "--device-name", device)["recovery_code"]
        person.run("backup", tree, "--tag", tag)
        cluster.stop(1, 2, 3, "coordinator")
        kept = {path: path.read_bytes() for path in cluster.folder.rglob("*") if path.is_file()}
    assert sum(map(len, kept.values())) > 100_000
    keys = (person.home / "account.keys").read_bytes()
    device_key = (person.home / "device.key").read_bytes()
    names = [tree.name.encode(), *(path.name.encode() for path in tree.iterdir() if len(path.name) > 8)]
    secrets = [marker, tag.encode(), *names, code.encode(), code.replace("-", "").encode()]
    secrets += [keys[-32:], device_key[-64:-32], device_key[-32:]]
    for secret in secrets:
        for spelling in spellings(secret):
            where = [str(path) for path, content in kept.items() if spelling in content]
            assert not where, f"{secret[:12]!r} lies in {where}"
