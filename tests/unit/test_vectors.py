"""Every vector has the outcome it names, and no format drifts away from its vectors unnoticed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import vectors

FILES = sorted(vectors.FOLDER.glob("*/*.json"))
ALWAYS_GOOD = {"padme", "cutting"}
"""There is no length and no stream that they refuse."""
FORMAT = Path(__file__).resolve().parents[2] / "docs" / "FORMAT.md"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_vector_has_the_outcome_it_names(path: Path) -> None:
    case = vectors.load(path)
    assert vectors.run(case) == (case.outcome, case.expected if case.outcome == "ok" else {})


def test_the_files_are_what_the_generator_writes() -> None:
    made = {case.path: case for case in vectors.cases()}
    assert set(made) == set(FILES), "run 'python -m support.vectors' in tests/, and say why in the commit"
    for path, case in made.items():
        if not case.kept:
            assert path.read_text() == case.text(), path
            continue
        # Its input is not the same twice (HPKE, zstd); what it is about and what comes of it is.
        kept = vectors.load(path)
        assert kept.kept
        assert kept.input.keys() == case.input.keys(), path
        assert (kept.about, kept.outcome, kept.expected) == (case.about, case.outcome, case.expected), path


def test_every_topic_has_good_and_bad_cases_and_a_place_in_the_specification() -> None:
    told = re.findall(r"^Vectors: (.+)\.$", FORMAT.read_text(), re.MULTILINE)
    named = {topic.strip("`") for line in told for topic in line.split(", ")}
    topics = {path.parent.name for path in FILES}
    assert named == topics == set(vectors.READERS)
    for topic in topics - ALWAYS_GOOD:
        outcomes = {vectors.load(path).outcome for path in FILES if path.parent.name == topic}
        assert "ok" in outcomes and len(outcomes) > 1, topic
