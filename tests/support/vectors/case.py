"""One vector, and the fixed keys that vectors are made with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from holdfast.client.identity import AccountKeys, DeviceKeys, RootKeys
from holdfast.protocol.charter import cluster_id
from holdfast.protocol.codec import encode
from holdfast.protocol.ids import ClusterId
from holdfast.protocol.signing import Signed, generate_signing_key, public_key, sign

FOLDER = Path(__file__).resolve().parents[2] / "vectors"
Values = dict[str, Any]

CLUSTER_KEY = generate_signing_key(b"\1" * 32)
CLUSTER = cluster_id(public_key(CLUSTER_KEY))
COORDINATOR = generate_signing_key(b"\2" * 32)
NODE = generate_signing_key(b"\3" * 32)
STRANGER = generate_signing_key(b"\4" * 32)
SECRET = bytes(range(32))
ROOT = RootKeys.of(SECRET)
DEVICE = DeviceKeys.from_bytes(b"\5" * 32 + b"\6" * 32)
ACCOUNT_KEY = bytes(range(32, 64))
KEYS = AccountKeys.of(1, ACCOUNT_KEY)
TIME_MS = 1_700_000_000_000


@dataclass
class Case:
    """One vector."""

    topic: str
    name: str
    about: str
    input: Values
    outcome: str = "ok"
    kept: bool = False
    expected: Values = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Its file."""
        return FOLDER / self.topic / f"{self.name}.json"

    def text(self) -> str:
        """The file's content."""
        told = {
            "about": self.about,
            "outcome": self.outcome,
            "kept": self.kept,
            "input": self.input,
            "expected": self.expected,
        }
        return json.dumps(told, indent=2) + "\n"


def load(path: Path) -> Case:
    """A case from its file."""
    told = json.loads(path.read_text())
    return Case(
        path.parent.name,
        path.stem,
        told["about"],
        told["input"],
        told["outcome"],
        told["kept"],
        told["expected"],
    )


def changed(record: Any, **values: Any) -> Any:
    """A record with some fields replaced."""
    return msgspec.structs.replace(record, **values)


def signed(kind: str, record: Any, key: Any, cluster: ClusterId = CLUSTER) -> Signed:
    """A record (or its bytes) in an envelope."""
    payload = record if isinstance(record, bytes) else encode(record)
    return Signed(payload, sign(key, kind, cluster, payload))


def signed_hex(kind: str, record: Any, key: Any, cluster: ClusterId = CLUSTER) -> str:
    """The same as it stands in a file."""
    return encode(signed(kind, record, key, cluster)).hex()


def flipped(raw: bytes, at: int, bit: int = 0) -> bytes:
    """One bit turned over."""
    made = bytearray(raw)
    made[at] ^= 1 << bit
    return bytes(made)
