"""Exclude patterns, in the manner of .gitignore.

- ``*`` and ``?`` match within a name, ``**`` any number of folders, ``[a-z]`` a set;
- a pattern without a slash matches a name at any depth; one with a slash inside matches at any depth, too,
  but several names in a row; one that begins with a slash is an absolute path;
- a slash at the end matches folders only; ``!`` takes a match back; the last pattern that matches decides;
- ``#`` begins a comment in a file. What is excluded is not looked into.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from holdfast.protocol.errors import BadRequest

__all__ = ["Excluder", "read_exclude_file"]


def _translate(pattern: str) -> str:
    """The regular expression of a pattern's body."""
    made, at = [], 0
    while at < len(pattern):
        character = pattern[at]
        if pattern.startswith("**/", at):
            made.append("(?:[^/]+/)*")
            at += 3
            continue
        if pattern.startswith("**", at):
            made.append(".*")
            at += 2
            continue
        if character == "*":
            made.append("[^/]*")
        elif character == "?":
            made.append("[^/]")
        elif character == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\")
            made.append("[" + ("^" + inside[1:] if inside[0] in "!^" else inside) + "]")
            at = end
        elif character == "\\" and at + 1 < len(pattern):
            at += 1
            made.append(re.escape(pattern[at]))
        else:
            made.append(re.escape(character))
        at += 1
    return "".join(made)


class Excluder:
    """Compiled patterns.

    Raises:
        BadRequest: a pattern is empty or not valid.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._rules: list[tuple[re.Pattern[str], bool, bool]] = []
        for pattern in patterns:
            taken_back = pattern.startswith("!")
            body = pattern[1:] if taken_back else pattern
            folders_only = body.endswith("/")
            body = body.rstrip("/")
            if not body:
                raise BadRequest(f"{pattern!r} is not an exclude pattern")
            lead = "/" if body.startswith("/") else "(?:.*/)"
            try:
                compiled = re.compile(lead + _translate(body.lstrip("/")), re.DOTALL)
            except re.error as error:
                raise BadRequest(f"{pattern!r} is not an exclude pattern", why=str(error)) from None
            self._rules.append((compiled, folders_only, taken_back))

    def __bool__(self) -> bool:
        return bool(self._rules)

    def excludes(self, path: bytes, is_folder: bool) -> bool:
        """Is this absolute path excluded?"""
        text = os.fsdecode(path)
        for compiled, folders_only, taken_back in reversed(self._rules):
            if (is_folder or not folders_only) and compiled.fullmatch(text):
                return not taken_back
        return False


def read_exclude_file(path: Path) -> list[str]:
    """The patterns in a file, one a line.

    Raises:
        BadRequest: it cannot be read.
    """
    try:
        lines = path.read_text(errors="surrogateescape").splitlines()
    except OSError as error:
        raise BadRequest(f"cannot read the exclude file {path}", why=error.strerror or "") from error
    return [line.rstrip() for line in lines if line.strip() and not line.startswith("#")]
