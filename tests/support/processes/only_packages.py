"""A process that can import the packages of a set of requirements, as where nothing else is installed.

    python -m tests.support.processes.only_packages '["aiohttp", "boto3"]' program.py ARGUMENTS

`packages_of` follows what the installed packages declare.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def packages_of(requirements: Iterable[str]) -> list[str]:
    """Return the names of the installed packages that requirements lead to."""
    from packaging.requirements import Requirement

    found: set[tuple[str, str]] = set()
    left = [Requirement(each) for each in requirements]
    while left:
        wanted = left.pop()
        name = canonical(wanted.name)
        new = {(name, extra) for extra in ("", *wanted.extras)} - found
        if not new:
            continue
        found |= new
        try:
            declared = [Requirement(each) for each in requires(wanted.name) or ()]
        except PackageNotFoundError:
            continue  # of another platform
        for _, extra in new:
            left += [
                each for each in declared if each.marker is None or each.marker.evaluate({"extra": extra})
            ]
    return sorted({name for name, _ in found})


def canonical(name: str) -> str:
    """Return the name of a package in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Only(MetaPathFinder):
    """Finds nothing, and refuses top-level modules of other packages."""

    def __init__(self, packages: Iterable[str]) -> None:
        """Allow the modules of these packages; those of no package are Python's, or tests'."""
        allowed = set(packages)
        self._refused = {
            module
            for module, owners in packages_distributions().items()
            if not {canonical(each) for each in owners} & allowed
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse a module of another package.

        Raises:
            ModuleNotFoundError: it is one.
        """
        if fullname in self._refused:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def main() -> None:
    """Run a program with these packages only."""
    packages, sys.argv = json.loads(sys.argv[1]), sys.argv[2:]
    sys.meta_path.insert(0, Only(packages))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
