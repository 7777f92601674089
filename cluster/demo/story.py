"""Telling the demo: one or two lines a step, with a mark; colours only where they help."""

from __future__ import annotations

import os
import sys

import click

from holdfast.protocol.terminal import Output

__all__ = ["Story"]


class Story:
    """Lines for people; silent when the output is for programs."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.failed = 0

    def _styled(self, text: str, **style: object) -> str:
        return click.style(text, **style) if self._colours else text  # type: ignore[arg-type]

    def title(self, text: str) -> None:
        """What is about to be shown."""
        self._output.say(self._styled(text, bold=True))
        self._output.say()

    def step(self, text: str, detail: str = "") -> None:
        """Something that was done."""
        self._output.say(f"{self._styled('•', fg='cyan')} {text}")
        self._detail(detail)

    def verdict(self, held: bool, text: str, detail: str = "") -> bool:
        """Something that was proven, or not."""
        mark = self._styled("✓", fg="green", bold=True) if held else self._styled("✗", fg="red", bold=True)
        self._output.say(f"{mark} {text}")
        self._detail(detail)
        if not held:
            self.failed += 1
        return held

    def _detail(self, detail: str) -> None:
        for line in detail.splitlines():
            self._output.say(f"    {self._styled(line, dim=True)}")

    def end(self, text: str) -> None:
        """The last word."""
        self._output.say()
        self._output.say(self._styled(text, bold=True, fg="red" if self.failed else "green"))
