"""What every command of every part shares on the terminal.

Data goes to stdout, progress and logs to stderr. With ``--json`` stdout carries
JSON lines with ``message_type`` = status, summary or error. A HoldfastError
becomes "Error: what, because why." with the next step below it, and its exit
code; Ctrl-C is 130. The event loop is chosen here and nowhere else.
Everything heavy is imported when it is used: ``holdfast --help`` needs click only.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, ParamSpec, TypeVar

import click

if TYPE_CHECKING:
    from holdfast.protocol.errors import HoldfastError

    _IntType = click.ParamType[int]
else:
    _IntType = click.ParamType  # generic only in newer versions of click

__all__ = [
    "BYTES",
    "Output",
    "configure_logging",
    "end_in_order",
    "guarded",
    "human_bytes",
    "human_count",
    "json_option",
    "look_for_garbage",
    "option",
    "printable",
    "run",
]

P = ParamSpec("P")
T = TypeVar("T")

INTERRUPTED_EXIT = 130
_COLLECT_AFTER = (20_000, 20, 50)
"""When cycles are looked for (gc.set_threshold): by default a large tree is walked many times over."""
TERMINATED_EXIT = 143


def option(*names: str, **settings: Any) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """click.option with the environment variable HOLDFAST_<NAME> shown in the help."""
    long = next(name for name in names if name.startswith("--"))
    settings.setdefault("envvar", "HOLDFAST_" + long[2:].split("/")[0].upper().replace("-", "_"))
    settings.setdefault("show_envvar", settings["envvar"] is not None)
    return click.option(*names, **settings)


def json_option(function: Callable[P, T]) -> Callable[P, T]:
    """Adds ``--json``; the command gets it as the argument ``as_json``."""
    return click.option(
        "--json", "as_json", is_flag=True, envvar="HOLDFAST_JSON", help="Print JSON lines for programs."
    )(function)


class _ByteCount(_IntType):
    """A number of bytes, with an optional unit: 500M, 2GiB."""

    name = "bytes"
    _UNITS: ClassVar = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4, "P": 1024**5}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).strip().upper().removesuffix("IB").removesuffix("B")
        unit = text[-1:] if text[-1:].isalpha() else ""
        number = text[: len(text) - len(unit)].strip()
        if unit not in self._UNITS or not number.isdecimal():
            self.fail(f"{value!r} is not a number of bytes; write it like 500M or 2GiB.", param, ctx)
        return int(number) * self._UNITS[unit]


BYTES = _ByteCount()


class Output:
    """Where a command says things, to people or to programs."""

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.json = as_json
        self.quiet = quiet

    def say(self, text: str = "") -> None:
        """A line of the result for people (stdout)."""
        if not self.json:
            click.echo(printable(text))

    def note(self, text: str) -> None:
        """A line about the work for people (stderr)."""
        if not self.json and not self.quiet:
            click.echo(printable(text), err=True)

    def status(self, **fields: Any) -> None:
        """A JSON line of the result."""
        self._line("status", fields)

    def summary(self, **fields: Any) -> None:
        """The last JSON line of the result."""
        self._line("summary", fields)

    def _line(self, kind: str, fields: dict[str, Any]) -> None:
        if self.json:
            import json

            click.echo(json.dumps({"message_type": kind, **fields}, ensure_ascii=True, default=_jsonable))

    def fail(self, error: Any) -> NoReturn:
        """Tell a HoldfastError and leave with its exit code."""
        if self.json:
            self._line(
                "error",
                {
                    "code": error.code,
                    "message": error.what,
                    "why": error.why,
                    "do": error.do,
                    "exit_code": error.exit_code,
                    **{k: v for k, v in error.details.items() if k not in ("code", "message", "exit_code")},
                },
            )
        else:
            because = f", because {error.why.rstrip('.')}" if error.why else ""
            click.echo(printable(f"Error: {error.what.rstrip('.')}{because}."), err=True)
            if error.do:
                click.echo(printable(f"  Next: {error.do}"), err=True)
        sys.exit(error.exit_code)

    def interrupted(self) -> NoReturn:
        """Ctrl-C: say so, and leave."""
        self.note("Interrupted.")
        do = "Run it again: what was done so far is not done twice."
        told = {"code": "interrupted", "message": "interrupted", "why": "", "do": do}
        self._line("error", {**told, "exit_code": INTERRUPTED_EXIT})
        sys.exit(INTERRUPTED_EXIT)

    @property
    def for_person(self) -> bool:
        """Is somebody watching? Then progress bars make sense (on stderr)."""
        return not self.json and not self.quiet and sys.stderr.isatty()


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return os.fsdecode(value) if len(value) not in (16, 32) else value.hex()
    return str(value)


def guarded(function: Callable[..., T]) -> Callable[..., T]:
    """Turns a command's HoldfastError into message and exit code, Ctrl-C into 130."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> T:
        from holdfast.protocol.errors import HoldfastError

        output = Output(bool(kwargs.get("as_json")), bool(kwargs.get("quiet")))
        try:
            return function(*args, **kwargs)
        except HoldfastError as error:
            output.fail(error)
        except (KeyboardInterrupt, click.Abort):  # click's own: Ctrl-C or Ctrl-D at a prompt
            output.interrupted()
        except BrokenPipeError:
            # Whoever read stdout has gone (`| head`): nothing more to say, and no trace.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            output.fail(_of_system(error))

    return wrapped


