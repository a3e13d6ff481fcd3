"""The native part of Lance by itself, which is all that a search needs of it.

`import lance` also loads Lance's Python part, and with it pyarrow's datasets and compute functions: 110 to 150 ms of
CPU in a new process, which take longer than a search. Searches therefore call `lance.lance`, whose classes the public
ones wrap; everything that writes uses `lance`. The names of `lance.lance` are private: where one is gone, searches go
through the public classes instead. docs/decisions/0025-what-a-first-search-loads.md has the measurements.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import lance
    import pyarrow as pa
    from lance.fragment import FragmentMetadata
    from lance.lance import _Session
    from lance.lance.indices import IndexDescription

    Session = _Session

# The lock that `import` holds while it loads a module; Python has no public name for it.
try:
    from importlib._bootstrap import _ModuleLockManager as _import_lock  # type: ignore[attr-defined]
except ImportError:
    _import_lock = None

NAME = "lance.lance"

# Lance logs developers' notes to standard error unless this is set; it is read once, when Lance is loaded.
os.environ.setdefault("LANCE_LOG", "error")  # noqa: TID251 - set before it is loaded, never read


class Fragment(Protocol):
    """A fragment of a dataset, for reading."""

    def id(self) -> int:
        """Return its number."""
        ...

    def metadata(self) -> FragmentMetadata:
        """Describe its files; loads Lance's Python part."""
        ...


class Scanner(Protocol):
    """A scan that was not started yet."""

    def to_pyarrow(self) -> pa.RecordBatchReader:
        """Start it."""
        ...


class Token(Protocol):
    """A word as a full-text index has it; `position` counts the words before it."""

    text: str
    position: int


class Dataset(Protocol):
    """One version of a dataset, for searching; `lance.LanceDataset` documents the arguments of these methods."""

    schema: pa.Schema
    has_stable_row_ids: bool

    def version(self) -> int:
        """Return the number of this version."""
        ...

    def latest_version(self) -> int:
        """Read the number of the newest version."""
        ...

    def config(self) -> Mapping[str, str]:
        """Read the dataset's configuration."""
        ...

    def count_rows(self, filter: str | None = None) -> int:  # noqa: A002 - Lance's name
        """Count the rows, tombstones included, or those that match a filter."""
        ...

    def get_fragments(self) -> Sequence[Fragment]:
        """List the fragments."""
        ...

    def describe_indices(self) -> Sequence[IndexDescription]:
        """Describe the indexes."""
        ...

    def scanner(self, **options: Any) -> Scanner:
        """Prepare a scan."""
        ...

    def take_rows(self, row_indices: list[int], columns: list[str]) -> pa.RecordBatch:
        """Read rows by their row ids, in that order."""
        ...


def new_session() -> Session:
    """Create a session: the caches that its datasets share, whichever part of Lance opens them."""
    session: Session = _native_or_public("_Session", "Session")()
    return session


def open_dataset(
    uri: str, *, version: int | None, storage_options: Mapping[str, str], session: Session
) -> Dataset:
    """Open a version of a dataset for reading (default: the newest), as `lance.dataset` does.

    Raises:
        ValueError: there is no dataset, or no such version.
    """
    opener = _native_or_public("_Dataset", "dataset")
    dataset = opener(uri, version, storage_options=dict(storage_options), session=session)
    return dataset if hasattr(dataset, "take_rows") else PublicDataset(dataset)


def tokenize(text: str, options: Mapping[str, Any]) -> Sequence[Token]:
    """Split a text into words as a full-text index with these options does; `lance.tokenize` documents them."""
    found: Sequence[Token] = _native_or_public("tokenize", "tokenize")(text, **options)
    return found


def row_ids_in(row_ids: Sequence[int]) -> str:
    """Write the filter that selects rows by their row ids, which Lance reads without a scan."""
    return f"_rowid IN ({', '.join(map(str, row_ids))})"


class PublicDataset:
    """Lance's public class as a `Dataset`, for a release of Lance whose native classes have other names."""

    def __init__(self, dataset: lance.LanceDataset) -> None:
        """Wrap an opened dataset."""
        self._dataset = dataset
        self.schema: pa.Schema = dataset.schema
        self.has_stable_row_ids: bool = dataset.has_stable_row_ids
        self.config, self.count_rows = dataset.config, dataset.count_rows
        self.describe_indices = dataset.describe_indices

    def version(self) -> int:
        """Return the number of this version."""
        return int(self._dataset.version)

    def latest_version(self) -> int:
        """Read the number of the newest version."""
        return int(self._dataset.latest_version)

    def get_fragments(self) -> Sequence[PublicFragment]:
        """List the fragments."""
        return [PublicFragment(each) for each in self._dataset.get_fragments()]

    def scanner(self, *, fragments: Sequence[PublicFragment] | None = None, **options: Any) -> PublicScanner:
        """Prepare a scan."""
        chosen = None if fragments is None else [each.fragment for each in fragments]
        return PublicScanner(self._dataset.scanner(fragments=chosen, **options))

    def take_rows(self, row_indices: list[int], columns: list[str]) -> pa.RecordBatch:
        """Read rows by their row ids, in that order."""
        rows = self._dataset.to_table(columns=columns, filter=row_ids_in(row_indices), with_row_id=True)
        places = {row_id: place for place, row_id in enumerate(rows["_rowid"].to_pylist())}
        (batch,) = rows.take([places[row_id] for row_id in row_indices]).combine_chunks().to_batches()
        return batch


@dataclass(frozen=True)
class PublicFragment:
    """A fragment of a `PublicDataset`."""

    fragment: lance.LanceFragment

    def id(self) -> int:
        """Return its number."""
        return int(self.fragment.fragment_id)

    def metadata(self) -> FragmentMetadata:
        """Describe its files."""
        return self.fragment.metadata


@dataclass(frozen=True)
class PublicScanner:
    """A scan of a `PublicDataset`."""

    scanner: lance.LanceScanner

    def to_pyarrow(self) -> pa.RecordBatchReader:
        """Start it."""
        return self.scanner.to_reader()


def _native_or_public(native: str, public: str) -> Any:
    found = getattr(_native(), native, None)
    return getattr(import_module("lance"), public) if found is None else found


@cache
def _native() -> Any:  # a module
    """Load the native part, or all of Lance if it cannot be found by itself."""
    package = find_spec("lance")  # loads nothing, as it names no module within a package
    spec = PathFinder.find_spec(NAME, package.submodule_search_locations) if package is not None else None
    if _import_lock is None or spec is None or spec.loader is None:
        return import_module(NAME)
    # Another thread may be importing Lance, and loading it twice panics.
    with _import_lock(NAME):
        if NAME not in sys.modules:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[NAME] = module
        return sys.modules[NAME]
