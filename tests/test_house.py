"""The rules of the house, in one readable test.

Who may import whom, where time and randomness enter, which library lives in which room, which words are not
used as names. docs/architecture.md explains why; this file is what holds it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("protocol", "client", "node", "coordinator", "cluster")
MAY_IMPORT = {
    "protocol": {"protocol"},
    "client": {"protocol", "client"},
    "node": {"protocol", "node"},
    "coordinator": {"protocol", "coordinator"},
    "cluster": set(PARTS),
}
# Library -> the only rooms (path prefixes) where it may be imported.
ROOMS = {
    "lmdb": ("node/store_lmdb",),
    "sqlalchemy": ("coordinator/catalogue/",),
    "alembic": ("coordinator/catalogue/",),
    "aiohttp": ("protocol/serving.py", "protocol/http_others.py"),
    "reedsolo": ("protocol/erasure/", "client/recovery_code.py"),
    "pyfastcdc": ("client/cutting.py",),
    "msgpack": ("protocol/codec.py",),
}
CLOCK = "protocol/clock.py"
CLOCK_NAMES = {
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "monotonic"),
    ("time", "monotonic_ns"),
    ("time", "perf_counter"),
    ("os", "urandom"),
    ("uuid", "uuid4"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
}
NOT_NAMES = re.compile(
    r"(^|_)(blocks?|objects?|blobs?|segments?|fragments?|pieces?|managers?|utils?|helpers?|misc)(_|$)"
)
LINES_WISHED = 400
LINES_MAX = 600
FUNCTION_LINES_WISHED = 60


def sources(*parts: str) -> list[Path]:
    return sorted(path for part in parts or PARTS for path in (ROOT / part).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, also those inside functions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{name_of(path)}:{node.lineno}: import by the installed name, not relatively"
            )
            assert node.module
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_what_its_place_allows(part: str) -> None:
    wrong = []
    for path in sources(part):
        for line, module in imports(path):
            if module.startswith("holdfast."):
                room = module.split(".")[1]
                if room not in MAY_IMPORT[part]:
                    wrong.append(f"{name_of(path)}:{line} imports {module}")
            elif module.split(".")[0] in PARTS:
                wrong.append(f"{name_of(path)}:{line} imports {module}: use holdfast.{module}")
    assert not wrong, "\n".join(wrong)


def test_no_path_leads_from_servers_or_erasure_to_a_key() -> None:
    """Node and coordinator import nothing of the client (above); protocol must then hold no sealing."""
    for path in sources("protocol"):
        for line, module in imports(path):
            assert not re.search(r"ciphers|\.hpke|\.hkdf|x25519", module), (
                f"{name_of(path)}:{line} imports {module}: keys that open anything live in client/"
            )


def test_each_library_stays_in_its_room() -> None:
    wrong = []
    for path in sources():
        for line, module in imports(path):
            rooms = ROOMS.get(module.split(".")[0])
            if rooms and not name_of(path).startswith(rooms):
                wrong.append(f"{name_of(path)}:{line} imports {module}; its place is {', '.join(rooms)}")
    assert not wrong, "\n".join(wrong)


def test_time_and_randomness_enter_in_one_place() -> None:
    wrong = []
    for path in sources():
        if name_of(path) == CLOCK:
            continue
        for line, module in imports(path):
            if module.split(".")[0] in ("secrets", "random", "uuid") and not name_of(path).startswith(
                "cluster/"
            ):
                wrong.append(f"{name_of(path)}:{line} imports {module}")
        for node in ast.walk(tree(path)):
            named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if named and (node.value.id, node.attr) in CLOCK_NAMES:
                wrong.append(f"{name_of(path)}:{node.lineno} uses {node.value.id}.{node.attr}")
    assert not wrong, "\n".join(wrong)


def test_the_event_loop_is_chosen_only_at_the_entry_points() -> None:
    allowed = {"protocol/terminal.py"}
    found = {name_of(p) for p in sources() for _, m in imports(p) if m.split(".")[0] == "uvloop"}
    assert found <= allowed, found - allowed


def test_only_tests_import_cluster() -> None:
    for path in sources("protocol", "client", "node", "coordinator"):
        for line, module in imports(path):
            assert not module.startswith("holdfast.cluster"), f"{name_of(path)}:{line}"


def test_names_use_the_field_s_terms() -> None:
    wrong = []
    for path in sources():
        if NOT_NAMES.search(path.stem):
            wrong.append(name_of(path))
        for node in ast.walk(tree(path)):
            named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if named and NOT_NAMES.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.name).lower()):
                wrong.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        name_of(path) for path in sources() if path.read_text().strip() and not ast.get_docstring(tree(path))
    ]
    assert not silent, silent


def test_public_functions_and_classes_of_protocol_and_sdk_are_documented() -> None:
    silent = []
    for path in [
        *sources("protocol"),
        ROOT / "client/sdk.py",
        ROOT / "client/sync.py",
        ROOT / "cluster/local.py",
    ]:
        for node in tree(path).body:
            named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert not silent, "\n".join(silent)


def test_files_and_functions_stay_small() -> None:
    """Beyond the wish a warning, beyond the bound a failure."""
    for path in sources():
        lines = len(path.read_text().splitlines())
        assert lines <= LINES_MAX, f"{name_of(path)} has {lines} lines: split it"
        if lines > LINES_WISHED:
            warnings.warn(f"{name_of(path)} has {lines} lines", stacklevel=1)
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES_WISHED:
                    warnings.warn(f"{name_of(path)}:{node.lineno} {node.name}: {length} lines", stacklevel=1)


def test_the_package_list_is_complete() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        "holdfast." + path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for part in PARTS
        for path in (ROOT / part).rglob("*.py")
    }
    assert found == set(setuptools["packages"])
    assert all((ROOT / part / "py.typed").exists() for part in PARTS)
    assert not (ROOT / "holdfast").exists(), "it would shadow the installed namespace package"


def test_the_help_of_the_command_line_imports_nothing_heavy() -> None:
    """What `holdfast --help` loads decides how long it takes; the names are checked, not the time."""
    heavy = (
        "aiohttp,cryptography,sqlalchemy,lmdb,rich,msgspec,msgpack,blake3,reedsolo,uvloop,structlog,asyncio"
    )
    code = (
        "import sys\n"
        "from holdfast.client.console import main\n"
        "sys.argv = ['holdfast', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([m for m in '{heavy}'.split(',') if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]", done.stderr


def test_what_backup_and_restore_load_is_what_they_use() -> None:
    """Half of a small backup is Python's start: what only servers, bars or other verbs need stays out."""
    unneeded = "aiohttp,sqlalchemy,lmdb,rich,structlog,importlib.metadata,statistics,holdfast.client.check"
    code = (
        "import sys\n"
        "from holdfast.protocol.program import program_version\n"
        "from holdfast.client.command import backup, open_client, restore\n"
        "from holdfast.client import bars, show\n"
        "import holdfast.client.sdk, holdfast.client.restore\n"
        "open_client(None), program_version()\n"
        f"print([m for m in '{unneeded}'.split(',') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_nothing_names_a_machine() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    if not tracked[0]:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"/(?:work|root|farm)/[a-z]")
    for name in filter(None, tracked):
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".txt", "") and path.is_file() and path != Path(__file__):
            assert not pattern.search(path.read_text(errors="replace")), name