def _of_system(error: OSError) -> HoldfastError:
    """What the operating system refused, told like any other error; a full disk is "no room"."""
    import errno

    from holdfast.protocol.errors import HoldfastError, NoRoom

    where = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom(
            f"the disk of{where or ' this machine'} is full", do="Free some room, then run it again."
        )
    return HoldfastError(
        f"the system refused access to{where}" if where else "the system refused something",
        why=error.strerror or str(error),
        do="Check the path, its permissions and its filesystem.",
    )


def look_for_garbage() -> None:
    """From here on: the console script loads everything without. Commands that do not :func:`run` call it."""
    import gc

    gc.freeze()  # what is imported by now stays: the collector need not walk it again and again
    gc.set_threshold(*_COLLECT_AFTER)
    gc.enable()


def end_in_order() -> None:
    """SIGTERM ends this process as Ctrl-C does, with 143: what it has running ends, too. See :func:`run`."""
    import signal
    import sys

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def run(work: Callable[[], Coroutine[Any, Any, T]], *, transfers: bool = False) -> T:
    """Run a coroutine; a process entry point. SIGTERM ends it as Ctrl-C does: in order.

    Args:
        transfers: on uvloop, which moves much data with less work. Loading it, with TLS that is not used, is
            a tenth of what a command takes that only asks something: that is left to asyncio's own loop.

    Raises:
        SystemExit: 143 after SIGTERM.
    """
    import asyncio
    import signal

    from holdfast.protocol.memory import keep_freed_memory

    keep_freed_memory()
    look_for_garbage()
    stopped = False

    async def until_done() -> T:
        task = asyncio.current_task()
        assert task is not None

        def stop() -> None:
            nonlocal stopped
            stopped = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        return await work()

    new_loop = asyncio.new_event_loop
    if transfers:
        from uvloop import new_event_loop as new_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        try:
            return runner.run(until_done())
        except asyncio.CancelledError:
            if stopped:
                raise SystemExit(TERMINATED_EXIT) from None
            raise


def configure_logging(as_json: bool, level: str = "info") -> None:
    """structlog to stderr: readable on a terminal, JSON lines otherwise when asked.

    A server calls this before it loads anything that logs: structlog then does without rich, with which it
    would draw tracebacks that are told as text here (5 MiB in every server).
    """
    import logging

    from holdfast.protocol.optional_imports import passed_over

    with passed_over("rich"):
        import structlog

    numeric = logging.getLevelNamesMapping()[level.upper()]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and "NO_COLOR" not in os.environ)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


def printable(text: str) -> str:
    """The text as a terminal may get it: servers, files and other devices choose parts of what is said, and
    control characters of theirs would move the cursor or change what stands there. Lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def human_bytes(count: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the loop returns")


def human_count(count: int, one: str, many: str | None = None) -> str:
    """(1, "file") -> "1 file"; (1234, "file") -> "1,234 files"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
