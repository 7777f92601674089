"""The verbs of an account: init, recover, status; and version."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from holdfast.client.command import coordinator_option, open_client
from holdfast.protocol.terminal import Output, guarded, json_option, option, run

__all__ = ["init", "recover", "status", "version"]


@click.command()
@option(
    "--invite-file",
    type=click.Path(path_type=Path),
    help="A file with the invite. Default: HOLDFAST_INVITE, or ask.",
)
@option(
    "--recovery-file", type=click.Path(path_type=Path), help="Write the recovery code to this file (0600)."
)
@option("--device-name", help="How this device is listed. Default: the host's name.")
@json_option
@guarded
def init(
    invite_file: Path | None, recovery_file: Path | None, device_name: str | None, as_json: bool
) -> None:
    """Create an account and print its recovery code.

    The code is the only way back when all devices are lost: keep it on paper, away from the computer.
    """
    from holdfast.client.home import Home
    from holdfast.protocol.errors import Conflict, HoldfastError

    output = Output(as_json)
    home = Home.default()
    pending = home.joining() is not None
    if recovery_file is not None and recovery_file.exists() and not pending and not home.has_account:
        raise Conflict(f"{recovery_file} is there already", do="Name a file that does not exist yet.")
    invite = None if home.has_account else _invite(invite_file)
    shown: list[str] = []

    def show_code(code: str, text: str) -> None:
        if recovery_file is not None:
            _write_new(recovery_file, text)
        elif as_json:
            # Before anything is registered: an account whose code nobody has seen must not come to be.
            output.status(event="recovery_code", recovery_code=code)
        else:
            _print_code(output, code)
        shown.append(code)

    async def work() -> Any:
        async with open_client(None) as client:
            return await client.init(invite, device_name=device_name, show_code=show_code)

    try:
        made = run(work)
    except HoldfastError:
        if shown and home.joining() is None:
            # The cluster refused for good: this code belongs to no account.
            if recovery_file is not None:
                recovery_file.unlink(missing_ok=True)
            else:
                output.note("The recovery code shown above belongs to no account: throw it away.")
        elif shown:
            output.note("Keep that recovery code; run 'holdfast init' again to finish.")
        raise
    if made.resumed:
        output.note(
            "Finished an init that was interrupted: the recovery code it gave out then is the valid one."
        )
    elif recovery_file is not None:
        output.say(f"The recovery code is in {recovery_file}. Put it on paper and take it off this computer.")
    output.say(f"Account {made.account.short} is ready. Next: holdfast backup PATH")
    output.summary(
        account=made.account.hex(),
        coordinator=str(made.address),
        resumed=made.resumed,
        recovery_file=str(recovery_file) if recovery_file is not None and shown else None,
        recovery_code=made.recovery_code if shown and recovery_file is None else None,
    )


def _invite(invite_file: Path | None) -> str | None:
    from holdfast.protocol.errors import BadRequest

    if invite_file is not None:
        try:
            return invite_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise BadRequest(f"cannot read the invite in {invite_file}", why=why or "") from error
    if not os.environ.get("HOLDFAST_INVITE") and sys.stdin.isatty():
        return str(click.prompt("Invite", hide_input=True, err=True))
    return None


def _write_new(path: Path, text: str) -> None:
    """The recovery file, durably, 0600, never over another one."""
    from holdfast.protocol.errors import BadRequest

    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadRequest(
            f"cannot write the recovery file {path}",
            why=error.strerror or "",
            do="Nothing was registered; name another.",
        ) from error


def _print_code(output: Output, code: str) -> None:
    groups = code.split("-")
    output.say("Your recovery code:")
    output.say()
    for start in range(0, len(groups), 3):
        output.say("    " + "  ".join(groups[start : start + 3]))
    output.say()
    output.say("Write it down now and keep it safe. With it, everything returns on any device;")
    output.say("without it and without this device, nobody can ever read your backups.")
    output.say()
    if not output.json and sys.stdout.isatty():
        import segno

        segno.make(code, error="m").terminal(compact=True)
        output.say()


@click.command()
@coordinator_option
@option(
    "--recovery-file", type=click.Path(path_type=Path), help="The recovery file. Default: ask for the code."
)
@option("--device-name", help="How this device is listed. Default: the host's name.")
@json_option
@guarded
def recover(
    coordinator: str | None, recovery_file: Path | None, device_name: str | None, as_json: bool
) -> None:
    """Set this device up from the recovery code."""
    from holdfast.protocol.errors import BadRequest

    output = Output(as_json)
    code = text = None
    if recovery_file is not None:
        try:
            text = recovery_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise BadRequest(f"cannot read the recovery file {recovery_file}", why=why or "") from error
    else:
        if coordinator is None and sys.stdin.isatty():
            coordinator = click.prompt("Cluster's address (URL#id)", err=True)
        code = _typed_code()

    def confirm(address: Any) -> bool:
        output.note(f"The cluster at {address.url} has the id\n  {address.cluster}")
        return sys.stdin.isatty() and click.confirm("Is that your cluster?", err=True)

    async def work() -> Any:
        async with open_client(coordinator) as client:
            return await client.recover(
                code, recovery_file=text, device_name=device_name, confirm_cluster=confirm
            )

    found = run(work)
    if found.corrected:
        output.note(
            f"{found.corrected} characters of the code were wrong or unreadable and have been put right."
        )
    output.say(f"This device belongs to account {found.account.short} now.")
    if found.snapshot is None:
        output.say("It has no snapshot yet.")
    else:
        when = found.snapshot.time.astimezone().strftime("%Y-%m-%d %H:%M")
        output.say(
            f"Newest snapshot: {found.snapshot.id.short} of {when} from {found.snapshot.device_name} "
            f"(head {found.head_seq})."
        )
        if found.witnesses is not None:
            output.say(
                f"{found.witnesses[0]} of its {found.witnesses[1]} witnesses confirm that it is the newest."
            )
        output.say("Next: holdfast restore latest --target DIR")
    output.summary(
        account=found.account.hex(),
        coordinator=str(found.address),
        corrected=found.corrected,
        head_seq=found.head_seq,
        witnesses=list(found.witnesses) if found.witnesses is not None else None,
        snapshot=found.snapshot.id.hex() if found.snapshot else None,
    )


def _typed_code() -> str:
    """From a terminal until nine groups are there, from a pipe everything."""
    if not sys.stdin.isatty():
        return sys.stdin.read()
    click.echo("Recovery code (nine groups of eight; '?' for a character you cannot read):", err=True)
    typed = ""
    while len(typed.replace("-", "").replace(" ", "")) < 72:
        line = click.prompt("", prompt_suffix="> ", default="", show_default=False, err=True)
        if not line:
            break
        typed += line
    return typed


# Backing up and looking


@click.command()
@coordinator_option
@option("--strict", is_flag=True, help="Exit with 21 unless everything is safe.")
@json_option
@guarded
def status(coordinator: str | None, strict: bool, as_json: bool) -> None:
    """Show the account and whether its backups are safe."""
    from holdfast.client.show import show_status

    async def work() -> Any:
        async with open_client(coordinator) as client:
            return await client.status()

    show_status(Output(as_json), run(work), strict=strict)


@click.command()
@json_option
@guarded
def version(as_json: bool) -> None:
    """Show versions and the erasure kernel in use."""
    import platform

    from holdfast.protocol.erasure import kernel_name
    from holdfast.protocol.program import program_version

    output = Output(as_json)
    kernel = kernel_name()
    output.say(f"holdfast {program_version()}, formats v1, Python {platform.python_version()}")
    output.say(f"erasure kernel: {kernel}")
    output.summary(version=program_version(), format=1, python=platform.python_version(), kernel=kernel)
