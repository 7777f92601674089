"""The kernel that runs everywhere: translate tables and big-integer XOR.

``bytes.translate`` multiplies a whole shard by one factor at memory speed, and
Python's integers XOR it onto the sum: 550 MB/s for 4+2 where ISA-L does 44 GB/s.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.protocol.erasure.matrix import multiplication_table

__all__ = ["PortableKernel"]


class PortableKernel:
    """Needs nothing but the interpreter."""

    name = "portable"

    def multiply(
        self, rows: Sequence[bytes], sources: Sequence[bytes | memoryview], targets: Sequence[memoryview]
    ) -> None:
        """targets[r] = sum over i of rows[r][i] * sources[i], column by column."""
        plain = [bytes(source) for source in sources]
        for row, target in zip(rows, targets, strict=True):
            total = 0
            for factor, source in zip(row, plain, strict=True):
                if factor == 1:
                    total ^= int.from_bytes(source, "little")
                elif factor:
                    total ^= int.from_bytes(source.translate(multiplication_table(factor)), "little")
            target[:] = total.to_bytes(len(target), "little")
