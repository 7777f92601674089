"""Which coordinator this node follows: the one with the highest term it has met, by the root's word.

It is written down (charter.json), so that the node serves after a restart while the coordinator is away,
finds it where it last said it serves, and never follows an older one again. Of two coordinators of one
term the first counts: a term is given once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from holdfast.node.admission import Admission
from holdfast.protocol.charter import Charter, open_charter
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.directory import read_json, write_json
from holdfast.protocol.errors import HoldfastError, WrongDirectory
from holdfast.protocol.ids import ClusterId, PublicKey
from holdfast.protocol.signing import Signed

__all__ = ["KnownReign", "Reigning", "known_reign"]

_VERSION = 1
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KnownReign:
    """A coordinator proven by the cluster's root; ``url``: where it said it serves, or empty."""

    charter: Charter
    root: PublicKey
    signed: Signed
    url: str = ""


def known_reign(folder: Path, cluster: ClusterId | None) -> KnownReign | None:
    """What the folder remembers.

    Raises:
        WrongDirectory: charter.json is damaged, or another cluster's.
    """
    values = read_json(folder / "charter.json", _VERSION)
    if values is None or "root" not in values or cluster is None:
        return None
    try:
        root, signed = PublicKey.from_hex(values["root"]), decode(bytes.fromhex(values["charter"]), Signed)
        return KnownReign(open_charter(root, signed, cluster), root, signed, str(values["url"]))
    except (KeyError, TypeError, ValueError, HoldfastError) as error:
        raise WrongDirectory(f"{folder / 'charter.json'} is damaged", why=str(error)) from error


class Reigning:
    """Follows coordinators as they come.

    Args:
        known: what the folder remembers.
        raise_term: makes a higher term durable in the store.
    """

    def __init__(
        self,
        folder: Path,
        known: KnownReign | None,
        admission: Admission,
        raise_term: Callable[[int], Awaitable[None]],
    ) -> None:
        self._folder = folder
        self._admission = admission
        self._raise_term = raise_term
        self._turn = asyncio.Lock()
        self.known = known
        self.moved: Callable[[KnownReign], None] = lambda reign: None
        """Told of every coordinator that is followed, and when it serves elsewhere."""

    @property
    def term(self) -> int:
        """The highest term met."""
        return max(self._admission.term, self.known.charter.term if self.known is not None else 0)

    async def follow(self, offered: KnownReign) -> bool:
        """Follow a coordinator; False: its term is over, or another one had it first."""
        async with self._turn:  # of two at once the later one is judged by what the first has changed
            return await self._follow(offered)

    async def _follow(self, offered: KnownReign) -> bool:
        known = self.known
        if offered.charter.term < self.term:
            return False
        if (
            known is not None
            and offered.charter.term == known.charter.term
            and offered.charter.coordinator != known.charter.coordinator
        ):
            return False
        if not offered.url and known is not None and known.charter == offered.charter:
            offered = KnownReign(offered.charter, offered.root, offered.signed, known.url)
        # The term first: a node that dies between takes no order of the old one any more.
        await self._raise_term(offered.charter.term)
        if offered != known:
            write_json(
                self._folder / "charter.json",
                {
                    "version": _VERSION,
                    "term": offered.charter.term,
                    "coordinator": offered.charter.coordinator.hex(),
                    "root": offered.root.hex(),
                    "charter": encode(offered.signed).hex(),
                    "url": offered.url,
                },
            )
            if known is not None and known.charter.term < offered.charter.term:
                _log.warning("a new coordinator reigns", term=offered.charter.term, url=offered.url)
        self.known = offered
        self._admission.reign(offered.charter.coordinator, offered.charter.term)
        self.moved(offered)
        return True
