"""Runs at the start of every Python process that a test has given this folder (PYTHONPATH) and SABOTAGE.

SABOTAGE names a JSON file: {"edits": {module: [[before, after], ...]}, "done": a file to touch, "only": words
of which one must stand in the command line, or []}. When such a module is imported, its source is compiled
with the passages exchanged. A passage that is not there exactly once ends the process: the safeguard has
moved, and the list of them must follow.
"""

import json
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path


class _Saboteur(SourceFileLoader):
    def __init__(self, name, path, order):
        super().__init__(name, path)
        self._order = order

    def get_code(self, fullname):
        source = self.get_source(fullname) or ""
        for before, after in self._order["edits"][fullname]:
            if source.count(before) != 1:
                print(f"{fullname} does not hold this passage once:\n{before}", file=sys.stderr)
                os._exit(70)
            source = source.replace(before, after)
        Path(self._order["done"]).touch()
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, order):
        self._order = order

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in self._order["edits"]:
            return None
        found = PathFinder.find_spec(fullname, path)
        if found is None or found.origin is None:
            return None
        return ModuleSpec(fullname, _Saboteur(fullname, found.origin, self._order), origin=found.origin)


if "SABOTAGE" in os.environ:
    _order = json.loads(Path(os.environ["SABOTAGE"]).read_text())
    if not _order["only"] or set(_order["only"]) & set(sys.orig_argv):
        sys.meta_path.insert(0, _Finder(_order))
