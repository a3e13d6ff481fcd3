"""The row cache: rows of each collection's newest version, kept by the searches of a process in bounded memory."""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowbed.index.partitions import Partitioned, partitioned
from flowbed.index.search.memory import FEWEST, building, whole_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.native import Dataset, Fragment
    from flowbed.index.search.memory import MemoryIndex, Whole

# 100,000 rows of 384 dimensions with short texts take 170 MB; without their vectors, a million rows do.
BYTES = 256 * 2**20
# Rows that each search adds until all are cached, which doubles the time of these searches.
STEP = 2_048
# Bytes that Lance may read ahead: a few steps.
READ_AHEAD = 16 * 2**20
# How much larger texts may be in memory than in their compressed files.
UNPACKED = 2
SHOWN = ("id", "document", "metadata")


class _Fragment(NamedTuple):
    """A fragment by its files, which are never written twice: a row id in them always means the same row."""

    id: int
    files: tuple[str, ...]


class _Piece(NamedTuple):
    """Rows of one fragment in ascending order of row ids; without vectors if these take too much memory."""

    fragment: _Fragment
    first: int
    row_ids: NDArray[np.uint64] | None  # None if they are consecutive
    shown: tuple[pa.Array, ...]
    vectors: NDArray[np.float32] | None
    bytes: int

    def place(self, row_id: int) -> int | None:
        """Return the position of a row id that is not below the first; None if it is not in this piece."""
        if self.row_ids is None:
            place = row_id - self.first
            return place if place < len(self.shown[0]) else None
        place = int(self.row_ids.searchsorted(np.uint64(row_id)))
        return place if place < len(self.row_ids) and self.row_ids[place] == row_id else None


Row = tuple[_Piece, int]  # a piece and a position in it


class CachedRows:
    """Cached rows of one version, by Lance's row ids."""

    def __init__(self) -> None:
        """Start empty."""
        self._held: tuple[tuple[_Piece, ...], list[int]] = ((), [])

    @property
    def pieces(self) -> tuple[_Piece, ...]:
        """All cached pieces."""
        return self._held[0]

    def put(self, pieces: Collection[_Piece]) -> None:
        """Add pieces; concurrent readers see the rows from before."""
        joined = sorted((*self.pieces, *pieces), key=lambda piece: piece.first)
        self._held = tuple(joined), [piece.first for piece in joined]

    def find(self, row_ids: Sequence[int]) -> list[Row] | None:
        """Find rows; None if one of them is not cached."""
        pieces, firsts = self._held
        found = []
        for row_id in row_ids:
            after = bisect_right(firsts, row_id)
            place = pieces[after - 1].place(row_id) if after else None
            if place is None:
                return None
            found.append((pieces[after - 1], place))
        return found


