"""The verbs of a person's files: backup, snapshots, ls, restore, check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from holdfast.protocol.terminal import Output, guarded, json_option, option, run

if TYPE_CHECKING:
    from holdfast.client.sdk import AsyncClient

__all__ = ["backup", "check", "coordinator_option", "ls", "open_client", "restore", "snapshots"]


def open_client(coordinator: str | None) -> AsyncClient:
    """A client for this device's account."""
    from holdfast.client.sdk import AsyncClient

    return AsyncClient(coordinator=coordinator)


def coordinator_option(function: Any) -> Any:
    """--coordinator."""
    return option(
        "--coordinator", metavar="URL#ID", help="The cluster's address. Default: the one remembered."
    )(function)


def _quietly(function: Any) -> Any:
    return click.option(
        "--quiet", "-q", is_flag=True, envvar="HOLDFAST_QUIET", help="No progress, no notes."
    )(function)


def clock() -> float:
    """Seconds; the SDK is loaded before the first call, so that rates are those of the work."""
    import holdfast.client.sdk  # noqa: F401
    from holdfast.protocol.clock import SYSTEM

    return SYSTEM.monotonic()


# The account


def _percent(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """0 to 100, with or without the sign."""
    try:
        number = float(value.strip().removesuffix("%"))
    except ValueError:
        number = -1.0
    if not 0 <= number <= 100:
        raise click.BadParameter(f"{value!r} is not a percentage from 0 to 100.", ctx, param)
    return number


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(readable=False))
@coordinator_option
@option(
    "--tag",
    "tags",
    multiple=True,
    envvar="HOLDFAST_TAG",
    help="A word to find the snapshot by; may be repeated.",
)
@option("--exclude", multiple=True, metavar="PATTERN", help="Leave out what matches (as in .gitignore).")
@option("--exclude-file", type=click.Path(path_type=Path), help="Patterns from a file, one a line.")
@option("--one-file-system", is_flag=True, help="Do not look into mounted filesystems.")
@option("--dry-run", is_flag=True, help="Count what would be done; send nothing.")
@_quietly
@json_option
@guarded
def backup(
    paths: tuple[str, ...],
    coordinator: str | None,
    tags: tuple[str, ...],
    exclude: tuple[str, ...],
    exclude_file: Path | None,
    one_file_system: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Back up files and folders."""
    from holdfast.client.bars import count_ahead, progress_bar
    from holdfast.client.exclude import Excluder, read_exclude_file
    from holdfast.client.show import show_backup
    from holdfast.client.walk import normal_roots

    output = Output(as_json, quiet)
    patterns = [*exclude, *(read_exclude_file(exclude_file) if exclude_file else ())]
    roots = normal_roots(paths)
    started = clock()

    async def work(moved: Any) -> Any:
        async with open_client(coordinator) as client:
            made = await client.backup(
                *roots,
                tags=tags,
                exclude=patterns,
                one_file_system=one_file_system,
                dry_run=dry_run,
                on_progress=moved,
            )
            return made, client.wire_bytes

    with (
        progress_bar(output, "Backing up") as bar,
        count_ahead(roots, Excluder(patterns), one_file_system, bar) as moved,
    ):
        snapshot, wire_bytes = run(lambda: work(moved), transfers=True)
    show_backup(output, snapshot, clock() - started, dry_run=dry_run, wire_bytes=wire_bytes)


@click.command()
@coordinator_option
@json_option
@guarded
def snapshots(coordinator: str | None, as_json: bool) -> None:
    """List the account's snapshots, oldest first."""
    from holdfast.client.show import show_snapshots

    async def work() -> Any:
        async with open_client(coordinator) as client:
            return await client.snapshots()

    show_snapshots(Output(as_json), run(work))


def _narrowed(function: Any) -> Any:
    function = option("--device", help="'latest' of this device (name, or beginning of its id).")(function)
    return option("--path", "of_path", envvar="HOLDFAST_PATH", help="'latest' that backed up this path.")(
        function
    )


@click.command()
@click.argument("reference", metavar="SNAP[:PATH]", default="latest")
@coordinator_option
@_narrowed
@json_option
@guarded
def ls(
    reference: str, coordinator: str | None, device: str | None, of_path: str | None, as_json: bool
) -> None:
    """List what a snapshot holds."""
    from holdfast.client.show import entry_fields, entry_line
    from holdfast.client.snapshots import split_reference
    from holdfast.protocol.errors import NotFound

    output = Output(as_json)
    wanted, prefix = split_reference(reference)

    async def work() -> int:
        count = 0
        async with open_client(coordinator) as client:
            chosen = await client.find(wanted, device=device, path=of_path)
            async for entry in client.entries(chosen, prefix):
                count += 1
                output.say(entry_line(entry))
                if output.json:
                    output.status(**entry_fields(entry))
        return count

    count = run(work)
    if not count and prefix:
        raise NotFound(f"there is nothing at {prefix} in that snapshot")
    output.summary(entries=count)


@click.command()
@click.argument("reference", metavar="SNAP[:PATH]")
@option("--target", required=True, type=click.Path(readable=False), help="The folder to restore into.")
@coordinator_option
@_narrowed
@option("--include", multiple=True, metavar="PATTERN", help="Only what matches; may be repeated.")
@option("--verify", is_flag=True, help="Read every file again from disk and compare.")
@option(
    "--overwrite",
    type=click.Choice(["always", "if-changed", "if-newer", "never"]),
    default="never",
    show_default=True,
    help="What to do with files that are there.",
)
@_quietly
@json_option
@guarded
def restore(
    reference: str,
    target: str,
    coordinator: str | None,
    device: str | None,
    of_path: str | None,
    include: tuple[str, ...],
    verify: bool,
    overwrite: Any,
    quiet: bool,
    as_json: bool,
) -> None:
    """Put files of a snapshot back.

    SNAP is 'latest' or the beginning of an id; SNAP:PATH restores what lies in PATH directly
    below the target.
    """
    from holdfast.client.bars import progress_bar
    from holdfast.client.show import show_restore
    from holdfast.client.snapshots import split_reference

    output = Output(as_json, quiet)
    wanted, prefix = split_reference(reference)
    started = clock()

    async def work(moved: Any) -> Any:
        from msgspec.structs import replace

        from holdfast.client.loading import load_ahead

        async with open_client(coordinator) as client:
            load_ahead("holdfast.client.download", "holdfast.client.restore")
            chosen = await client.find(wanted, device=device, path=of_path)

            def with_total(progress: Any) -> None:
                moved(replace(progress, total_bytes=0 if prefix or include else chosen.bytes))

            report = await client.restore(
                chosen,
                target,
                path=prefix,
                include=include,
                verify=verify,
                overwrite=overwrite,
                on_progress=with_total if moved else None,
            )
            return report, client.wire_bytes

    with progress_bar(output, "Restoring") as bar:
        report, wire_bytes = run(lambda: work(bar), transfers=True)
    show_restore(output, report, clock() - started, target, wire_bytes=wire_bytes)


@click.command()
@click.argument("reference", metavar="SNAP", default="latest")
@coordinator_option
@_narrowed
@option("--read-data", is_flag=True, help="Fetch, decode and open every chunk.")
@option("--sample", default="0", callback=_percent, metavar="PERCENT", help="Do so with so many percent.")
@_quietly
@json_option
@guarded
def check(
    reference: str,
    coordinator: str | None,
    device: str | None,
    of_path: str | None,
    read_data: bool,
    sample: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Verify that a snapshot can be restored."""
    from holdfast.client.bars import progress_bar
    from holdfast.client.show import show_check

    output = Output(as_json, quiet)
    started = clock()

    async def work(moved: Any) -> Any:
        async with open_client(coordinator) as client:
            chosen = await client.find(reference, device=device, path=of_path)
            return await client.check(chosen, read_data=read_data, sample=sample, on_progress=moved)

    with progress_bar(output, "Checking") as bar:
        report = run(lambda: work(bar), transfers=True)
    show_check(output, report, clock() - started)
