"""What a node is started with, and whether it fits together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.node.limits import CAPACITY_BYTES_MIN, SCRUB_DAYS_DEFAULT
from holdfast.protocol.address import Address, Token
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.limits import LABEL_BYTES_MAX
from holdfast.protocol.serving import ListenAddress

__all__ = ["NodeSettings", "checked"]


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What the command line gives a node."""

    folder: Path
    coordinator: Address
    token_file: Path | None
    listen: ListenAddress | None
    advertise: str | None
    zone: str
    capacity_bytes: int | None
    program: str
    scrub_days: float = SCRUB_DAYS_DEFAULT
    replace_damaged_store: bool = False
    pid: int | None = None
    """By which process others know this node: its supervisor, where it has one."""


def checked(settings: NodeSettings) -> tuple[Address, Token | None]:
    """The cluster's address with its id, and the token if there is one.

    Raises:
        BadRequest: they do not fit together, or a value is out of bounds.
    """
    if len(settings.zone.encode()) > LABEL_BYTES_MAX:
        raise BadRequest(f"a zone's name has at most {LABEL_BYTES_MAX} bytes")
    if settings.capacity_bytes is not None and settings.capacity_bytes < CAPACITY_BYTES_MIN:
        raise BadRequest(f"a node's capacity is at least {CAPACITY_BYTES_MIN} bytes")
    if not settings.scrub_days > 0:  # nan is neither
        raise BadRequest("shards are reread in more than 0 days")
    if settings.token_file is None or not settings.token_file.exists():
        return settings.coordinator, None
    token = Token.parse(settings.token_file.read_text())
    given = settings.coordinator.cluster
    if given is not None and given != token.address.cluster:
        raise BadRequest(
            "the token is for another cluster than the coordinator's address names",
            do="Ask that cluster's operator for a token: 'holdfast admin node add-token'.",
        )
    return Address(settings.coordinator.url, token.address.cluster), token
