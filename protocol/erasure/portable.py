"""The kernel that runs everywhere: translate tables and big-integer XOR.

``bytes.translate`` multiplies many bytes by one factor, and Python's integers
XOR the products. Column by column the work is independent, so it is done in
runs short enough to stay in the cache. It holds the GIL throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.protocol.erasure.limits import PORTABLE_RUN_BYTES
from holdfast.protocol.erasure.matrix import multiplication_table

__all__ = ["PortableKernel"]


class PortableKernel:
    """Needs nothing but the interpreter."""

    name = "portable"

    def multiply(
        self, rows: Sequence[bytes], sources: Sequence[bytes | memoryview], targets: Sequence[memoryview]
    ) -> None:
        """targets[r] = sum over i of rows[r][i] * sources[i], column by column."""
        length = len(targets[0])
        for start in range(0, length, PORTABLE_RUN_BYTES):
            end = min(start + PORTABLE_RUN_BYTES, length)
            run = [bytes(source[start:end]) for source in sources]
            for row, target in zip(rows, targets, strict=True):
                total = 0
                for factor, part in zip(row, run, strict=True):
                    if factor == 1:
                        total ^= int.from_bytes(part, "little")
                    elif factor:
                        total ^= int.from_bytes(part.translate(multiplication_table(factor)), "little")
                target[start:end] = total.to_bytes(end - start, "little")