def vectors_in(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """Return the vectors of a batch without tombstones, without copying them."""
    column, dimensions = batch["vector"], batch.schema.field("vector").type.list_size
    # Not `flatten`, which loads all of pyarrow's compute functions.
    values = column.values.to_numpy(zero_copy_only=False)
    vectors: NDArray[np.float32] = values[column.offset * dimensions :][: len(column) * dimensions]
    return vectors.reshape(len(column), dimensions)


def vectors_of(rows: Sequence[Row]) -> NDArray[np.float32] | None:
    """Return the vectors of rows; None if they are not cached."""
    vectors = [piece.vectors[place] for piece, place in rows if piece.vectors is not None]
    return np.stack(vectors) if vectors and len(vectors) == len(rows) else None


def shown_of(rows: Sequence[Row]) -> list[list[str]]:
    """Return the columns that hits show, of these rows."""
    return [[piece.shown[column][place].as_py() for piece, place in rows] for column in range(len(SHOWN))]


@dataclass(kw_only=True)
class View:
    """A version that is searched: its vector index, whether that covers all fragments (`whole`), and the cached rows.

    `texts` are those of a version without a full-text index, once they were indexed in memory.
    `columns` of the fragments `missing` are still to be cached, none if there is no room. They are chosen when
    `planned`. `reading` may come from an older version that has the same fragment; the fragments `done` were read to
    the end. `held` are all rows in memory, if they are all cached: known once they were
    `counted`. `memory` is the index of these rows in memory, as far as it was built by the steps of `building`, from
    that of an older version, `memory_before`.
    """

    dataset: Dataset
    index: Partitioned | None
    whole: bool
    planned: bool = False
    columns: tuple[str, ...] = ()
    missing: dict[_Fragment, Fragment] = field(default_factory=dict)
    rows: CachedRows = field(default_factory=CachedRows)
    reading: tuple[_Fragment, Iterator[pa.RecordBatch]] | None = None
    done: set[_Fragment] = field(default_factory=set)
    searched: bool = False
    held: Whole | None = None
    counted: bool = False
    memory: MemoryIndex | None = None
    memory_before: MemoryIndex | None = None
    building: Iterator[MemoryIndex | None] | None = None
    built: bool = False
    texts: Dataset | None = None

    @property
    def complete(self) -> bool:
        """Whether everything is cached that will be."""
        return self.reading is None and not self.missing


class RowCache:
    """The cached rows of every collection's newest version."""

    def __init__(self, *, limit: int = BYTES) -> None:
        """Start empty; cache about `limit` bytes in all."""
        self._limit = limit
        self._views: dict[str, View] = {}
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """The size of the cached rows."""
        return sum(piece.bytes for view in list(self._views.values()) for piece in view.rows.pieces)

    @property
    def rows(self) -> int:
        """The number of cached rows."""
        return sum(len(piece.shown[0]) for view in list(self._views.values()) for piece in view.rows.pieces)

    def holds(self, live: Live, dataset: Dataset) -> bool:
        """Tell whether the cached rows are of this very dataset."""
        view = self._views.get(live.key)
        return view is not None and view.dataset is dataset

    def view(self, live: Live, dataset: Dataset) -> View:
        """Return the view of the newest version, with the cached rows of the previous one that still exist."""
        view = self._views.get(live.key)
        if view is None or view.dataset is not dataset:
            with self._lock:
                before = self._views.pop(live.key, None)
                if before is not None and before.dataset is dataset:  # another search was faster
                    self._views[live.key] = before
                    return before
                view = new_view(dataset)
                if before is not None and before.searched:
                    _plan(view, before, room=self._limit - self.bytes)
                self._views[live.key] = view
        return view

    def fill(self, view: View) -> None:
        """Cache some more rows, unless another search is doing so; the first search caches nothing."""
        if not view.searched:
            view.searched = True
        elif not (view.planned and view.complete and view.built) and self._lock.acquire(blocking=False):
            try:
                if not view.planned:
                    _plan(view, None, room=self._limit - self.bytes)
                if view.complete:
                    _build(view)
                elif self.bytes >= self._limit:
                    view.missing, view.reading = {}, None
                else:
                    _fill(view)
            except (OSError, ValueError):
                # Files are gone that a newer version does not use; rows that are not cached are read on demand.
                view.missing, view.reading = {}, None
            finally:
                self._lock.release()


def new_view(dataset: Dataset) -> View:
    """Describe a version without cached rows."""
    indexed = {
        number
        for index in dataset.describe_indices()
        if index.field_names == ["vector"]
        for segment in index.segments
        for number in segment.fragment_ids
    }
    return View(
        dataset=dataset,
        index=partitioned(dataset),
        whole=indexed >= {each.id() for each in dataset.get_fragments()},
    )


def _plan(view: View, before: View | None, *, room: int) -> None:
    """Choose what to cache of a version in `room` bytes; `before` is the view of the previous version.

    Reading a fragment's file names loads Lance's Python part, so it waits for the second search.
    """
    fragments = {
        _Fragment(each.id(), tuple(file.path for file in each.metadata().files)): each
        for each in view.dataset.get_fragments()
    }
    columns = _columns(view.dataset, fragments.values(), room=room)
    view.planned, view.columns, view.missing = True, columns, fragments if columns else {}
    if before is None:
        return
    view.searched = before.searched
    if before.columns == columns:
        view.memory_before = before.memory or before.memory_before
        view.done = before.done & fragments.keys()
        if before.reading is not None and before.reading[0] in fragments:
            view.reading = before.reading
        kept = view.done | ({view.reading[0]} if view.reading is not None else set())
        view.rows.put([piece for piece in before.rows.pieces if piece.fragment in kept])
        view.missing = {each: fragment for each, fragment in view.missing.items() if each not in kept}


def _columns(dataset: Dataset, fragments: Collection[Fragment], *, room: int) -> tuple[str, ...]:
    """Choose the columns that fit: with vectors, without them, or none."""
    sizes = [file.file_size_bytes for each in fragments for file in each.metadata().files]
    stored = sum(size for size in sizes if size is not None)
    # Older versions of Lance recorded no sizes. Stable row ids, which Flowbed does not use, survive an edit.
    if None in sizes or dataset.has_stable_row_ids:
        return ()
    vectors = 4 * dataset.schema.field("vector").type.list_size * dataset.count_rows()
    texts = UNPACKED * max(0, stored - vectors)
    if vectors + texts <= room:
        return (*SHOWN, "vector")
    return SHOWN if texts <= room else ()


def _fill(view: View) -> None:
    if view.reading is None:
        identity, fragment = view.missing.popitem()
        batches = view.dataset.scanner(
            columns=list(view.columns),
            filter="deleted = false",  # no search returns a tombstone, and tombstones have no vector
            fragments=[fragment],
            with_row_id=True,
            batch_size=STEP,
            batch_readahead=2,
            fragment_readahead=1,
            io_buffer_size=READ_AHEAD,
        ).to_pyarrow()
        view.reading = identity, batches
    identity, batches = view.reading
    batch = next(batches, None)
    if batch is None:
        view.done.add(identity)
        view.reading = None
    elif batch.num_rows:
        view.rows.put([_piece(identity, batch)])


def _build(view: View) -> None:
    """Build the index in memory a step further, if there are enough rows for one."""
    if view.building is None:
        large = view.index is not None and view.index.rows > FEWEST
        whole = whole_of(view) if large else None
        view.building = iter(()) if whole is None else building(whole, view.memory_before)
        return
    try:
        view.memory = next(view.building)
    except StopIteration:
        view.built, view.memory_before = True, None


def _piece(fragment: _Fragment, batch: pa.RecordBatch) -> _Piece:
    row_ids, vectors = batch["_rowid"].to_numpy(), None
    if "vector" in batch.schema.names:
        vectors = vectors_in(batch)
    return _Piece(
        fragment=fragment,
        first=int(row_ids[0]),
        row_ids=None if int(row_ids[-1] - row_ids[0]) == len(row_ids) - 1 else row_ids,
        shown=tuple(getattr(batch[name], "storage", batch[name]) for name in SHOWN),
        vectors=vectors,
        bytes=batch.nbytes,
    )
