"""Cases of content: padding, sealing, stripes, shard records, manifest pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from msgspec.structs import replace

from holdfast.client.entries import Entry, Extent
from holdfast.client.manifest import ManifestWriter
from holdfast.client.sealing import PlainId, SealedChunk, open_chunk, seal
from holdfast.client.sealing import padme as padme_length
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol import erasure
from holdfast.protocol.ids import ChunkId, UploadId
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of
from support.vectors.case import KEYS, ROOT, Case, Values, flipped


def padme() -> Iterator[Case]:
    for length in (0, 1, 2, 5, 8, 9, 100, 1000, 4096, 65_537, 1_048_581, 4_194_304):
        yield Case("padme", str(length), f"{length} bytes", {"length": length})


def sealing_keys() -> Values:
    """What a reader opens chunks with."""
    return {"k_id": KEYS.sealing.id_key.hex(), "k_chunk": KEYS.sealing.chunk_key.hex()}


def forged(p: bytes, commitment: bytes = b"") -> Values:
    """Sealed by somebody who has the keys and does not keep the rules."""
    pid = blake3(p, key=KEYS.sealing.id_key).digest()
    made = HKDFExpand(SHA512(), 64, b"holdfast/v1/chunk\0\1" + pid).derive(KEYS.sealing.chunk_key)
    lead = b"\1" + (commitment or made[32:])
    sealed = lead + AESGCM(made[:32]).encrypt(bytes(12), p, lead)
    return {"pid": pid.hex(), "sealed": sealed.hex(), "chunk_id": blake3(sealed).hexdigest()}


def _padded(body: bytes) -> bytes:
    """p with a compressed body."""
    p = b"\1" + len(body).to_bytes(4, "big") + body
    return p.ljust(padme_length(len(p)), b"\0")


def _zstd_frame(content: bytes) -> bytes:
    """A frame of one raw block (RFC 8878, section 3.1.1), the same from every version of every library."""
    lead = b"\x28\xb5\x2f\xfd\x20" + bytes([len(content)])
    return lead + (len(content) << 3 | 1).to_bytes(3, "little") + content


_ZSTD_BOMB = (
    # No content size, a window of 128 KiB, 64 run-length blocks of 128 KiB each, the last one marked.
    b"\x28\xb5\x2f\xfd\x00\x38"
    + ((128 * 1024 << 3 | 2).to_bytes(3, "little") + b"\0") * 63
    + (128 * 1024 << 3 | 3).to_bytes(3, "little")
    + b"\0"
)


def _renamed(sealed: bytes) -> Values:
    return {"sealed": sealed.hex(), "chunk_id": blake3(sealed).hexdigest()}


def sealing() -> Iterator[Case]:
    made = seal(KEYS.sealing, b"memory", compress=False)

    def case(
        name: str,
        about: str,
        outcome: str = "IntegrityFailure",
        *,
        chunk: SealedChunk = made,
        kept: bool = False,
        **given: Any,
    ) -> Case:
        values = {
            **sealing_keys(),
            "chunk_id": chunk.chunk_id.hex(),
            "pid": chunk.pid.hex(),
            "plain_bytes": chunk.plain_bytes,
            "sealed": chunk.sealed.hex(),
        }
        return Case("sealing", name, about, {**values, **given}, outcome, kept)

    for length in (0, 1, 11, 27, 28, 200):
        plain = bytes(i * 7 % 256 for i in range(length))
        chunk = seal(KEYS.sealing, plain, compress=False)
        yield case(f"stored-{length}", f"{length} bytes, not compressed", "ok", chunk=chunk)
    squeezed = seal(KEYS.sealing, b"holdfast " * 500)
    yield case("zstd", "4,500 bytes, compressed", "ok", chunk=squeezed, kept=True)
    yield case("zstd-longer", "more than the snapshot says", chunk=squeezed, kept=True, plain_bytes=4499)
    sealed = made.sealed
    yield case("other-chunk-id", "not the chunk id's bytes", sealed=flipped(sealed, -1).hex())
    yield case("other-version", "version 2", **_renamed(b"\2" + sealed[1:]))
    yield case("other-commitment", "one bit of the commitment differs", **_renamed(flipped(sealed, 1)))
    free = forged(b"\0\0\0\0\6memory\0", commitment=b"\x13" * 32)
    yield case("free-commitment", "any commitment, and a tag that holds over it", **free)
    yield case("other-tag", "one bit of the tag differs", **_renamed(flipped(sealed, -1)))
    yield case("other-ciphertext", "one bit of the ciphertext differs", **_renamed(flipped(sealed, 40)))
    yield case("cut-off", "shorter than the least", **_renamed(sealed[:53]))
    yield case("other-pid", "another plain id: another key", pid="01" * 32)
    yield case("other-k-chunk", "another account's K_chunk", k_chunk="01" * 64)
    yield case("other-k-id", "another account's K_id: the pid does not fit", k_id="01" * 32)
    yield case("other-length", "one byte less than the snapshot says", plain_bytes=7)
    yield case("padding-not-zero", "the padding holds a one", **forged(b"\0\0\0\0\6memory\1"))
    longer = {"plain_bytes": 22, **forged(b"\0\0\0\0\x16" + b"m" * 22)}
    yield case("padding-short", "less padding than Padmé's", **longer)
    yield case("padding-long", "more padding than Padmé's", **forged(b"\0\0\0\0\6memory" + bytes(5)))
    yield case("inner-length", "the inner length reaches beyond p", **forged(b"\0\0\0\0\xffmemory\0"))
    yield case("other-how", "a compression that is not known", **forged(b"\2\0\0\0\6memory\0"))
    yield case("not-zstd", "said to be zstd, and is not", **forged(b"\1\0\0\0\6memory\0"))
    frame, padded = _zstd_frame(b"memory"), b"\0" * 9
    six = {"plain_bytes": 6}
    yield case("zstd-raw", "another encoder's frame", "ok", **forged(_padded(frame)), **six)
    yield case("zstd-cut-off", "a frame without its end", **forged(_padded(frame[:-1])), **six)
    yield case(
        "zstd-two-frames",
        "a frame behind the frame",
        **forged(_padded(frame * 2)),
        plain_bytes=12,
    )
    yield case("zstd-trailing", "zeros that belong to the body", **forged(_padded(frame + padded)), **six)
    bomb = forged(_padded(_ZSTD_BOMB))
    yield case("zstd-bomb", "8 MiB where 100 bytes were expected", **bomb, plain_bytes=100)
    yield case("zstd-negative", "a length below zero is no licence", **bomb, plain_bytes=-2)


def stripe() -> Iterator[Case]:
    content = bytes(i * i % 251 for i in range(101))
    for k, m in ((1, 1), (2, 1), (4, 2), (10, 4), (20, 10)):
        yield Case("erasure", f"{k}+{m}", f"a {k}+{m} stripe", {"k": k, "m": m, "sealed": content.hex()})
    yield Case("erasure", "short", "fewer bytes than data shards", {"k": 4, "m": 2, "sealed": "0102"})
    shards = [bytes(shard) for shard in erasure.encode(Profile(4, 2), content)]

    def decoding(name: str, about: str, chosen: dict[int, bytes], outcome: str = "ok") -> Case:
        given = {str(slot): shard.hex() for slot, shard in chosen.items()}
        values = {"k": 4, "m": 2, "shards": given, "sealed_bytes": 101}
        return Case("erasure", name, about, values, outcome)

    def those(*slots: int) -> dict[int, bytes]:
        return {slot: shards[slot] for slot in slots}

    yield decoding("decode-parity", "two data shards and both parity shards", those(1, 2, 4, 5))
    yield decoding("decode-few", "three shards", those(0, 1, 5), "TooFewShards")
    yield decoding("decode-lengths", "shards of two lengths", {**those(0, 1, 2), 3: b"x"}, "BadRequest")


def shard_record() -> Iterator[Case]:
    sealed = bytes(range(200))
    shards = [bytes(shard) for shard in erasure.encode(Profile(4, 2), sealed)]
    header = StripeHeader(Profile(4, 2), 200, b"".join(digest_of(shard) for shard in shards))
    record = ShardRecord(ROOT.account, ChunkId(digest_of(sealed)), UploadId(b"\x08" * 16), 5, 4, header)
    whole, fixed = record.pack() + shards[4], record.pack()[:-8]

    def case(name: str, about: str, raw: bytes, outcome: str = "IntegrityFailure") -> Case:
        return Case("shard-record", name, about, {"record": raw.hex()}, outcome)

    def proven(changed: bytes) -> bytes:
        return changed + blake3(changed).digest(length=8) + shards[4]

    yield case("good", "a record as nodes store it", whole, "ok")
    yield case("flipped-shard", "one bit of the shard differs", flipped(whole, -1))
    yield case("flipped-header", "one bit of the header differs", flipped(whole, 20))
    yield case("cut-off", "the last byte is missing", whole[:-1])
    yield case("longer", "a byte behind the shard", whole + b"\0")
    yield case("header-only", "no shard", record.pack())
    yield case("other-magic", "another magic", proven(b"HFsx" + fixed[4:]))
    yield case("other-version", "version 2", proven(b"HFsr\2" + fixed[5:]))
    yield case("slot-out-of-range", "slot 6 of a 4+2 stripe", proven(fixed[:93] + b"\6" + fixed[94:]))
    yield case("group-out-of-range", "group 2^63", proven(fixed[:85] + b"\x80" + fixed[86:]))
    yield case("empty", "nothing", b"")
    for name, length in (("too-small", 53), ("too-large", 4_325_426)):
        least = fixed[:96] + length.to_bytes(4, "big") + digest_of(shards[4][:14]) * 6
        about = f"a sealed chunk of {length:,} bytes"
        yield case(name, about, least + blake3(least).digest(length=8) + shards[4][:14])


REF = ChunkRef(PlainId(b"\x10" * 32), ChunkId(b"\x11" * 32), 100, 1)


def _page(*entries: Entry) -> bytes:
    """The plaintext of one page with these entries, whatever they are."""
    pages: list[bytes] = []

    def opened(chunk: SealedChunk) -> None:
        plain = open_chunk(
            KEYS.sealing,
            chunk.sealed,
            chunk_id=chunk.chunk_id,
            pid=chunk.pid,
            plain_bytes=chunk.plain_bytes,
        )
        pages.append(bytes(plain))

    writer = ManifestWriter(KEYS, opened)
    for entry in entries:
        writer.add(entry)
    writer.finish()
    return pages[-1]


def _file(path: bytes, *extents: tuple[int, int]) -> Entry:
    made = tuple(Extent(REF, offset, length) for offset, length in extents)
    size = sum(length for _, length in extents)
    return Entry("file", path, 0o644, 1000, 1000, "ada", "ada", 1, 2, 3, 4, size, extents=made)


def manifest() -> Iterator[Case]:
    def case(
        name: str, about: str, raw: bytes, outcome: str = "IntegrityFailure", after: bytes = b""
    ) -> Case:
        return Case("manifest", name, about, {"page": raw.hex(), "after": after.hex()}, outcome)

    link = Entry("symlink", b"home/b", target=b"a")
    right = _page(Entry("dir", b"home"), _file(b"home/a", (0, 60)), link, _file(b"home/c", (60, 40)))
    more = _page(Entry("more", b"home/c", extents=(Extent(REF, 0, 5),)))
    a, b = _file(b"a", (0, 1)), _file(b"b", (0, 1))
    yield case("good", "a folder, two files, a link", right, "ok")
    yield case("goes-on", "goes on with the file before the page", more, "ok", b"home/c")
    components = _page(_file(b"a/b", (0, 1)), _file(b"a.b", (1, 1)))
    yield case("component-order", "a/b is before a.b: components count, not bytes", components, "ok")
    yield case("not-sorted", "a name before the one before it", _page(b, a))
    yield case("twice", "a path twice", _page(a, a))
    yield case("before-the-page", "a path before the page before", _page(a), after=b"b")
    yield case("goes-on-with-another", "goes on with a file that was not begun", more, after=b"home/b")
    for name, path in (
        ("dot-dot", b"../etc/passwd"),
        ("inner-dot-dot", b"a/../../b"),
        ("absolute", b"/etc/passwd"),
        ("empty-path", b""),
        ("dot", b"./a"),
        ("double-slash", b"a//b"),
        ("zero-byte", b"a\0b"),
        ("long-name", b"n" * 256),
    ):
        yield case(name, "a path that leads elsewhere or nowhere", _page(_file(path, (0, 1))))
    yield case("beyond-chunk", "an extent that reaches beyond its chunk", _page(_file(b"a", (50, 51))))
    yield case("empty-extent", "an extent of no bytes", _page(_file(b"a", (0, 0))))
    yield case("negative-offset", "an extent before its chunk", _page(_file(b"a", (-1, 5))))
    for name, about, holes in (
        ("hole-beyond-size", "a hole that reaches beyond the size", ((5, 6),)),
        ("holes-overlap", "holes that overlap", ((0, 6), (5, 2))),
        ("hole-empty", "a hole of nothing", ((3, 0),)),
    ):
        yield case(name, about, _page(Entry("file", b"a", size=10, holes=holes)))
    folder = _page(Entry("dir", b"a"), Entry("more", b"a", extents=(Extent(REF, 0, 5),)))
    yield case("goes-on-with-a-folder", "only files go on", folder)
    for name, values in (
        ("mode-out-of-range", {"mode": 0o10000}),
        ("owner-out-of-range", {"uid": 2**32 - 1}),
        ("group-out-of-range", {"gid": -1}),
        ("size-negative", {"size": -1}),
        ("size-out-of-range", {"size": 2**63}),
        ("zero-byte-in-attribute", {"xattrs": ((b"user.a\0b", b""),)}),
    ):
        yield case(name, "what no filesystem can hold", _page(replace(Entry("file", b"a"), **values)))
    zero = _page(Entry("symlink", b"a", target=b"a\0b"))
    yield case("zero-byte-in-target", "what no filesystem can hold", zero)
    unpacked = msgpack.unpackb(right)
    unpacked[2][1][18][0][0] = 7
    yield case("unknown-chunk", "an extent of a chunk that the page has not", msgpack.packb(unpacked))
    unpacked = msgpack.unpackb(right)
    unpacked[2][0][0] = "socket"
    yield case("other-kind", "a kind that is not known", msgpack.packb(unpacked))
    yield case("other-version", "version 2", b"\x93\x02" + right[2:])
    yield case("trailing-byte", "a byte behind the page", right + b"\0")


def cutting() -> Iterator[Case]:
    def case(name: str, about: str, seed_text: str, count: int) -> Case:
        given = {"k_cut": KEYS.cut_key.hex(), "blake3_of": seed_text, "bytes": count}
        return Case("cutting", name, about, given)

    yield case("empty", "nothing gives no chunk", "holdfast", 0)
    yield case("short", "the least length is one chunk", "holdfast", 262_144)
    yield case("random", "6 MiB: the first bytes of BLAKE3's output", "holdfast", 6_291_456)
    yield case("other", "5,000,001 bytes of another", "vectors", 5_000_001)


CONTENT_CASES = (padme, sealing, stripe, shard_record, manifest, cutting)
