"""The native part of Lance by itself, which is all that a search needs of it.

`import lance` also loads Lance's Python part, and with it pyarrow's own datasets and compute functions: in a new
process that asks one question they take longer than the question does. What searches call is therefore `lance.lance`,
whose classes Lance's own are thin covers of; everything that writes uses `lance`.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from lance.fragment import FragmentMetadata
    from lance.lance import _Session
    from lance.lance.indices import IndexDescription

    Session = _Session

# What `import` holds while it loads the module of a name; Python has no public name for it.
try:
    from importlib._bootstrap import _ModuleLockManager as _importing  # type: ignore[attr-defined]
except ImportError:
    _importing = None

NAME = "lance.lance"

# Lance's own log writes notes for its developers to standard error; it reads this once, when it is loaded.
os.environ.setdefault("LANCE_LOG", "error")  # noqa: TID251 - set before it is loaded, never read


class Fragment(Protocol):
    """A fragment as it is read."""

    def id(self) -> int:
        """Give its number."""
        ...

    def metadata(self) -> FragmentMetadata:
        """Describe its files; which loads Lance's Python part."""
        ...


class Scanner(Protocol):
    """What a scan finds, before it is read."""

    def to_pyarrow(self) -> pa.RecordBatchReader:
        """Read it."""
        ...


class Dataset(Protocol):
    """One version of a dataset, as it is searched; see `lance.LanceDataset` for what its methods take."""

    schema: pa.Schema
    has_stable_row_ids: bool

    def version(self) -> int:
        """Give the number of this version."""
        ...

    def latest_version(self) -> int:
        """Ask for the number of the newest version."""
        ...

    def config(self) -> Mapping[str, str]:
        """Read what was configured for the dataset."""
        ...

    def count_rows(self) -> int:
        """Count the rows, tombstones too."""
        ...

    def get_fragments(self) -> Sequence[Fragment]:
        """List the fragments."""
        ...

    def describe_indices(self) -> Sequence[IndexDescription]:
        """Describe the indexes."""
        ...

    def scanner(self, **how: Any) -> Scanner:  # two dozen options, of which a search uses a few
        """Begin a scan."""
        ...

    def take_rows(self, row_indices: list[int], columns: list[str]) -> pa.RecordBatch:
        """Read rows by their row ids, in that order."""
        ...


def new_session() -> Session:
    """Begin a session: what datasets that are opened in it, through either part of Lance, keep in memory."""
    session: Session = _native()._Session()  # noqa: SLF001 - see above
    return session


def open_dataset(
    uri: str, *, version: int | None, storage_options: Mapping[str, str], session: Session
) -> Dataset:
    """Open a version of a dataset for reading, the newest where none is named, as `lance.dataset` does.

    Raises:
        ValueError: there is no dataset, or no such version.
    """
    dataset: Dataset = _native()._Dataset(  # noqa: SLF001 - see above
        uri, version, storage_options=dict(storage_options), session=session
    )
    return dataset


@cache
def _native() -> Any:  # a module
    """Load the native part; with all of Lance, where it cannot be found by itself."""
    package = find_spec("lance")  # which loads nothing, as it names no module within a package
    spec = PathFinder.find_spec(NAME, package.submodule_search_locations) if package is not None else None
    if _importing is None or spec is None or spec.loader is None:
        return import_module(NAME)
    # Another thread may be importing Lance, and a second load ends in a panic.
    with _importing(NAME):
        if NAME not in sys.modules:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[NAME] = module
        return sys.modules[NAME]
