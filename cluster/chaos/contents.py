"""Files whose every byte follows from a seed, with canaries in content and names. Pure.

A canary is a string that only the client may know. Servers, logs and wires are searched for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from blake3 import blake3

from holdfast.cluster.chaos.typed import Part, changed

__all__ = ["PlannedFile", "canary_of", "changed_files", "content_of"]

_TEXT_SHARE = 0.3


class PlannedFile(Part):
    """One file: ``name`` below the source folder, ``size`` in bytes, ``seed`` of its content."""

    name: str
    size: int
    seed: int


def canary_of(seed: int) -> str:
    """The run's canary: long enough never to appear by chance."""
    return "canary-" + blake3(f"canary {seed}".encode()).hexdigest()[:24]


def content_of(file: PlannedFile, canary: str) -> bytes:
    """The file's bytes: the canary, then text that compresses well or bytes that do not."""
    head = f"{canary} {file.seed}\n".encode()
    if Random(file.seed).random() < _TEXT_SHARE:
        line = head + b"all work and no play makes jack a dull boy\n"
        return (line * (file.size // len(line) + 1))[: file.size]
    return (head + blake3(f"{file.seed}".encode()).digest(length=file.size))[: file.size]


def changed_files(
    before: Sequence[PlannedFile],
    random: Random,
    canary: str,
    *,
    count: tuple[int, int],
    kib: tuple[int, int],
    earlier: Sequence[PlannedFile] = (),
    again: float = 0.0,
) -> list[PlannedFile]:
    """What the source folder holds next: some files stay, some change, some go, some come.

    Args:
        count, kib: how many, and how large; fewest and most.
        again: the share of those that come which are taken from ``earlier``, and were there before.
    """
    kept: list[PlannedFile] = []
    for file in before:
        draw = random.random()
        if draw < 0.5:
            kept.append(file)
        elif draw < 0.8:
            kept.append(changed(file, seed=random.getrandbits(48), size=_size(random, kib)))
    wanted = random.randint(*count)
    kept = kept[:wanted]
    while len(kept) < wanted:
        if earlier and random.random() < again:
            old = random.choice(earlier)
            if all(file.name != old.name for file in kept):
                kept.append(old)
                continue
        number = random.getrandbits(32)
        name = f"{canary}-{number:08x}" if number % 3 else f"folder-{number % 5}/{canary}-{number:08x}"
        kept.append(PlannedFile(name=name, size=_size(random, kib), seed=random.getrandbits(48)))
    return kept


def _size(random: Random, kib: tuple[int, int]) -> int:
    """Small files are many, large ones few: the exponent is drawn, not the size."""
    low, high = max(1, kib[0]), max(1, kib[1])
    exponent = random.uniform(0.0, 1.0)
    return int(1024 * low * (high / low) ** exponent) + random.randint(-700, 700)
