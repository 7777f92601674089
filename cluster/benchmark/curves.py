"""Curves: figures that should stay flat while something grows (``holdfast bench --curves``)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from holdfast.cluster.benchmark.catalogue_curve import measure_catalogue
from holdfast.cluster.benchmark.churn_curve import measure_churn, measure_churn_within
from holdfast.cluster.benchmark.clients_curve import measure_clients
from holdfast.cluster.benchmark.corpora import one_file
from holdfast.cluster.benchmark.holdfast_subject import HoldfastSubject
from holdfast.cluster.local import LocalCluster
from holdfast.protocol.limits import MIB

__all__ = ["Curve", "measure_curves", "size_curve"]

Curve = tuple[str, str, list[tuple[str, float, float, float]]]
"""(title, unit, points as (label, median, least, most))."""
_SIZES_MIB = (64, 256, 1024, 4096)
_ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
_CLIENTS = (1, 8, 32)
_CLIENTS_BYTES = 4096 * MIB
"""All clients together: so much that what each head costs is little beside it, also for 32 of them."""
_CLIENTS_QUICK_BYTES = 512 * MIB
_STORE_MEMORY_BYTES = 512 * MIB
_QUICK_PARTS = 2


def size_curve(
    subject: HoldfastSubject, folder: Path, sizes: Sequence[int], tell: Callable[[str], None]
) -> Curve:
    """Backup rate of one file of each size; of the smaller ones the median of three."""
    points = []
    for mib in sizes:
        make, _ = one_file(mib * MIB)
        rates = []
        for number in range(1 if mib > 1024 else 3):
            tree = folder / f"size-{mib}-{number}"
            tree.mkdir()
            make(tree, f"{mib} MiB {number}")
            rates.append(mib * MIB / 1e6 / subject.backup("size", tree).seconds)
            shutil.rmtree(tree)
        rates.sort()
        points.append((f"{mib} MiB", rates[len(rates) // 2], rates[0], rates[-1]))
        tell(f"curve    backup of {mib:>6} MiB {rates[len(rates) // 2]:>26,.0f} MB/s")
    return "backup rate by size of the file", "MB/s", points


def _rows(folder: Path, counts: Sequence[int], tell: Callable[[str], None]) -> list[Curve]:
    claims, commits, looks = [], [], []
    for rows in counts:
        claim, commit, look = measure_catalogue(folder, rows)
        claims.append((f"{rows:,}", claim.middle, claim.least, claim.most))
        commits.append((f"{rows:,}", commit.middle, commit.least, commit.most))
        looks.append((f"{rows:,}", look.middle, look.least, look.most))
        tell(
            f"curve    {rows:>10,} rows: claim of 256 {claim.middle:.2f} ms, "
            f"commit of 16 {commit.middle:.2f} ms, status {look.middle:.2f} ms"
        )
    return [
        ("claim of 256 new chunks by rows in the catalogue", "ms", claims),
        ("commit of 16 chunks by rows in the catalogue", "ms", commits),
        ("how all stripes stand by rows in the catalogue, one slot being filled", "ms", looks),
    ]


def _churn(folder: Path, tell: Callable[[str], None]) -> list[Curve]:
    drawn: list[Curve] = []
    for what, rates in (
        ("", measure_churn(folder)),
        (", its store three times its memory", measure_churn_within(folder, _STORE_MEMORY_BYTES)),
    ):
        for label, rate in rates:
            tell(f"curve    store {label}{what} {rate:,.0f} MB/s")
        if rates:
            points = [(label, rate, rate, rate) for label, rate in rates]
            drawn.append((f"a node's put rate by how often its room was used again{what}", "MB/s", points))
        else:
            tell(f"curve    store{what}: not measured, no memory can be bounded on this machine")
    return drawn


def _clients(
    cluster: LocalCluster, folder: Path, total_bytes: int, tell: Callable[[str], None]
) -> list[Curve]:
    totals, shares = [], []
    for count in _CLIENTS:
        rate, share = measure_clients(cluster, folder, count, total_bytes)
        totals.append((str(count), rate, rate, rate))
        shares.append((str(count), share, share, share))
        tell(f"curve    {count:>3} clients: {rate:,.0f} MB/s together, the slowest {share:.2f} of the mean")
    return [
        ("all clients together, by their number", "MB/s", totals),
        ("the slowest client's rate as a part of the mean", "", shares),
    ]


def measure_curves(folder: Path, tell: Callable[[str], None], *, quick: bool = False) -> list[Curve]:
    """All curves; ``quick`` leaves out the largest sizes."""
    drawn = [*_rows(folder, _ROWS[:_QUICK_PARTS] if quick else _ROWS, tell), *_churn(folder, tell)]
    with LocalCluster(6, "4+2", folder=folder / "curves-cluster") as cluster:
        subject = HoldfastSubject(cluster, folder / "curves")
        drawn.append(size_curve(subject, folder, _SIZES_MIB[:_QUICK_PARTS] if quick else _SIZES_MIB, tell))
        total_bytes = _CLIENTS_QUICK_BYTES if quick else _CLIENTS_BYTES
        drawn.extend(_clients(cluster, folder, total_bytes, tell))
    return drawn
