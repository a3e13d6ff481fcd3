"""What searches keep of a collection's newest version: how its vector index covers it, and rows, in bounded memory."""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flowbed.index.partitions import Partitioned, partitioned

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.native import Dataset, Fragment

# 100,000 rows of 384 dimensions with short texts are 170 MB; without their vectors, a million of them.
BYTES = 256 * 2**20
# Each search brings in so many rows, in about the time that it takes itself, until all are here.
STEP = 2_048
# Bytes that Lance may read ahead of that: a few steps.
READ_AHEAD = 16 * 2**20
# How many times larger texts may be in memory than in their files, where they are compressed.
UNPACKED = 2
SHOWN = ("id", "document", "metadata")


class _Fragment(NamedTuple):
    """A fragment by its files, whose names are their own: what lies in them at a row id never changes."""

    id: int
    files: tuple[str, ...]


class _Piece(NamedTuple):
    """Rows of one fragment, by ascending row ids; without vectors where these take too much room."""

    fragment: _Fragment
    first: int
    row_ids: NDArray[np.uint64] | None  # None where they follow each other without a gap
    shown: tuple[pa.Array, ...]
    vectors: NDArray[np.float32] | None
    bytes: int

    def place(self, row_id: int) -> int | None:
        """Find a row that is not below the first; None where it is not here."""
        if self.row_ids is None:
            place = row_id - self.first
            return place if place < len(self.shown[0]) else None
        place = int(self.row_ids.searchsorted(np.uint64(row_id)))
        return place if place < len(self.row_ids) and self.row_ids[place] == row_id else None


Row = tuple[_Piece, int]  # where a row is held


