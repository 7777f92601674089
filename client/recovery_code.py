"""The recovery code: 72 characters that are the account.

    version(1) || R(32) || check(4) || parity(8)      45 bytes = 72 Crockford base32 characters

The parity is Reed-Solomon (``reedsolo.RSCodec(8, nsize=45)``): up to four wrong
bytes, or eight at known places, are put right. Then the check, HKDF-SHA512 of R,
must hold: a code is corrected or refused, never turned silently into another key.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.client.limits import RECOVERY_TEXT_CHARS_MAX
from holdfast.protocol.errors import BadRequest, WrongKey

__all__ = [
    "RecoveredCode",
    "RecoveryFile",
    "decode_recovery_code",
    "encode_recovery_code",
    "parse_recovery_file",
    "render_recovery_file",
]

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES: Final = {c: i for i, c in enumerate(_ALPHABET)} | {"O": 0, "I": 1, "L": 1}
_VERSION: Final = 1
_BYTES: Final = 45
_PARITY: Final = 8
_CHARACTERS: Final = 72
_GROUP: Final = 8


@dataclass(frozen=True, slots=True, repr=False)
class RecoveredCode:
    """The secret of a code, how many characters were put right, and the code as it should read."""

    secret: bytes
    corrected: int
    text: str

    def __repr__(self) -> str:
        return f"RecoveredCode(corrected={self.corrected}, secret hidden)"


@dataclass(frozen=True, slots=True, repr=False)
class RecoveryFile:
    """What a recovery file holds: the code's text and the cluster's address (URL#<cluster id>)."""

    code: str
    address: str

    def __repr__(self) -> str:
        return f"RecoveryFile({self.address}, code hidden)"


def _check(secret: bytes) -> bytes:
    return HKDF(SHA512(), 64, salt=None, info=b"holdfast/v1/recovery-check").derive(secret)[:4]


def _text(raw: bytes) -> str:
    number = int.from_bytes(raw, "big")
    characters = "".join(_ALPHABET[(number >> shift) & 31] for shift in range(5 * (_CHARACTERS - 1), -1, -5))
    return "-".join(characters[i : i + _GROUP] for i in range(0, _CHARACTERS, _GROUP))


def encode_recovery_code(secret: bytes) -> str:
    """Nine groups of eight characters for a 32-byte recovery secret."""
    from reedsolo import RSCodec

    if len(secret) != 32:
        raise ValueError("a recovery secret has 32 bytes")
    raw = bytes((_VERSION,)) + secret + _check(secret)
    return _text(bytes(RSCodec(_PARITY, nsize=_BYTES).encode(raw)))


def decode_recovery_code(text: str) -> RecoveredCode:
    """The secret in a code typed by a person.

    Case, spaces, dashes and line breaks do not matter; O reads as 0, I and L as 1;
    '?' stands for a character that cannot be read.

    Raises:
        WrongKey: another length, a character that is none, or more wrong than can be put right.
    """
    from reedsolo import ReedSolomonError, RSCodec

    if len(text) > RECOVERY_TEXT_CHARS_MAX:
        raise WrongKey("this is too long to be a recovery code", do="It has nine groups of eight characters.")
    typed = re.sub(r"[\s\-–—]", "", text).upper()
    if len(typed) != _CHARACTERS:
        raise WrongKey(
            f"a recovery code has {_CHARACTERS} characters, and this has {len(typed)}",
            do="Type all nine groups of eight; put '?' for a character you cannot read.",
        )
    strange = sorted({c for c in typed if c != "?" and c not in _VALUES})
    if strange:
        raise WrongKey(
            f"a recovery code has no {' '.join(strange)}",
            do="It is written with the digits and the letters except I, L, O and U; '?' for unreadable ones.",
        )
    number, unknown = 0, set()
    for position, character in enumerate(typed):
        number = number << 5 | _VALUES.get(character, 0)
        if character == "?":
            # Five bits touch one byte or two: both are known to be uncertain.
            unknown.update({5 * position // 8, (5 * position + 4) // 8})
    try:
        decoded = RSCodec(_PARITY, nsize=_BYTES).decode(
            number.to_bytes(_BYTES, "big"), erase_pos=sorted(unknown)
        )
    except ReedSolomonError:
        raise _beyond_repair() from None
    raw, whole = bytes(decoded[0]), bytes(decoded[1])
    secret = raw[1:33]
    if raw[0] != _VERSION or not hmac.compare_digest(raw[33:], _check(secret)):
        raise _beyond_repair()
    right = _text(whole)
    corrected = sum(
        a != b and _VALUES.get(a) != _VALUES[b] for a, b in zip(typed, right.replace("-", ""), strict=True)
    )
    return RecoveredCode(secret, corrected, right)


def _beyond_repair() -> WrongKey:
    return WrongKey(
        "this recovery code has more wrong characters than can be put right",
        do="Compare it with the paper or file group by group; mark unreadable characters with '?'.",
    )


def render_recovery_file(code: str, address: str, account: str, made: str) -> str:
    """The text of a recovery file.

    Args:
        code: the recovery code.
        address: URL#<cluster id>.
        account: the account's short id, for people.
        made: a date, for people.
    """
    groups = code.split("-")
    lines = ["    " + " ".join(groups[i : i + 3]) for i in range(0, len(groups), 3)]
    return "\n".join(
        (
            "Holdfast recovery file",
            "",
            "Whoever has this can read and change every backup of the account. Without it, and without",
            "a device that is set up, nobody can: keep it on paper and away from the computer.",
            "",
            f"account: {account}",
            f"made:    {made}",
            f"cluster: {address}",
            "",
            "recovery code:",
            *lines,
            "",
            "On a new device: holdfast recover --recovery-file THIS-FILE",
            "",
        )
    )


def parse_recovery_file(text: str) -> RecoveryFile:
    """Read a recovery file.

    Raises:
        BadRequest: it is not one, or has no cluster address.
    """
    if len(text) > RECOVERY_TEXT_CHARS_MAX or not text.lstrip().startswith("Holdfast recovery file"):
        raise BadRequest(
            "this is not a Holdfast recovery file", do="Or type the code at the prompt: 'holdfast recover'."
        )
    address = re.search(r"^cluster:\s*(\S+)\s*$", text, re.MULTILINE)
    code = re.search(r"^recovery code:\s*\n(.*?)(?:\n\s*\n|\Z)", text, re.MULTILINE | re.DOTALL)
    if not address or not code:
        raise BadRequest("this recovery file is cut off", why="it names no cluster or no code")
    return RecoveryFile(code[1], address[1])
