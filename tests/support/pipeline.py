"""A backup pipeline without a network: real files, real sealing, chunks in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.client.backup import BackupPlan, BackupResult, run_backup
from holdfast.client.check import CheckReport, run_check
from holdfast.client.chunks import MemoryChunks
from holdfast.client.entries import Entry
from holdfast.client.exclude import Excluder
from holdfast.client.identity import AccountKeys
from holdfast.client.manifest import ManifestWriter, UnreadablePage, open_page, read_manifest
from holdfast.client.restore import RestorePlan, RestoreReport, run_restore
from holdfast.client.sealing import SealedChunk
from holdfast.client.snapshot_record import ChunkRef
from holdfast.client.walk import normal_roots
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.errors import HoldfastError

KEYS = AccountKeys.of(1, b"account key of the tests, 32 by.")
SEALING = {1: KEYS.sealing}


@dataclass
class Pipeline:
    """Back up, look, restore; everything stored is in ``chunks``."""

    chunks: MemoryChunks = field(default_factory=MemoryChunks)
    source: Source = SYSTEM

    async def load(self, refs: Sequence[ChunkRef]) -> list[bytes | HoldfastError]:
        """A PageLoader over the stored chunks."""
        found: list[bytes | HoldfastError] = []
        for ref in refs:
            async for _, sealed in self.chunks.fetch([ref.chunk]):
                try:
                    found.append(
                        sealed if isinstance(sealed, HoldfastError) else open_page(SEALING, ref, sealed)
                    )
                except HoldfastError as error:
                    found.append(error)
        return found

    async def backup(
        self,
        *paths: Path | bytes,
        parent: BackupResult | None = None,
        exclude: Sequence[str] = (),
        **options: Any,
    ) -> BackupResult:
        """Back up paths, compared with a parent."""
        plan = BackupPlan(normal_roots(paths), Excluder(exclude), **options)  # type: ignore[arg-type]
        return await run_backup(
            plan,
            KEYS,
            self.chunks,
            parent_pages=parent.pages if parent else (),
            load=self.load,
            source=self.source,
        )

    async def restore(
        self, result: BackupResult, target: Path, of: Path | None = None, **options: Any
    ) -> RestoreReport:
        """Restore what lies in ``of`` (or everything) below a target."""
        prefix = os.fsencode(of).lstrip(b"/") if of is not None else b""
        plan = RestorePlan(str(target), prefix, **options)
        return await run_restore(plan, result.pages, self.load, self.chunks, SEALING)

    async def check(
        self, result: BackupResult, missing: dict[Any, HoldfastError] | None = None, **options: Any
    ) -> CheckReport:
        """Check a result; ``missing`` is what the catalogue says is gone."""

        async def find_missing(ids: Sequence[Any]) -> dict[Any, HoldfastError]:
            return {chunk: error for chunk, error in (missing or {}).items() if chunk in ids}

        return await run_check(result.pages, self.load, self.chunks, SEALING, find_missing, **options)

    async def entries(self, result: BackupResult) -> dict[bytes, Entry]:
        """All entries by path."""
        found = {}
        async for entry in read_manifest(result.pages, self.load):
            assert not isinstance(entry, UnreadablePage)
            found[entry.path] = entry
        return found

    def forge(self, entries: Sequence[Entry]) -> BackupResult:
        """A manifest of any entries, as a hostile or broken client would make it."""
        sealed: list[SealedChunk] = []
        writer = ManifestWriter(KEYS, sealed.append)
        for entry in entries:
            writer.add(entry)
        pages = writer.finish()
        for chunk in sealed:
            self.chunks.stored[chunk.chunk_id] = chunk.sealed
        return BackupResult(pages=pages)