class Rows:
    """Rows of one version, by Lance's row ids; one that is not here has to be read."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._held: tuple[tuple[_Piece, ...], list[int]] = ((), [])

    @property
    def pieces(self) -> tuple[_Piece, ...]:
        """What is here."""
        return self._held[0]

    def put(self, pieces: Collection[_Piece]) -> None:
        """Take in more; whoever looks for rows meanwhile finds what was here before."""
        joined = sorted((*self.pieces, *pieces), key=lambda piece: piece.first)
        self._held = tuple(joined), [piece.first for piece in joined]

    def find(self, row_ids: Sequence[int]) -> list[Row] | None:
        """Find rows; None where one of them is not here."""
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
    """Give the vectors of a batch that holds no tombstone, without copying them."""
    column, dimensions = batch["vector"], batch.schema.field("vector").type.list_size
    # Not `flatten`, which loads all of pyarrow's compute functions.
    values = column.values.to_numpy(zero_copy_only=False)
    vectors: NDArray[np.float32] = values[column.offset * dimensions :][: len(column) * dimensions]
    return vectors.reshape(len(column), dimensions)


def vectors_of(rows: Sequence[Row]) -> NDArray[np.float32] | None:
    """Give the vectors of rows; None where they are not held."""
    vectors = [piece.vectors[place] for piece, place in rows if piece.vectors is not None]
    return np.stack(vectors) if vectors and len(vectors) == len(rows) else None


def shown_of(rows: Sequence[Row]) -> list[list[str]]:
    """Give the columns that hits show of rows."""
    return [[piece.shown[column][place].as_py() for piece, place in rows] for column in range(len(SHOWN))]


@dataclass(kw_only=True)
class View:
    """A version that is searched: its vector index, whether that holds all its fragments, and the rows held of it.

    `columns` are brought in of the fragments `missing`; none where there is no room, and none until that is `planned`.
    What is being read may come from an older version that has the same fragment; `done` are those that were read to the
    end.
    """

    dataset: Dataset
    index: Partitioned | None
    whole: bool
    planned: bool = False
    columns: tuple[str, ...] = ()
    missing: dict[_Fragment, Fragment] = field(default_factory=dict)
    rows: Rows = field(default_factory=Rows)
    reading: tuple[_Fragment, Iterator[pa.RecordBatch]] | None = None
    done: set[_Fragment] = field(default_factory=set)
    asked: bool = False

    @property
    def complete(self) -> bool:
        """Tell whether all is here that will be."""
        return self.reading is None and not self.missing


class RowCache:
    """The newest version of each collection, as the searches of this process last met it."""

    def __init__(self, *, limit: int = BYTES) -> None:
        """Hold about `limit` bytes of rows at most, of all collections together."""
        self._limit = limit
        self._views: dict[str, View] = {}
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """How much is held."""
        return sum(piece.bytes for view in list(self._views.values()) for piece in view.rows.pieces)

    @property
    def rows(self) -> int:
        """How many rows are held."""
        return sum(len(piece.shown[0]) for view in list(self._views.values()) for piece in view.rows.pieces)

    def view(self, live: Live, dataset: Dataset) -> View:
        """Give what is known of the newest version; of what was held of the last one, it keeps what is in it still."""
        view = self._views.get(live.key)
        if view is None or view.dataset is not dataset:
            with self._lock:
                before = self._views.pop(live.key, None)
                if before is not None and before.dataset is dataset:  # another search was here first
                    self._views[live.key] = before
                    return before
                view = look(dataset)
                if before is not None and before.asked:
                    _plan(view, before, room=self._limit - self.bytes)
                self._views[live.key] = view
        return view

    def bring(self, view: View) -> None:
        """Bring in some rows of a version, unless another search is doing so; a process that asks once needs none."""
        if not view.asked:
            view.asked = True
        elif not (view.planned and view.complete) and self._lock.acquire(blocking=False):
            try:
                if not view.planned:
                    _plan(view, None, room=self._limit - self.bytes)
                if self.bytes >= self._limit:
                    view.missing, view.reading = {}, None
                elif not view.complete:
                    _bring(view)
            except (OSError, ValueError):
                # Files are gone that a newer version does without: what is not held is read when it is asked for.
                view.missing, view.reading = {}, None
            finally:
                self._lock.release()


def look(dataset: Dataset) -> View:
    """Describe a version, of which nothing is held yet."""
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
    """Decide what will be held of a version in so many bytes; `before` is the one that was the newest until now.

    Lance tells the files of a fragment through its Python part, which only a second search waits for.
    """
    fragments = {
        _Fragment(each.id(), tuple(file.path for file in each.metadata().files)): each
        for each in view.dataset.get_fragments()
    }
    columns = _columns(view.dataset, fragments.values(), room=room)
    view.planned, view.columns, view.missing = True, columns, fragments if columns else {}
    if before is None:
        return
    view.asked = before.asked
    if before.columns == columns:
        view.done = before.done & fragments.keys()
        if before.reading is not None and before.reading[0] in fragments:
            view.reading = before.reading
        kept = view.done | ({view.reading[0]} if view.reading is not None else set())
        view.rows.put([piece for piece in before.rows.pieces if piece.fragment in kept])
        view.missing = {each: fragment for each, fragment in view.missing.items() if each not in kept}


def _columns(dataset: Dataset, fragments: Collection[Fragment], *, room: int) -> tuple[str, ...]:
    """Choose the columns for which there is room: with vectors, without them, or none."""
    sizes = [file.file_size_bytes for each in fragments for file in each.metadata().files]
    stored = sum(size for size in sizes if size is not None)
    # What older versions of Lance wrote does not tell its size. Stable row ids, which ours are not, outlive an edit.
    if None in sizes or dataset.has_stable_row_ids:
        return ()
    vectors = 4 * dataset.schema.field("vector").type.list_size * dataset.count_rows()
    texts = UNPACKED * max(0, stored - vectors)
    if vectors + texts <= room:
        return (*SHOWN, "vector")
    return SHOWN if texts <= room else ()


def _bring(view: View) -> None:
    if view.reading is None:
        identity, fragment = view.missing.popitem()
        batches = view.dataset.scanner(
            columns=list(view.columns),
            filter="deleted = false",  # no search finds a tombstone, and none has a vector
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
