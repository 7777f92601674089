"""Test vectors: how each topic's input is read, and the cases that are written.

    cd tests && python -m support.vectors        write tests/vectors/ anew

A case names its outcome: "ok", with what is expected, or the error. Good inputs are made by
the code from fixed keys, bad ones by a named manipulation; what comes of them is declared
by hand. Files whose input holds an HPKE ciphertext or a zstd frame ("kept") are only written
when they are not there: those bytes are not the same twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from support.vectors.account_cases import ACCOUNT_CASES
from support.vectors.case import FOLDER, Case, load
from support.vectors.chain_cases import CHAIN_CASES
from support.vectors.cluster_cases import CLUSTER_CASES
from support.vectors.content_cases import CONTENT_CASES
from support.vectors.readers import READERS, run
from support.vectors.witness_cases import WITNESS_CASES

__all__ = ["FOLDER", "READERS", "Case", "cases", "load", "run", "write"]


def cases() -> Iterator[Case]:
    """Every case, with what is expected filled in by the code."""
    for made in (*ACCOUNT_CASES, *CHAIN_CASES, *CLUSTER_CASES, *CONTENT_CASES, *WITNESS_CASES):
        for case in made():
            outcome, case.expected = run(case)
            assert outcome == case.outcome, f"{case.topic}/{case.name}: {outcome}, not {case.outcome}"
            yield case


def write() -> int:
    """Write what is new or has changed; gives how many cases there are."""
    count = 0
    for case in cases():
        count += 1
        if case.kept and case.path.exists():
            continue
        case.path.parent.mkdir(parents=True, exist_ok=True)
        case.path.write_text(case.text())
    return count
