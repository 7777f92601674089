"""The erasure code: reedsolo defines it, the fastest proven kernel runs it.

A sealed chunk is cut into k data shards of ceil(length / k) bytes, the end
padded with zeros; byte column c of the n shards is exactly the codeword that
``reedsolo.RSCodec(m, nsize=k + m)`` gives for byte column c of the data shards
(systematic Reed-Solomon over GF(2^8), polynomial 0x11d, generator 2, first
consecutive root 0; docs/FORMAT.md, "Erasure code"). Any k shards give the chunk
back. Sealing and keys are unknown here: whoever holds shards can repair them.

All functions may be called from several threads at once.
"""

from __future__ import annotations

from holdfast.protocol.erasure.code import Buffer, decode, encode, encode_many, rebuild
from holdfast.protocol.erasure.kernel import kernel_name

__all__ = ["Buffer", "decode", "encode", "encode_many", "kernel_name", "rebuild"]
